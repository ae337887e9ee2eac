"""What a layer holds, in few words: its tar's members without their contents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from stager.layers.options import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE, HARD, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
"""POSIX's type flags (pax, "ustar Interchange Format")."""

NAME_MAX = 255
PATH_MAX = 4096
"""linux/limits.h; a path counts its final NUL."""

TIME_MAX = 0xFFFF_FFFF
ID_MAX = 0xFFFF_FFFE
"""Squashfs has 32 bits for seconds and identities; the identity of all ones means none (chown(2))."""


class Content(NamedTuple):
    """Where a file's bytes are: `stored` of them at `offset` in the expanded layer.

    `size` is the file's. `extents` (offset, length), if there are any, say where in the file the stored bytes belong;
    the rest is zero.
    """

    offset: int
    stored: int
    size: int
    extents: tuple[tuple[int, int], ...] | None = None


class Entry(NamedTuple):
    """A member. `path` is relative to the root, without `.` and `..`, empty for the root itself; `link` as it came."""

    kind: bytes
    path: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    link: bytes
    device: tuple[int, int]
    xattrs: Mapping[bytes, bytes] | None
    content: Content | None


@dataclass(slots=True)
class LayerIndex:
    """A layer that has been read: its members in their order; sizes in bytes, `files` of all files together.

    `name` is for people.
    """

    name: str
    size: int
    limits: Limits
    entries: list[Entry] = field(default_factory=list)
    expanded: int = 0
    files: int = 0
    names: int = 0


def quoted(path: bytes) -> str:
    """Return a name from a stranger for a message: printable, and not too long."""
    text = ascii(path.decode("utf-8", "surrogateescape"))
    return text if len(text) <= 160 else f"{text[:100]}...{text[-50:]}"
