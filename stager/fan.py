"""Running commands side by side: bounded in number, and each in its silence.

Each has a session of its own, so that all of it can be ended when we are interrupted, and nothing else.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Command = tuple[str, Sequence[str]]
    """The name of what it is for, and the words to run."""

SAID = 4000
"""Bytes that are kept of the end of each output."""

MOST = 256
"""Processes at a time: each takes three descriptors, and 1,024 is what a shell gives by default."""

GRACE = 2.0
"""Seconds between asking a process to end and ending it."""

TICK = 1.0
"""Seconds between two looks at who is silent."""

LEFT = 16
"""Reads after the end of a process: what it left behind may go on writing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command.

    `code` is its exit code, -N if signal N ended it, None if it was given up for its silence. `out` and `err` are the
    ends of what it wrote.
    """

    name: str
    code: int | None
    out: str
    err: str
    seconds: float


@dataclass(eq=False, slots=True)
class _Child:
    """A process. `due` is when its time is over, by time.monotonic(), unless it says something before."""

    name: str
    process: subprocess.Popen[bytes]
    pidfd: int
    silence: float
    begun: float
    due: float
    ending: bool = False
    out: bytearray = field(default_factory=bytearray)
    err: bytearray = field(default_factory=bytearray)

    @property
    def pipes(self) -> list[tuple[int, bytearray]]:
        """The descriptors of its output, and what has come by each."""
        pairs = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        return [(pipe.fileno(), said) for pipe, said in pairs if pipe]

    def listen(self, fd: int) -> bool:
        """Take in what can be read now; return whether more may come."""
        said = next(said for pipe, said in self.pipes if pipe == fd)
        try:
            came = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        said += came
        del said[:-SAID]
        if came and not self.ending:
            self.due = time.monotonic() + self.silence
        return bool(came)

    def signal(self, number: int) -> None:
        """Signal it and what it has started. Not once it is reaped: its number may be somebody else's then."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        """End it for good; one that waits for a dead file server is left alone, it cannot even die."""
        self.signal(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)

    def outcome(self) -> Outcome:
        """Say what became of it."""
        out, err = (bytes(said).decode("utf-8", "backslashreplace") for said in (self.out, self.err))
        code = None if self.ending else self.process.returncode
        return Outcome(self.name, code, out, err, time.monotonic() - self.begun)


class Fan:
    """Runs commands, up to `parallel` at a time, each until it has been silent for `silence` seconds.

    `told` is called with each outcome, in another thread. There the processes are started, too: a signal's handler,
    which runs in the main thread, cannot come between the start of one and its being known.
    """

    def __init__(self, *, parallel: int, silence: float, told: Callable[[Outcome], None]) -> None:
        self._parallel = parallel
        self._silence = silence
        self._told = told
        self._stop, self._done = threading.Event(), threading.Event()
        self._children: dict[int, _Child] = {}
        self._failure: BaseException | None = None

    @property
    def running(self) -> int:
        """How many processes there are."""
        return len(self._children)

    def run(self, commands: Iterable[Command], *, tick: Callable[[], None], every: float) -> None:
        """Run all to their ends, calling `tick` every so many seconds. However it ends, no process is left."""
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        thread = threading.Thread(target=self._run, args=(iter(commands),), name="fan")
        thread.start()
        try:
            # Not join(): interrupted, that of Python 3.11 takes the thread for ended (bpo-45274).
            while not self._done.wait(every):
                tick()
        finally:
            self._stop.set()
            os.eventfd_write(self._bell, 1)
            thread.join()
            os.close(self._bell)
        if self._failure is not None:
            raise self._failure

    def _run(self, left: Iterator[Command]) -> None:
        with selectors.EpollSelector() as self._selector:
            self._selector.register(self._bell, selectors.EVENT_READ)
            try:
                while not self._stop.is_set() and (self._fill(left) or self._children):
                    self._turn()
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for this one
                self._failure = error
            finally:
                self._end_all()
                self._done.set()

    def _fill(self, left: Iterator[Command]) -> bool:
        """Start as many as may run; return whether there were any."""
        began = False
        while len(self._children) < self._parallel and (command := next(left, None)) is not None:
            self._start(*command)
            began = True
        return began

    def _start(self, name: str, words: Sequence[str]) -> None:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            self._told(Outcome(name, 126, "", f"{words[0]}: {error.strerror}", 0.0))
            return
        now = time.monotonic()
        child = _Child(name, process, os.pidfd_open(process.pid), self._silence, now, now + self._silence)
        self._children[child.pidfd] = child
        for fd, _ in child.pipes:
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_READ, child)
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)

    def _turn(self) -> None:
        """Wait for something to happen, and take it in."""
        for key, _ in self._selector.select(TICK if self._children else 0):
            child: _Child | None = key.data
            if child is None or self._children.get(child.pidfd) is not child:
                continue  # the bell; or an event of one that ended in this very turn
            if key.fd == child.pidfd:
                child.process.wait()
                self._ended(child)
            elif not child.listen(key.fd):
                self._selector.unregister(key.fd)
        now = time.monotonic()
        for child in [child for child in self._children.values() if now > child.due]:
            self._give_up(child)

    def _give_up(self, child: _Child) -> None:
        if child.ending:
            child.end()
            self._ended(child)
        else:
            child.ending, child.due = True, time.monotonic() + GRACE
            child.signal(signal.SIGTERM)

    def _ended(self, child: _Child) -> None:
        for fd, _ in child.pipes:
            for _ in range(LEFT):
                child.listen(fd)
        self._forget(child)
        self._told(child.outcome())

    def _forget(self, child: _Child) -> None:
        del self._children[child.pidfd]
        for fd in (child.pidfd, *(fd for fd, _ in child.pipes)):
            with suppress(KeyError):  # what was read to its end is not registered any more
                self._selector.unregister(fd)
        os.close(child.pidfd)
        for pipe in (child.process.stdout, child.process.stderr):
            if pipe:
                pipe.close()

    def _end_all(self) -> None:
        left = list(self._children.values())
        for child in left:
            child.signal(signal.SIGTERM)
        until = time.monotonic() + GRACE
        for child in left:
            _wait(child.pidfd, until - time.monotonic())
        for child in left:
            child.end()
            self._forget(child)


def _wait(pidfd: int, seconds: float) -> None:
    """Wait for the end of a process, without reaping it."""
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    waiting.poll(max(0.0, seconds) * 1000)
