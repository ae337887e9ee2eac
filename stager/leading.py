"""Leading a staging: the note for the followers, with a heartbeat, and its end."""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from stager.process import current
from stager.store import files
from stager.store.memory import LeaderNote, read_leader
from stager.waiting import wake_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stager.clock import Clock
    from stager.interfaces import Teller

BEAT_SECONDS = 0.5

FULL = (errno.ENOSPC, errno.EDQUOT)
"""A note that a full disk has no room for is done without: making room is what its writer may be about to do."""


@contextmanager
def claimed(path: str, clock: Clock, turn: int) -> Iterator[bool]:
    """Leave a note, for the time of the context, that we are on our way to the lock, unless a living process left one.

    It keeps the crowd from importing and trying the lock one by one; the lock decides, this decides nothing.
    """
    try:
        yield _claim(path, LeaderNote(current(), clock.wall(), turn))
    finally:
        give_up(path)


def give_up(path: str) -> None:
    """Take back our note, if it is ours: a process that becomes its command lives on and would be waited for."""
    note = read_leader(path)
    if note is not None and note.holder == current():
        files.discard(path)


def _claim(path: str, mine: LeaderNote) -> bool:
    try:
        if files.create_text(path, mine.text()):
            return True
        note = read_leader(path)
        if note is not None and note.holder.alive and note.turn >= mine.turn:
            return note.holder == mine.holder
        files.write_text(path, mine.text())
    except OSError as error:
        if error.errno not in FULL:
            raise
    return True


class Leadership:
    """The time during which this process leads: `with Leadership(...) as lead`, then `lead.phase = "pulling"`.

    A thread writes the note every half second; `measure` tells it bytes done and in all. `tell` gets the same.
    """

    def __init__(self, path: str, clock: Clock, turn: int, tell: Teller) -> None:
        self._path = path
        self._tell = tell
        self._note = LeaderNote(current(), clock.wall(), turn)
        self._fifo = -1
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.measure: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.activity: Callable[[], str] | None = None
        """What is being done, where that changes by itself; `phase` where it is None."""
        self.phase = "resolving"

    def __enter__(self) -> Self:
        self._fifo = _open_fifo(wake_path(self._path))
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if not self._is_passed_over():
            files.discard(self._path)
        if self._fifo >= 0:
            os.close(self._fifo)

    @property
    def followed(self) -> bool:
        """Whether anybody waits for our end: poll(2) tells a writer when the last reader has gone (POLLERR)."""
        waiting = select.poll()
        waiting.register(self._fifo, 0)
        return self._fifo < 0 or not waiting.poll(0)

    def _beat(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            self._note.phase = self.activity() if self.activity is not None else self.phase
            self._note.done, self._note.total = self.measure()
            self._note.beat += 1
            if self._is_passed_over():
                return  # the note is our successor's now
            with suppress(OSError):  # whatever keeps the note from being written, the work itself goes on
                self._write()
            self._tell.progress(self._note.phase, self._note.done, self._note.total)

    def _write(self) -> None:
        try:
            files.write_text(self._path, self._note.text())
        except OSError as error:
            if error.errno not in FULL:
                raise

    def _is_passed_over(self) -> bool:
        # The note of a mere claim to our own turn is covered: the lock is ours, as its writer will find out.
        note = read_leader(self._path)
        return note is not None and note.turn > self._note.turn and note.holder.alive


def _open_fifo(path: str) -> int:
    """Open the FIFO whose closing wakes the followers, or return -1: they look more often where there is none."""
    try:
        if not os.path.lexists(path):
            os.mkfifo(path, 0o600)
        # Opening for writing alone fails while nobody reads (ENXIO, fifo(7)), so we do that ourselves for the moment.
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        if stat.S_ISFIFO(os.fstat(reader).st_mode):
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    finally:
        os.close(reader)
    return -1
