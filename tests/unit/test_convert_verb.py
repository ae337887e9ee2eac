"""Where `convert` puts its result: as a whole or not at all, and over nothing that is there."""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from hashlib import sha256
from os import mkfifo
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from stager.cli import registries
from stager.cli.boundary import Interrupted
from stager.cli.parser import parse
from stager.cli.registries import Converted
from stager.errors import (
    AccessDenied,
    ConfigError,
    InvalidReference,
    NoSpace,
    NotFound,
    OriginUnavailable,
    StageImageError,
    UsageError,
)
from stager.reference import Digest
from stager.store.partial import Partial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stager.cli.node import Node
    from stager.interfaces import Teller
    from stager.layers.options import Options
    from stager.reference import Reference

CONTENT = b"made" * 1000
SRC = "docker://registry.test/lab/tool:2"
MANIFEST = Digest("ab" * 32)


class Fake:
    """Stands for registries.convert; `during` is called once the bytes are written."""

    def __init__(self) -> None:
        self.during: Callable[[], None] = lambda: None
        self.asked: list[tuple[str, Options]] = []
        self.platforms: list[str] = []

    def __call__(self, node: Node, reference: Reference, dest: str, *, options: Options, tell: Teller) -> Converted:
        assert tell is not None
        self.asked.append((reference.location, options))
        self.platforms.append(node.config.platform)
        with open(dest, "wb") as file:
            file.write(CONTENT)
        self.during()
        return Converted(Digest(sha256(CONTENT).hexdigest()), len(CONTENT), MANIFEST, "merge=1 x=y")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setenv("STAGE_IMAGE_STORE", str(tmp_path / "store"))
    made = Fake()
    with mock.patch.object(registries, "convert", made):
        yield made


def convert(*words: str) -> int:
    arguments = parse(["convert", *words])
    code: int = arguments.run(arguments)
    return code


def test_the_file_is_there_and_its_path_on_stdout(fake: Fake, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert convert(SRC, "a.sqsh") == 0
    assert os.listdir() == ["a.sqsh"]
    assert capfdbinary.readouterr().out == os.fsencode(os.path.abspath("a.sqsh")) + b"\n"
    with open("a.sqsh", "rb") as file:
        assert file.read() == CONTENT
    assert fake.asked[0][0] == SRC


def test_the_answer_in_json(fake: Fake, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    del fake
    assert convert("--json", SRC, "a.sqsh") == 0
    assert json.loads(capfdbinary.readouterr().out) == {
        "path": os.path.abspath("a.sqsh"),
        "digest": "sha256:" + sha256(CONTENT).hexdigest(),
        "size": len(CONTENT),
        "manifest": str(MANIFEST),
        "parameters": "merge=1 x=y",
    }


@pytest.mark.parametrize(
    ("words", "set_", "chosen"),
    [
        ((), {}, ("zstd", None)),
        (("--level=19",), {}, ("zstd", 19)),
        (("--compression=gzip",), {"CONVERT_LEVEL": "19"}, ("gzip", None)),
        (("--compression=gzip", "--level=9"), {"CONVERT_LEVEL": "19"}, ("gzip", 9)),
        ((), {"CONVERT_COMPRESSION": "lz4"}, ("lz4", None)),
        (("--level", "3"), {"CONVERT_COMPRESSION": "gzip"}, ("gzip", 3)),
    ],
)
def test_compression_and_level(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], set_: dict[str, str], chosen: tuple[str, int]
) -> None:
    for name, value in set_.items():
        monkeypatch.setenv(f"STAGE_IMAGE_{name}", value)
    convert(*words, SRC, "a.sqsh")
    options = fake.asked[0][1]
    assert (options.compression, options.level) == chosen


def test_the_platform_is_the_one_asked_for(fake: Fake) -> None:
    convert("--platform=linux/arm64", SRC, "a.sqsh")
    assert fake.platforms == ["linux/arm64"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--compression=rar", SRC, "a"), ConfigError),
        (("--compression=gzip", "--level=10", SRC, "a"), ConfigError),
        (("--compression=xz", "--level=1", SRC, "a"), ConfigError),
        (("--level=x", SRC, "a"), ConfigError),
        (("--platform=a b", SRC, "a"), ConfigError),
        (("https://example.org/tool.sif", "a"), UsageError),
        (("/shared/tool.sqsh", "a"), UsageError),
        (("tool.sif", "a"), UsageError),
        (("oras://registry.test/tool:1", "a"), UsageError),
        (("library://a/b/c:1", "a"), UsageError),
        (("ftp://example.org/x", "a"), InvalidReference),
        ((SRC, "."), UsageError),
        (("--force", SRC, "."), UsageError),
        ((SRC, "no/such/folder/a"), AccessDenied),
        ((SRC, "/dev/null/a"), AccessDenied),
        ((SRC, "n" * 250 + "/a"), AccessDenied),
    ],
)
def test_what_is_refused_before_anything_is_fetched(
    fake: Fake, words: tuple[str, ...], error: type[StageImageError]
) -> None:
    with pytest.raises(error):
        convert(*words)
    assert (fake.asked, os.listdir()) == ([], [])


