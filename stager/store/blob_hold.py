"""Using a blob: it stays as long as somebody holds it."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from stager.store.blob_reading import Growing, Growth

if TYPE_CHECKING:
    from typing import BinaryIO

    from stager.reference import Digest


class Hold:
    """A whole, verified blob that nobody evicts until this is closed, every file opened of it too, or we are dead.

    `path` is for people and tools: what is read through `open` is the blob that was held, whatever becomes of the name.
    """

    def __init__(self, fd: int, path: str, digest: Digest, size: int) -> None:
        """Take over `fd`, on which there is a shared lock."""
        self.path, self.digest, self.size = path, digest, size
        self._fd = fd
        with suppress(OSError):  # when it was used last: what goes first when there is no room is decided by that
            os.utime(fd)

    def fileno(self) -> int:
        """The descriptor; its offset is nobody's."""
        return self._fd

    def follow(self) -> Growing:
        """Return an unbuffered file of the blob from the start on, as one in flight has it."""
        return Growing(self._fd, Growth(self.size, whole=True))

    def open(self) -> BinaryIO:
        """Return a buffered file of the blob, from the start on; independent of every other one, and seekable."""
        return io.BufferedReader(self.follow(), 1 << 20)

    def close(self) -> None:
        """Let go of the blob; may be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
