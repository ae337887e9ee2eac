"""Names in Singularity libraries, what libraries say, and where their tokens are kept."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stager.container_references import library_parts
from stager.errors import ConfigError, InvalidReference, OriginUnavailable
from stager.reference import Digest
from stager.reference import parse as parse_reference
from stager.sources import library_metadata as metadata
from stager.sources.library_remotes import is_here, read, token_for
from stager.sources.library_settings import LibraryName, library_pin, parse

if TYPE_CHECKING:
    from pathlib import Path

HEX = "ab" * 32

SINGULARITY = f"""\
Active: SylabsCloud
Remotes:
  DinosaurCloud:
    URI: 127.0.0.1:8443
    Token: 8c5ea955d96570000c72f9609a3afcf60986abf1
    System: false
    Exclusive: false
    Insecure: true
  SylabsCloud:
    URI: cloud.sylabs.io
    Token: eyJhbGciOiJSUzI1NiJ9.{"A" * 300}.{"b" * 300}
    System: true
    Exclusive: false
    Keyservers:
    - URI: https://keys.sylabs.io
      Token: not-this
      Insecure: false
  late:
    URI: https://late.example
    Token: of-late
Credentials:
- URI: docker://docker.io
  Auth: Basic bm90OnRoaXM=
  Insecure: false
"""

WIDE = """\
# written by hand
Active: "lab"
Remotes:
    'lab':
        URI: "https://library.example:5000/"
        Token: 'abc.def-_'   # ours
        System: false
    other:
        Token: first
        URI: library.example:5000
