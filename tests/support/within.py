"""A bound for what might hang: system calls are interrupted, not only Python's loops."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class HangError(AssertionError):
    """It took longer than allowed. An error of the test, whatever the code under test catches."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise HangError in the main thread, where this must be called, once `seconds` have passed."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise HangError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
