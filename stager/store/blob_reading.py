"""Reading a blob, also while it arrives: the end is told only when all its bytes are found to be the right ones."""

from __future__ import annotations

import io
import os
import threading
from typing import TYPE_CHECKING

from stager.errors import StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer


class Restarted(Exception):
    """The blob's bytes turned out to be worthless and it is begun anew: whoever has read any starts over, too."""


class Growth:
    """How far a blob is, for the threads of one process. `version` counts how often it was begun anew."""

    def __init__(self, held: int, *, whole: bool = False) -> None:
        self.changed = threading.Condition()
        self.held = held
        self.whole = whole
        self.version = 0
        self.error: BaseException | None = None

    def grow(self, count: int) -> None:
        """Let readers have `count` more bytes."""
        with self.changed:
            self.held += count
            self.changed.notify_all()

    def restart(self, forget: Callable[[], None]) -> None:
        """Forget the bytes, so that no reader takes new ones for a continuation of the old."""
        with self.changed:
            self.version += 1
            self.held = 0
            self.error = None
            forget()
            self.changed.notify_all()

    def finish(self) -> None:
        """Let readers come to the end."""
        with self.changed:
            self.whole = True
            self.changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let readers fail, unless the blob is whole already or has failed before."""
        with self.changed:
            if not self.whole and self.error is None:
                self.error = error
            self.changed.notify_all()


class Growing(io.RawIOBase):
    """A blob as a file that is read from the start on, in one thread; a blob in flight is waited for.

    Reading raises what the writer failed with, and Restarted. It keeps the blob from eviction until it is closed.
    """

    def __init__(self, fd: int, growth: Growth) -> None:
        super().__init__()
        self._fd = os.dup(fd)
        self._growth = growth
        self._version = growth.version
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._growth.held}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read at least one byte, or tell that this is the end."""
        view = memoryview(buffer).cast("B")
        there = self._await() if view else 0
        if there <= 0:
            return 0
        count = os.preadv(self._fd, [view[:there]], self._position)
        with self._growth.changed:
            self._check()
        if not count:
            raise StoreUnusable("a blob in the store was cut while it was read")
        self._position += count
        return count

    def close(self) -> None:
        """Let go of the blob; may be called twice."""
        if not self.closed:
            os.close(self._fd)
        super().close()

    def _await(self) -> int:
        growth = self._growth
        with growth.changed:
            while self._check() and growth.held <= self._position and not growth.whole:
                growth.changed.wait()
            return growth.held - self._position

    def _check(self) -> bool:
        if self._growth.version != self._version:
            raise Restarted
        if self._growth.error is not None:
            raise self._growth.error
        return True