@pytest.mark.parametrize("there", ["file", "link", "broken link"])
def test_what_is_there_is_replaced_by_force_alone(fake: Fake, there: str) -> None:
    if there == "file":
        open("a.sqsh", "w").close()
    else:
        os.symlink("other" if there == "link" else "nowhere", "a.sqsh")
        open("other", "w").close()
    before = sorted(os.listdir())
    with pytest.raises(UsageError, match="is there already"):
        convert(SRC, "a.sqsh")
    assert (fake.asked, sorted(os.listdir())) == ([], before)
    assert convert("--force", SRC, "a.sqsh") == 0
    assert stat.S_ISREG(os.lstat("a.sqsh").st_mode)
    assert sorted(os.listdir()) == before
    assert there == "file" or os.stat("other").st_size == 0


def test_what_comes_there_meanwhile_stays(fake: Fake) -> None:
    def other() -> None:
        with open("a.sqsh", "w", encoding="ascii") as file:
            file.write("theirs")

    fake.during = other
    with pytest.raises(UsageError, match="is there already"):
        convert(SRC, "a.sqsh")
    with open("a.sqsh", encoding="ascii") as file:
        assert file.read() == "theirs"
    assert os.listdir() == ["a.sqsh"]


@pytest.mark.parametrize("raced", [False, True])
def test_a_file_system_without_hard_links(fake: Fake, raced: bool) -> None:
    def refuse(*_paths: str) -> None:
        if raced:
            open("a.sqsh", "w").close()
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    del fake
    with mock.patch("os.link", refuse), suppress(UsageError):
        convert(SRC, "a.sqsh")
    assert os.listdir() == ["a.sqsh"]
    assert os.stat("a.sqsh").st_size == (0 if raced else len(CONTENT))


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_is_that_of_any_file(fake: Fake, mask: int) -> None:
    del fake
    old = os.umask(mask)
    try:
        convert(SRC, "a.sqsh")
        assert os.umask(mask) == mask
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat("a.sqsh").st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(
    "ending", [OriginUnavailable("it broke"), Interrupted(15), KeyboardInterrupt(), MemoryError(), NotFound("no")]
)
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_nothing_is_left_however_it_ends(fake: Fake, ending: BaseException, force: list[str]) -> None:
    def end() -> None:
        assert len(os.listdir()) == 1
        raise ending

    fake.during = end
    with pytest.raises(type(ending)) as caught:
        convert(*force, SRC, "a.sqsh")
    assert os.listdir() == []
    if isinstance(caught.value, StageImageError):
        assert caught.value.reference == SRC


def test_a_full_disk_is_told_of(fake: Fake) -> None:
    def fill() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fake.during = fill
    with pytest.raises(NoSpace, match=r"a\.sqsh cannot be made: No space left on device"):
        convert(SRC, "a.sqsh")


def test_the_stores_troubles_are_not_the_results(fake: Fake) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/store/blobs/x")

    fake.during = refuse
    with pytest.raises(PermissionError):
        convert(SRC, "a.sqsh")


def test_a_long_name_has_room_for_what_is_written_first(fake: Fake) -> None:
    del fake
    name = "ä" * 127
    assert convert(SRC, name) == 0
    assert os.listdir() == [name]


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_what_another_put_in_its_place_is_not_written_to(tmp_path: Path, kind: str) -> None:
    """He would still have it open, and its mode was changed by its name: for root, that of whatever a link leads to."""
    victim, dest = tmp_path / "victim", tmp_path / "dest"
    victim.write_bytes(b"his")
    if kind == "link":
        dest.symlink_to(victim)
    elif kind == "fifo":
        mkfifo(dest)
    else:
        dest.touch()
    partial = Partial(str(tmp_path / "copy"))
    with pytest.raises(FileExistsError):
        registries._copy(partial, str(dest))
    partial.close()
    assert victim.read_bytes() == b"his"


def test_the_name_to_be_written_is_not_shown_before(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    real = os.open

    def noted(path: str, *how: int) -> int:
        shown.append(path)
        return real(path, *how)

    written: list[set[str]] = []
    fake.during = lambda: written.append(set(os.listdir()))
    monkeypatch.setattr(os, "open", noted)
    assert convert(SRC, "a.sqsh") == 0
    assert written[0]
    assert not written[0] & {os.path.basename(path) for path in shown}
