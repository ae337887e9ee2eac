"""Waiting for a leader: cheaply, visibly, and never longer than the leader deserves.

255 of 256 tasks of a job spend their time here, so it imports next to nothing: filelock alone costs 44 ms of CPU a
process (measured, 4.2), which on 2 cores is longer than many a download.
"""

from __future__ import annotations

from stager.store.memory import read_leader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from stager.clock import Clock
    from stager.interfaces import Teller
    from stager.store.memory import LeaderNote

    T = TypeVar("T")

SHORTEST_POLL = 0.02
LONGEST_POLL = 0.08
"""Seconds between looks: the last of the waiters shall be released within 100 ms, and 256 of them looking 12 times a
second are 3,000 small reads, some 5 % of one core."""

BEAT_LOST = 15.0
"""Seconds without a sign of life (one is given every second) after which a leader that still exists is passed over:
stopped by a debugger, swapped out, or on a core that died. Less would pass over leaders on overloaded nodes."""

PATIENCE = 420.0
"""Seconds without a byte before a beating leader is passed over: longer than its own deadline and stall timeout, after
which it fails by itself and says why."""


class Follower:
    """One wait for the staging of `path`'s leader. `patience`: seconds that a beating leader may go without a byte."""

    def __init__(self, path: str, clock: Clock, tell: Teller, patience: float = PATIENCE) -> None:
        self._path = path
        self._clock = clock
        self._tell = tell
        self._patience = patience
        self._signs: dict[str, tuple[int, float]] = {}
        self._told = ""

    def follow(self, done: Callable[[], T | None]) -> T | None:
        """Wait while somebody leads, until `done` gives something; return that, or None when nobody leads any more."""
        poll = SHORTEST_POLL
        while (answer := done()) is None:
            note = read_leader(self._path)
            if note is None or not note.holder.alive or self.stalled(note):
                return done()
            self._show(note)
            self._clock.sleep(poll)
            poll = min(poll * 1.3, LONGEST_POLL)
        return answer

    def stalled(self, note: LeaderNote) -> bool:
        """Whether a living leader has shown no sign of life, or of progress, for longer than allowed."""
        now = self._clock.now()
        return self._still("beat", note.beat, note, now) > BEAT_LOST or self._still("done", note.done, note, now) > (
            self._patience
        )

    def _still(self, what: str, value: int, note: LeaderNote, now: float) -> float:
        # The waiter's own clock times how long a number stays the same: nobody else's clock is trusted.
        key = f"{what} {note.holder}"
        seen, since = self._signs.get(key, (-1, now))
        if seen != value or key not in self._signs:
            self._signs[key] = (value, now)
            return 0.0
        return now - since

    def _show(self, note: LeaderNote) -> None:
        if self._told != str(note.holder):
            self._told = str(note.holder)
            self._tell.waiting(note.holder.pid, note.since)
        self._tell.progress(note.phase, note.done, note.total)
