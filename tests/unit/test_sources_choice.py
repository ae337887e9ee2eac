"""Which source a reference gets."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from stager.errors import InvalidReference
from stager.reference import parse
from stager.sources import Deferred, HttpSettings, source_for
from stager.sources.mirrors import MirroredSource, RecentFailures
from tests.support.fake_clock import FakeClock
from tests.support.scripted_source import ScriptedSource, Version
from tests.support.source_trees import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SETTINGS = HttpSettings(token_file="/etc/token")


def chosen(text: str, mirrors: Mapping[str, Sequence[str]]) -> list[Any]:
    source: Any = source_for(parse(text), SETTINGS, mirrors)
    return [s for _, s in source._sources] if isinstance(source, MirroredSource) else [source]


def places(text: str, mirrors: Mapping[str, Sequence[str]]) -> list[str]:
    return [getattr(source, "_url", source.name) for source in chosen(text, mirrors)]


def test_by_scheme() -> None:
    assert type(source_for(parse("/shared/x.sif"), SETTINGS)).__name__ == "FileSource"
    assert type(source_for(parse("https://host/x.sif"), SETTINGS)).__name__ == "HttpSource"


@pytest.mark.parametrize(
    ("text", "mirrors", "expected"),
    [
        ("https://h/a/x?k=1", {"https://h/": ["http://m:8/base/"]}, ["http://m:8/base/a/x?k=1"]),
        ("https://h/a/x", {"https://h": ["http://m"]}, ["http://m/a/x"]),
        ("https://h/a/x", {"https://h/a": ["http://m", "http://n/"]}, ["http://m/x", "http://n/x"]),
        ("https://h/a/x", {"https://h": ["http://m"], "https://h/a": ["http://n"]}, ["http://n/x"]),
        ("https://h.evil/x", {"https://h": ["http://m"]}, []),
        ("https://h/ab/x", {"https://h/a": ["http://m"]}, []),
        ("http://h/x", {"https://h": ["http://m"]}, []),
        ("https://h/a%20b/x?k=1", {"https://h": ["/mirror/"]}, ["/mirror/a b/x"]),
        ("https://h/x", {"https://h": ["file:///mirror"]}, ["/mirror/x"]),
        ("https://h/../etc/passwd", {"https://h": ["/mirror"]}, []),
        ("https://h/%2e%2e/etc/passwd", {"https://h": ["/mirror", "http://m"]}, ["http://m/%2e%2e/etc/passwd"]),
        ("https://h/x%00", {"https://h": ["/mirror"]}, []),
        ("/h/x", {"/h": ["/mirror"]}, []),
    ],
)
def test_mirrors(text: str, mirrors: dict[str, list[str]], expected: list[str]) -> None:
    assert places(text, mirrors) == [*expected, parse(text).location]


def test_a_pin_is_none_of_the_mirrors_business() -> None:
    pin = "@sha256:" + "0" * 64
    assert places(f"https://h/x{pin}", {"https://h": ["http://m"]}) == ["http://m/x", "https://h/x"]


def test_mirrors_do_not_get_the_token() -> None:
    mirror, origin = chosen("https://h/x", {"https://h": ["http://m"]})
    assert (mirror._settings.token_file, origin._settings.token_file) == ("", "/etc/token")


def test_a_mirror_that_is_none() -> None:
    with pytest.raises(InvalidReference):
        source_for(parse("https://h/x"), SETTINGS, {"https://h": ["gopher://m"]})


def test_memory_is_shared() -> None:
    memory = RecentFailures(FakeClock())
    source: Any = source_for(parse("https://h/x"), SETTINGS, {"https://h": ["http://m"]}, memory)
    assert source._memory is memory


def test_a_file_needs_no_http_library() -> None:
    code = "import sys; from stager.sources import *; from stager.reference import parse; "
    code += "source_for(parse('/x'), HttpSettings()); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"requests", "urllib3", "ssl"} & set(run.stdout.split())


def test_a_deferred_source_is_made_once_and_late() -> None:
    made: list[ScriptedSource] = []

    def make() -> ScriptedSource:
        made.append(ScriptedSource(Version(b"image")))
        return made[-1]

    source = Deferred(make)
    assert not made
    stream = source.open(2)
    assert stream is not None
    assert b"".join(stream.chunks()) == b"age"
    assert (source.name, len(made)) == (made[0].name, 1)


def test_what_speaks_http_is_not_imported_before_it_is_asked() -> None:
    code = "import sys; from stager.sources import *; from stager.reference import parse; "
    code += "Deferred(lambda: source_for(parse('http://h/x'), HttpSettings())); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"requests", "urllib3", "ssl", "tenacity"} & set(run.stdout.split())
