"""Memory held by a loop-mounted image after one full read, against a plain `mount -o loop`."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.ground import MIB
from tests.bench.samples import Goal, Sample, interleaved
from tests.bench.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.ground import Ground

GOAL = Goal(times=1.05)


@dataclass(frozen=True)
class Held:
    """Bytes: by how much the page cache of the whole machine has grown, and how much of it is of the image file."""

    grown: float
    file: float


def rows(ground: Ground) -> list[Row]:
    """Measure ours, the plain loop mount, and ours once more as users have it, with nothing dropped by hand."""
    image = ground.image(ground.scale.memory)
    ours, plain, kept = interleaved(
        ground.scale.rounds,
        lambda: _ours(ground, image),
        lambda: _plain(ground, image),
        lambda: _as_used(ground, image),
    )
    size = Sample([image.stat().st_size])
    twice = Sample([one.grown for one in plain]).median / size.median
    return [
        Row(
            what="page cache after one full read of a loop-mounted image",
            measured=Sample([one.grown for one in ours]),
            against="its size",
            reference=size,
            unit="B",
            goal=GOAL,
            obstacle="the image file's own pages, or what else the machine has read meanwhile",
            notes=(_of_file(ours), f"a plain `mount -o loop` of the same: {twice:.2f} × its size"),
        ),
        Row(
            what="the same by mincore(2), right after staging it, nothing dropped by hand",
            measured=Sample([one.grown for one in kept]),
            against="its size",
            reference=size,
            unit="B",
            goal=GOAL,
            obstacle="the image file's own pages",
            notes=(_of_file(kept),),
        ),
    ]


def _of_file(held: list[Held]) -> str:
    return f"of which pages of the image file itself: {Sample([one.file for one in held]).median / MIB:.1f} MiB"


def _ours(ground: Ground, image: Path) -> Held:
    with ground.job() as job:
        root = Path(ground.output(ground.cli, "mount", "--mount=loop", str(image), **job))
        return _read(root, Path(ground.output(ground.cli, str(image), **job)))


def _plain(ground: Ground, image: Path) -> Held:
    with _loop_mounted(image, ground.folder / "plain") as root:
        return _read(root, image)


def _as_used(ground: Ground, image: Path) -> Held:
    """Count the image's own pages only: what was staged from is in the page cache, too, and not its fault."""
    with ground.job() as job:
        root = Path(ground.output(ground.cli, "mount", "--mount=loop", str(image), **job))
        path = Path(ground.output(ground.cli, str(image), **job))
        _read_all(root / "payload")
        file, payload = (resident(each) for each in (path, root / "payload"))
        return Held(file + payload, file)


def _read(root: Path, file: Path) -> Held:
    """Read all that is mounted at `root`, with nothing in the page cache before."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    before = _page_cache()
    _read_all(root / "payload")
    return Held(_page_cache() - before, resident(file))


def _read_all(path: Path) -> None:
    buffer = bytearray(MIB)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def resident(path: Path) -> int:
    """Return how many bytes of a file are in the page cache, by mincore(2); a file on a read-only mount will do."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        flags = ctypes.create_string_buffer(-(-len(mapped) // mmap.PAGESIZE))
        start = ctypes.c_char.from_buffer(mapped)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), flags)
        del start  # an mmap that is still pointed to cannot be closed
    if failed:
        raise OSError(ctypes.get_errno(), "mincore", str(path))
    return mmap.PAGESIZE * sum(flag & 1 for flag in flags.raw)


def _page_cache() -> int:
    """Return the bytes that the machine holds of files: `Cached` and `Buffers` of proc_meminfo(5)."""
    with open("/proc/meminfo", encoding="ascii") as table:
        found = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in table)}
    return (found["Cached"] + found["Buffers"]) * 1024


@contextmanager
def _loop_mounted(image: Path, root: Path) -> Iterator[Path]:
    root.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop,ro", str(image), str(root)], check=True)
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)
