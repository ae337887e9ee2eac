"""Room for another image: free space, the quota, and what may be evicted for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager import lease
from stager.errors import NoSpace
from stager.store import files, images
from stager.store.blobs import Blobs

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.layout import Layout
    from stager.reference import Digest


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes: `min_free` stays free on the file system, `max_size` bounds the store (None: no quota)."""

    min_free: int = 0
    max_size: int | None = None


@dataclass(frozen=True, slots=True)
class Evictable:
    """An image that nothing uses: its size in bytes and when it was last used, in wall-clock seconds."""

    digest: Digest
    size: int
    last_used: float


def free_bytes(path: str) -> int:
    """Return the bytes which this user may still write on the file system of `path`."""
    status = os.statvfs(path)
    return status.f_frsize * (status.f_bfree if os.geteuid() == 0 else status.f_bavail)


def in_use(layout: Layout, digest: Digest) -> bool:
    """Whether a living lease protects the image, or it is mounted."""
    return bool(lease.living(layout.leases(digest))) or is_mounted(layout, digest)


def is_mounted(layout: Layout, digest: Digest) -> bool:
    """Whether the image is mounted in this store, by anybody."""
    mounts = f"{layout.root}/mounts"
    own = (name for name in files.names(mounts) if name.startswith(f"{digest.hex}."))
    return any(os.path.ismount(f"{mounts}/{name}/root") for name in own)


def evictable(layout: Layout) -> list[Evictable]:
    """Return the images that nothing uses, the longest unused first."""
    idle = [
        Evictable(digest, images.size_of(layout, digest), images.last_used(layout, digest))
        for digest in images.digests(layout)
        if not in_use(layout, digest)
    ]
    return sorted(idle, key=lambda image: image.last_used)


def total_size(layout: Layout) -> int:
    """Return the bytes of all published images, and of the layers of container images that are kept."""
    return sum(images.size_of(layout, digest) for digest in images.digests(layout)) + Blobs(layout).total_size()


def make_room(layout: Layout, need: int, limits: Limits, evict: Callable[[Evictable], None]) -> None:
    """Make `need` more bytes fit. Raises NoSpace, evicting nothing, if they cannot.

    Layers of container images that nobody holds go first: an image of theirs is of use without them. Then `evict` is
    called for images that nothing uses; of both, the longest unused goes first.
    """
    lacking = _lacking(layout, need, limits)
    if lacking <= 0:
        return
    spare, candidates = Blobs(layout).spare(), evictable(layout)
    if sum(one.size for one in spare) + sum(image.size for image in candidates) < lacking:
        raise NoSpace(_why(layout, need, limits, candidates))
    for one in spare:
        if lacking > 0:
            lacking -= one.drop()
    for image in candidates:
        if lacking <= 0:
            return
        evict(image)
        lacking -= image.size


def _lacking(layout: Layout, need: int, limits: Limits) -> int:
    on_disk = need + limits.min_free - free_bytes(layout.root)
    if limits.max_size is None:
        return on_disk
    return max(on_disk, need + total_size(layout) - limits.max_size)


def _why(layout: Layout, need: int, limits: Limits, candidates: list[Evictable]) -> str:
    quota = "" if limits.max_size is None else f", the quota is {show_bytes(limits.max_size)}"
    prunable = sum(image.size for image in candidates)
    return (
        f"{show_bytes(need)} are needed, {show_bytes(free_bytes(layout.root))} are free in {layout.root} "
        f"({show_bytes(limits.min_free)} of them kept free{quota}), and unused images hold {show_bytes(prunable)}"
        f"{_layers(Blobs(layout))}"
    )


def _layers(blobs: Blobs) -> str:
    held = blobs.total_size()
    unused = sum(one.size for one in blobs.spare())
    return f", layers of container images {show_bytes(held)}, {show_bytes(unused)} of it unused" if held else ""


def show_bytes(count: float) -> str:
    """Return a number of bytes for people: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
