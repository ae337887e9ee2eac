"""What is told of the layers of container images that the store keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.cli.output import show_time
from stager.store.blobs import Blobs
from stager.store.room import show_bytes

if TYPE_CHECKING:
    from stager.layout import Layout

HEAD = ("LAYER", "SIZE", "LAST USED", "USED")


def described(layout: Layout) -> dict[str, object]:
    """Return the cache for `list --blobs --json`; sizes in bytes, times in wall-clock seconds."""
    blobs = Blobs(layout)
    there, idle, orphans = blobs.all(), {blob.digest for blob in blobs.idle()}, blobs.orphans()
    rows = [
        {"digest": str(b.digest), "size": b.size, "last_used": b.last_used, "used": b.digest not in idle} for b in there
    ]
    return {
        "count": len(there),
        "size": sum(blob.size for blob in there),
        "unused": sum(blob.size for blob in there if blob.digest in idle),
        "unfinished": sum(size for _, size, _ in orphans),
        "blobs": rows,
    }


def table(layout: Layout) -> list[tuple[str, ...]]:
    """Return the rows below HEAD."""
    blobs = Blobs(layout)
    idle = {blob.digest for blob in blobs.idle()}
    return [
        (b.digest.hex[:12], show_bytes(b.size), show_time(b.last_used), "-" if b.digest in idle else "yes")
        for b in blobs.all()
    ]


def line(layout: Layout) -> str:
    """Return the cache in a few words, or "" if it is empty."""
    blobs = Blobs(layout)
    there, unused = len(blobs.all()), sum(one.size for one in blobs.spare())
    held = blobs.total_size()
    if not there and not held:
        return ""
    what = f"{there} layer{'s' * (there != 1)}" if there else "parts of layers"
    return f"{what} of container images: {show_bytes(held)}, {show_bytes(unused)} of it unused"