"""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alpine", LibraryName("", "alpine", "latest")),
        ("library://alpine:3.18", LibraryName("", "alpine", "3.18")),
        ("library:///lab/tools/blast:2.1", LibraryName("", "lab/tools/blast", "2.1")),
        ("tools/blast", LibraryName("", "tools/blast", "latest")),
        ("Host/lab/tools/blast:1", LibraryName("host", "lab/tools/blast", "1")),
        ("lib.example/tools/blast", LibraryName("lib.example", "tools/blast", "latest")),
        ("lib.example/lab/tools/blast", LibraryName("lib.example", "lab/tools/blast", "latest")),
        ("localhost:5000/tools/blast:1", LibraryName("localhost:5000", "tools/blast", "1")),
        (f"a/b/c:sha256.{HEX}", LibraryName("", "a/b/c", f"sha256.{HEX}")),
    ],
)
def test_names(text: str, name: LibraryName) -> None:
    assert parse(text) == name
    assert parse(str(name)) == name


@pytest.mark.parametrize("text", ["l.x/a", "l.x/a/b", "l.x/a/b/c", "a/b/c", "h:1/a", "localhost/a/b", "1.2/a:t", "a.b"])
def test_the_host_that_is_asked_is_the_one_that_a_site_allows(text: str) -> None:
    """Else `library://l.x/` allowed what an entity of that name has in another library."""
    host, parts, _ = library_parts(parse_reference(f"library://{text}").location)
    asked = parse(parse_reference(f"library://{text}").location)
    assert (asked.host, asked.path) == (host, "/".join(parts))


@pytest.mark.parametrize(
    "text",
    [
        *("", ":1", "a/b/c/d/e", "a//c", "a/../c", "..", "a:", "a:b:c", "a b", "a?x=1", "a#x", "a:%2e", "-a"),
        *("h:0/a/b/c", "h:99999/a", "user@lib.example/a", "[::1]/a/b/c", "a/b\n", "ä", "x.y-:1/a"),
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse(text)


def test_pins() -> None:
    assert library_pin(f"library://a/b/c:sha256.{HEX}") == Digest(HEX)
    assert library_pin("library://a/b/c:latest") is None
    assert library_pin(f"library://a/b/c:sha256.{HEX[:-1]}") is None


def test_remotes() -> None:
    found = read(SINGULARITY)
    assert found["Active",] == "SylabsCloud"
    assert found["Remotes", "DinosaurCloud", "Token"] == "8c5ea955d96570000c72f9609a3afcf60986abf1"
    assert found["Remotes", "SylabsCloud", "Exclusive"] == "false"
    assert found["Remotes", "late", "Token"] == "of-late"
    assert "not-this" not in found.values()
    assert not any("Basic" in value for value in found.values())


@pytest.mark.parametrize(
    "text", ["", "\0", "- a\n- b: c\n", "a", "::::", "a:\n- b\n  c: d\n", "{a: b", "\t\tb: c", "- " * 99]
)
def test_anything_may_be_in_the_file(text: str) -> None:
    assert isinstance(read(text), dict)


def put(home: Path, text: str, mode: int = 0o600, folder: str = ".singularity") -> dict[str, str]:
    (home / folder).mkdir(exist_ok=True)
    path = home / folder / "remote.yaml"
    path.write_text(text)
    path.chmod(mode)
    return {"HOME": str(home)}


def test_tokens(tmp_path: Path) -> None:
    environ = put(tmp_path, SINGULARITY)
    assert token_for("https://library.sylabs.io", environ).startswith("eyJ")
    assert token_for("https://127.0.0.1:8443", environ).startswith("8c5e")
    assert token_for("http://127.0.0.1:8443", environ).startswith("8c5e")
    assert token_for("https://late.example", environ) == "of-late"
    assert token_for("https://late.example:444", environ) == ""
    assert token_for("http://late.example", environ) == ""
    assert token_for("https://keys.sylabs.io", environ) == ""
    assert token_for("https://sylabs.io", environ) == ""


def test_the_active_remote_comes_first(tmp_path: Path) -> None:
    assert token_for("https://library.example:5000", put(tmp_path, WIDE)) == "abc.def-_"


def test_apptainers_file_comes_first_and_may_lie_elsewhere(tmp_path: Path) -> None:
    put(tmp_path, "Remotes:\n  a:\n    URI: h.example\n    Token: singularity\n")
    environ = put(tmp_path, "Remotes:\n  a:\n    URI: h.example\n    Token: apptainer\n", folder=".apptainer")
    assert token_for("https://h.example", environ) == "apptainer"
    assert token_for("https://h.example", {**environ, "APPTAINER_CONFIGDIR": str(tmp_path)}) == "singularity"
    assert token_for("https://h.example", {}) == ""


@pytest.mark.parametrize("token", ["a b", "a\\r\\nX: y", "", "ä"])
def test_what_is_no_token_is_not_sent(tmp_path: Path, token: str) -> None:
    environ = put(tmp_path, f'Remotes:\n  a:\n    URI: h.example\n    Token: "{token}"\n')
    assert token_for("https://h.example", environ) == ""


def test_a_file_that_others_may_read(tmp_path: Path) -> None:
    environ = put(tmp_path, SINGULARITY, 0o644)
    assert token_for("https://other.example", environ) == ""
    with pytest.raises(ConfigError, match="others may read"):
        token_for("https://late.example", environ)


def test_a_fifo_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / ".apptainer").mkdir()
    os.mkfifo(tmp_path / ".apptainer" / "remote.yaml")
    assert token_for("https://h.example", {"HOME": str(tmp_path)}) == ""


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"data": 1}', b'{"data": {"hash": 1}}', b"<html>", b"[" * 100_000, b"\xff"]
)
def test_answers_that_are_none(data: bytes) -> None:
    with pytest.raises(OriginUnavailable, match="does not answer like a library"):
        metadata.read(data, "h")
    assert metadata.reason(data) == ""


def test_words_of_a_library_are_shown_as_they_may_be() -> None:
    assert metadata.reason(b'{"error": {"message": "no\\u001b[31m\\nsuch"}}') == "no\\x1b[31m\\nsuch"
    assert len(metadata.reason(b'{"error": {"message": "' + b"x" * 10_000 + b'"}}')) == 120


@pytest.mark.parametrize(("insecure", "token"), [("false", ""), ("true", "abc")])
def test_plain_http_gets_a_token_only_where_the_remote_says_so(tmp_path: Path, insecure: str, token: str) -> None:
    environ = put(tmp_path, f"Remotes:\n  a:\n    URI: h.example\n    Token: abc\n    Insecure: {insecure}\n")
    assert token_for("http://h.example", environ) == token
    assert token_for("https://h.example", environ) == "abc"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_this_very_machine(host: str) -> None:
    assert is_here(host)


@pytest.mark.parametrize("host", ["127.0.0.1.example.org", "127.example.org", "10.0.0.1", ""])
def test_other_machines(host: str) -> None:
    """None of them is asked without TLS, nor shown a token there."""
    assert not is_here(host)
