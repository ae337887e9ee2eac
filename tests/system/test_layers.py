"""Images that come of layers, with umoci and the kernel as judges of what they should be."""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from stager import layers, trailer
from stager.errors import ConverterMissing, NoSpace, StageImageError, StoreUnusable
from stager.layers import mksquashfs
from stager.layers.tree import Tree
from stager.oci import ContainerConfig
from tests.support.converting import converted, indexed
from tests.support.layer_strategies import layer_lists, listing, same
from tests.support.layered_images import (
    SPARSE_FORMS,
    Entry,
    Layer,
    device,
    directory,
    file,
    hardlink,
    image,
    layer,
    oci_layout,
    sparse,
    symlink,
    whiteout,
)
from tests.support.mounting import forked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

pytestmark = [pytest.mark.needs("mksquashfs", "unsquashfs")]


def unpacked(squashfs: Path, dest: Path) -> dict[str, tuple[object, ...]]:
    subprocess.run(["unsquashfs", "-q", "-n", "-d", dest, squashfs], check=True, capture_output=True, timeout=60)
    return listing(dest)


def unpacked_by_umoci(built: Sequence[Layer], folder: Path) -> dict[str, tuple[object, ...]] | None:
    """Return what umoci makes of layers, or None where it refuses them."""
    oci_layout(folder / "layout", [image(built)])
    command = ["umoci", "unpack", "--image", f"{folder}/layout:latest", f"{folder}/bundle"]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    return listing(folder / "bundle" / "rootfs") if done.returncode == 0 else None


def accepted(described: Sequence[Sequence[Entry]]) -> tuple[list[list[Entry]], list[list[Entry]] | None]:
    """Return the layers without what we refuse, and, if there is any, the layers up to what is refused last."""
    taken: list[list[Entry]] = []
    refused = None
    for entries in described:
        taken.append([])
        for entry in entries:
            trial = [*taken[:-1], [*taken[-1], entry]]
            if applies(trial):
                taken = trial
            else:
                refused = trial
    return taken, refused


def applies(described: Sequence[Sequence[Entry]]) -> bool:
    tree = Tree()
    try:
        for number, entries in enumerate(described):
            for entry in indexed(layer(entries, "plain")).entries:
                tree.apply(entry, number)
    except StageImageError:
        return False
    return True


@pytest.mark.needs("root", "umoci")
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(layer_lists)
def test_images_hold_what_umoci_unpacks(tmp_path_factory: pytest.TempPathFactory, described: list[list[Entry]]) -> None:
    folder = tmp_path_factory.mktemp("layers")
    since = time.time()
    taken, refused = accepted(described)
    built = [layer(entries) for entries in taken]
    theirs = unpacked_by_umoci(built, folder)
    assert theirs is not None
    ours = unpacked(converted(built, folder / "image"), folder / "ours")
    assert same(ours, theirs, since), (ours, theirs)
    if refused:
        assert unpacked_by_umoci([layer(entries) for entries in refused], folder / "refused") is None
    shutil.rmtree(folder)


PIECES = [(0, b"a" * 512), (4096, b"b" * 512), (1 << 20, b"c" * 10)]
EVERYTHING = [
    layer(
        [
            directory("./", mode=0o1711, uid=7, gid=70_000, mtime=99),
            directory("d", mode=0o2755),
            file(
                "d/f",
                b"hello",
                mode=0o4755,
                xattrs={"user.x": b"\0\1\n=", "security.capability": b"\1\0\0\2" + bytes(16)},
            ),
            hardlink("h", "d/f"),
            symlink("s" * 150, "x" * 150),
            hardlink("link-to-link", "s" * 150),
            device("c", "c", 1, 300),
            file(b"\xff a\nb", b"odd", uid=3_000_000, mtime=-5),
            *(sparse(f"sparse{form}", 2 << 20, PIECES, form) for form in SPARSE_FORMS),
        ]
    ),
    layer([whiteout("d/f"), file("new", os.urandom(300_000)), file("implicit/x")], "zstd"),
]


@pytest.mark.needs("root", "loop")
def test_the_kernel_shows_it(tmp_path: Path) -> None:
    config = ContainerConfig(env=("A=b",))
    built = converted(EVERYTHING, tmp_path / "image", config=config)
    found = in_kernel(built, tmp_path, listing)
    assert found["."][:4] == ("0o41711", 7, 70_000, 99)
    assert found["d"][0] == "0o42755"
    assert found["h"][0] == "0o104755"
    assert dict(found["h"][6])["user.x"] == b"\0\1\n="  # type: ignore[call-overload]
    assert "security.capability" in dict(found["h"][6])  # type: ignore[call-overload]
    assert found["c"][4] == os.makedev(1, 300)
    assert found["link-to-link"][7] == found["s" * 150][7]
    assert found[os.fsdecode(b"\xff a\nb")][1:4] == (3_000_000, 0, 0)
    whole = bytearray(2 << 20)
    for offset, data in PIECES:
        whole[offset : offset + len(data)] = data
    assert {found[f"sparse{form}"][5] for form in SPARSE_FORMS} == {hashlib.sha256(whole).hexdigest()}
    assert found["implicit"][:4] == ("0o40755", 0, 0, 0)
    with built.open("rb") as opened:
        used = int.from_bytes(opened.read(96)[40:48], "little")
        assert trailer.read(opened.fileno(), used) == config


