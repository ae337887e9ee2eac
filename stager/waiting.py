"""Waiting for a leader: cheaply, visibly, and never longer than the leader deserves.

255 of 256 tasks of a job spend their time here, so it imports next to nothing: filelock alone costs 44 ms of CPU a
process (measured, 4.2), which on 2 cores is longer than many a download.
"""

from __future__ import annotations

import os

from stager.process import current
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
"""Seconds between looks where nothing wakes us: the last of the waiters shall be released within 100 ms."""

WOKEN_POLL = 1.0
"""Seconds between looks where the leader's end wakes us: only its progress and its pulse have to be looked at. 256
waiters looking every 80 ms took half a core from the leader's download (2 cores, Python 3.11)."""

BEAT_LOST = 15.0
"""Seconds without a sign of life (one is given every second) after which a leader that still exists is passed over:
stopped by a debugger, swapped out, or on a core that died. Less would pass over leaders on overloaded nodes."""

PATIENCE = 420.0
"""Seconds without a byte before a beating leader is passed over: longer than its own deadline and stall timeout, after
which it fails by itself and says why."""


def wake_path(note: str) -> str:
    """Return the FIFO that belongs to a leader's note."""
    return f"{note}.wake"


class Wake:
    """The leader's end, felt at once: it holds a FIFO open for writing, and the kernel closes that when it dies.

    The FIFO is opened before the note is read, and the leader removes its note before it closes the FIFO: whoever read
    a note has a writer before him, and poll(2) reports its going (fs/pipe.c: POLLHUP once a writer has been seen).
    """

    def __init__(self, path: str, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._fd = -1

    def listen(self) -> None:
        """Open the FIFO, if there is one."""
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                self._fd = -1

    def wait(self, seconds: float) -> None:
        """Return when the leader has gone or its time is over: WOKEN_POLL, or `seconds` where there is no FIFO."""
        if self._fd < 0:
            self._clock.sleep(seconds)
            return
        from select import poll

        waiting = poll()
        waiting.register(self._fd, 0)
        if waiting.poll(WOKEN_POLL * 1000):
            self.close()

    def close(self) -> None:
        """Let go of the FIFO."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Follower:
    """One wait for the staging of `path`'s leader. `patience`: seconds that a beating leader may go without a byte."""

    def __init__(self, path: str, clock: Clock, tell: Teller, patience: float = PATIENCE) -> None:
        self._path = path
        self._clock = clock
        self._tell = tell
        self._patience = patience
        self._wake = Wake(wake_path(path), clock)
        self._signs: dict[str, tuple[int, float, float]] = {}
        self._told = ""
        self._met = False

    def follow(self, done: Callable[[], T | None]) -> T | None:
        """Wait while somebody leads, until `done` gives something; return that, or None when nobody leads any more."""
        try:
            return self._follow(done)
        finally:
            self._wake.close()

    def _follow(self, done: Callable[[], T | None]) -> T | None:
        poll, mine = SHORTEST_POLL, current()
        while (answer := done()) is None:
            self._wake.listen()
            note = read_leader(self._path)
            if note is None or note.holder == mine or not note.holder.alive or self.stalled(note):
                return done()
            self._show(note)
            self._wake.wait(poll)
            poll = min(poll * 1.3, LONGEST_POLL)
        return answer

    def stalled(self, note: LeaderNote) -> bool:
        """Whether a living leader has shown no sign of life, or of progress, for longer than allowed."""
        now = self._clock.now()
        beat, done = self._still("beat", note.beat, note, now), self._still("done", note.done, note, now)
        return beat > BEAT_LOST or done > self._patience

    def _still(self, what: str, value: int, note: LeaderNote, now: float) -> float:
        """Return for how long, in seconds of our own looking, a number has stayed the same."""
        key = f"{what} {note.holder}"
        seen, silence, looked = self._signs.get(key, (value, 0.0, now))
        # A gap between two looks is our own: a job that was suspended and resumed has not watched its leader be silent.
        silence = silence + min(now - looked, 2 * WOKEN_POLL) if seen == value else 0.0
        self._signs[key] = (value, silence, now)
        return silence

    def has_met_a_leader(self) -> bool:
        """Whether, since this was last asked, somebody was seen whose heart beats: a mere claim has none."""
        met, self._met = self._met, False
        return met

    def _show(self, note: LeaderNote) -> None:
        self._met = self._met or note.beat > 0
        if self._told != str(note.holder):
            self._told = str(note.holder)
            self._tell.waiting(note.holder.pid, note.since)
        self._tell.progress(note.phase, note.done, note.total)
