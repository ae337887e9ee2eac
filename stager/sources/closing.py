"""Closing what another thread is reading, but never under its hands."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Closing:
    """Calls `release` exactly once: at `close`, or by the reader as it leaves if one is in the middle of reading.

    A descriptor that is closed while another thread reads from it may already be another file's at the next read.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release
        self._lock = threading.Lock()
        self._reading = False
        self.closed = False

    @contextmanager
    def reading(self) -> Iterator[bool]:
        """Tell whether there still is something to read, and keep it open meanwhile."""
        with self._lock:
            self._reading = not self.closed
        try:
            yield self._reading
        finally:
            with self._lock:
                was_reading, self._reading = self._reading, False
                late = was_reading and self.closed
            if late:
                self._release()

    def close(self) -> bool:
        """Close now or as soon as the reader leaves; True in the latter case."""
        with self._lock:
            first, self.closed = not self.closed, True
            reading = self._reading
        if first and not reading:
            self._release()
        return reading