def in_kernel(squashfs: Path, folder: Path, look: Callable[[Path], T]) -> T:
    """Return what is to be seen of it, mounted below `folder` and in no other process."""
    mountpoint = folder / "mountpoint"
    mountpoint.mkdir(exist_ok=True)

    def seen() -> T:
        _unshare()
        command = ["mount", "-t", "squashfs", "-o", "loop,ro", str(squashfs), str(mountpoint)]
        subprocess.run(command, check=True, timeout=30)
        try:
            return look(mountpoint)
        finally:
            subprocess.run(["umount", mountpoint], check=True, timeout=30)

    return forked(seen)


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x0002_0000) == 0
    assert libc.mount(None, b"/", None, 16384 | 1 << 18, None) == 0


def test_same_bytes_whenever_and_by_however_many_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = layer([file(f"f{number}", os.urandom(number * 37 % 3000) + b"abc" * number) for number in range(1000)])
    built = [*EVERYTHING, many]
    digests = set()
    for processors in (1, 2, 7):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, count=processors: range(count))
        made = converted(built, tmp_path / "image")
        digests.add(hashlib.sha256(made.read_bytes()).hexdigest())
        second = int(time.time())
        while int(time.time()) == second:
            time.sleep(0.05)
    assert len(digests) == 1


@pytest.mark.needs("root", "user-python")
def test_same_bytes_for_every_user(tmp_path: Path) -> None:
    ours = hashlib.sha256(converted(EVERYTHING, tmp_path / "image").read_bytes()).hexdigest()
    assert forked(lambda: _as_user(tmp_path)) == ours


def _as_user(folder: Path) -> str:
    os.chmod(folder, 0o777)
    for parent in folder.parents[:2]:
        os.chmod(parent, 0o755)
    os.setgid(12_345)
    os.setuid(12_345)
    return hashlib.sha256(converted(EVERYTHING, folder / "theirs").read_bytes()).hexdigest()


class CancelledError(Exception):
    pass


def children() -> set[int]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as listed:
        return set(map(int, listed.read().split()))


BIG = layer([file(f"f{number}", os.urandom(1 << 20)) for number in range(24)], "plain")


def test_cancelled_it_leaves_nothing(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    before = children()
    shown: list[int] = []

    def check() -> None:
        if children() - before and shown and shown[-1] > 4 << 20:
            raise CancelledError

    with pytest.raises(CancelledError):
        converted([BIG], work / "image", progress=lambda done, _total: shown.append(done), check=check)
    assert children() == before
    assert list(work.iterdir()) == []


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.system.test_layers import BIG, children, converted
def progress(done, total):
    if done > 4 << 20:
        print(*children(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
converted([BIG], Path(sys.argv[1]), progress=progress)
"""


def test_killed_it_leaves_no_process(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", KILLED, str(tmp_path / "image"), root]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")


def test_the_tool_fails_or_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "mksquashfs"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr(mksquashfs, "SEARCH_PATH", "/nowhere")
    with pytest.raises(ConverterMissing, match="not installed"):
        layers.parameters(layers.Options())
    for script, error, words in (
        ("echo mksquashfs version 4.4", ConverterMissing, "4.4"),
        ("echo hello", ConverterMissing, "which version"),
        ('[ "$1" = -version ] && echo version 4.6.1 || { echo broke >&2; exit 3; }', ConverterMissing, "broke"),
        (
            '[ "$1" = -version ] && echo version 4.6.1 || { printf "a\\n\\033[2J" >&2; exit 3; }',
            ConverterMissing,
            r"a \\x1b",
        ),
    ):
        mksquashfs.version.cache_clear()
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        program.chmod(0o755)
        with pytest.raises(error, match=words):
            converted(EVERYTHING, tmp_path / "image")
        assert not (tmp_path / "image").exists()
    mksquashfs.version.cache_clear()


@pytest.mark.needs("root", "mount")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()

    def tried() -> list[str]:
        _unshare()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=True, timeout=30)
        with pytest.raises(NoSpace, match="No space left"):
            converted([BIG], small / "image")
        return os.listdir(small)

    assert forked(tried) == []


def test_layers_that_changed_meanwhile(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    index = indexed(BIG)
    with pytest.raises(StoreUnusable, match="what it was"):
        layers.write(
            [index],
            lambda _number: io.BytesIO(BIG.blob[: 5 << 20]),
            str(work / "image"),
            layers.Options(),
            config=ContainerConfig(),
            progress=lambda _done, _total: None,
            check=lambda: None,
        )
    assert list(work.iterdir()) == []
