"""A clock that passes only when somebody sleeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BOOT = 1_700_000_000.0
"""The wall time, in seconds since the epoch, at which a fake node booted."""


class FakeClock:
    """Fulfils `stager.clock.Clock`: `sleep` returns at once, time having passed; `sleeps` lists what was asked for."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self.sleeps: list[float] = []
        self._agenda: list[tuple[float, Callable[[], object]]] = []

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return BOOT + self._now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(max(0.0, seconds))

    def advance(self, seconds: float) -> None:
        """Let time pass without anybody sleeping."""
        end = self._now + seconds
        while self._agenda and self._agenda[0][0] <= end:
            when, action = self._agenda.pop(0)
            self._now = max(self._now, when)
            action()
        self._now = max(self._now, end)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Call `action` when `seconds` have passed, in the middle of whoever sleeps then."""
        self._agenda.append((self._now + seconds, action))
        self._agenda.sort(key=lambda entry: entry[0])
