"""What hangs is interrupted, what does not is left alone."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.within import HangError, within

if TYPE_CHECKING:
    from pathlib import Path


def test_a_system_call_is_interrupted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(HangError), within(0.01):
        os.open(tmp_path / "fifo", os.O_RDONLY)


def test_the_signal_is_put_back() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with within(60):
        assert signal.getsignal(signal.SIGALRM) is not before
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
