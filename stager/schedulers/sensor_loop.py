"""A load sensor's conversation with execd, and how it never waits for a store that does not answer.

What execd does to a sensor, and what it suffers from one (8.1.9, by measurement): it writes a newline when it wants a
report, and reads until `end`. If the sensor ends in between, execd spins at full load for ever; if it hangs, the last
values stand for ever. So this one ends at `quit` and at the end of its input and not otherwise, and whatever touches
a file system is done in a thread that is waited for with a bound.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

LINE_MAX = 4096
"""Bytes of a line that are kept; execd sends one or five."""


class Bounded(Generic[T]):
    """Does `action` in a thread of its own, one at a time; whoever asks waits `seconds` at most.

    The thread may be stuck for good: in a system call on a file server that is dead, where not even SIGKILL helps.
    """

    def __init__(self, action: Callable[[], T], seconds: float) -> None:
        self._action = action
        self._seconds = seconds
        self._wanted, self._done = threading.Semaphore(0), threading.Event()
        self._is_busy = False
        self._result: T | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def ask(self) -> T | None:
        """Return what the action returns; None if it raised, takes longer, or still does what was asked before."""
        return self._result if self.start() and self._done.wait(self._seconds) else None

    def start(self) -> bool:
        """Have the action done, and wait for nothing; whether it was idle."""
        if self._is_busy:
            return False
        # An event of its own for each question: the end of one that came too late is no answer to the next.
        self._is_busy, self._result, self._done = True, None, threading.Event()
        self._wanted.release()
        return True

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            done = self._done
            with suppress(Exception):  # a sensor that ends harms execd more than one that knows nothing
                self._result = self._action()
            self._is_busy = False
            done.set()


def serve(answer: Callable[[], str], source: int = 0, sink: int = 1) -> None:
    """Answer each line that comes from the descriptor `source`, until `quit` or its end."""
    for line in _lines(source):
        if line == b"quit":
            return
        _write(sink, answer().encode("ascii", "replace"))


def _lines(source: int) -> Iterator[bytes]:
    pending = b""
    while piece := _piece(source):
        *lines, pending = (pending + piece).split(b"\n")
        pending = pending[-LINE_MAX:]
        yield from (line.strip() for line in lines)


def _piece(source: int) -> bytes:
    try:
        return os.read(source, LINE_MAX)
    except OSError:
        return b""  # as good as its end: nobody can ask any more


def _write(sink: int, text: bytes) -> None:
    while text:
        try:
            text = text[os.write(sink, text) :]
        except OSError:
            return  # execd reads no more; whether it asks again is for the input to tell
