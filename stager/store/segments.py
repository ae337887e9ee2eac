"""The account of a file that grows in segments: which of its bytes are there."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

UNKNOWN_END = (1 << 63) - 1
FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
TRIPLE = struct.Struct("<QQQ")
"""Start, position and end of a segment, as they are stored."""
_BLOCK = 1 << 20


class Segment:
    """A run of the image that one stream fills: bytes [start, position) are there, [position, end) are missing."""

    __slots__ = ("end", "index", "position", "start")

    def __init__(self, start: int, position: int, end: int, index: int = 0) -> None:
        self.start = start
        self.position = position
        self.end = end
        self.index = index

    @property
    def missing(self) -> int:
        """Bytes still to come."""
        return self.end - self.position


def packed(segments: Sequence[Segment]) -> bytes:
    """Return what `read` reads."""
    return b"".join(TRIPLE.pack(s.start, s.position, s.end) for s in segments)


def read(path: str, held: int, size: int) -> list[Segment]:
    """Read segments, and drop them all if they are not a sound account of `held` bytes of `size`."""
    try:
        with open(path, "rb", opener=open_regular) as file:
            packed = file.read(24 * 1024)
    except OSError:
        return []
    whole = len(packed) // 24 * 24
    triples = enumerate(TRIPLE.iter_unpack(packed[:whole]))
    found = [Segment(start, position, end, index) for index, (start, position, end) in triples]
    # A segment in which nothing has arrived yet may lie behind the end of the file.
    sound = all(s.start <= s.position <= s.end <= size and (s.position <= held or s.position == s.start) for s in found)
    return found if sound and _is_gapless(found, size) else []


def open_regular(path: str, flags: int) -> int:
    """An opener that refuses, without waiting, what is no regular file. Raises OSError."""
    fd = os.open(path, flags | FLAGS | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file", path)


def _is_gapless(segments: list[Segment], size: int) -> bool:
    reached = 0
    for segment in sorted(segments, key=lambda s: s.start):
        if segment.start != reached:
            return False
        reached = segment.end
    return size in (UNKNOWN_END, reached)


def blocks(fd: int, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes from `start` up to `end`, or to the end of the file, in pieces of up to 1 MiB."""
    while start < end:
        block = os.pread(fd, min(_BLOCK, end - start), start)
        if not block:
            return
        yield block
        start += len(block)
