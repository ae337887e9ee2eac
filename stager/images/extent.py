"""A stretch of a file that can be read, but never beyond its ends."""

from __future__ import annotations

import os

from stager.errors import DamagedImage


class Extent:
    """`size` bytes of the open file `fd` from `start` on, called `name` in messages."""

    __slots__ = ("fd", "name", "size", "start")

    def __init__(self, fd: int, start: int, size: int, *, name: str = "file") -> None:
        self.fd = fd
        self.start = start
        self.size = size
        self.name = name

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on, fewer at the end of the extent and none outside.

        Raises DamagedImage if the file ends before the extent does. OSError passes.
        """
        wanted = min(length, self.size - offset) if 0 <= offset < self.size else 0
        data = b""
        while len(data) < wanted:
            piece = os.pread(self.fd, wanted - len(data), self.start + offset + len(data))
            if not piece:
                raise DamagedImage(
                    f"truncated: the file ends at byte {self.start + offset + len(data)} while it is read"
                )
            data += piece
        return data

    def part(self, offset: int, size: int, *, name: str) -> Extent:
        """Return the stretch of `size` bytes from `offset` on; the caller has checked that it lies within."""
        return Extent(self.fd, self.start + offset, size, name=name)

    def need(self, end: int, promise: str) -> None:
        """Raise DamagedImage if this extent ends before the byte `end`, which `promise` says is there."""
        if end > self.size:
            raise DamagedImage(
                f"truncated: {promise} {end} bytes, the {self.name} has {self.size}",
                hint="copy or upload the image again, and compare its size with the original's",
            )
