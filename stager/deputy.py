"""A process of its own that leads in place of the task that won: what it fetches, other nodes need for longer.

The task (`Deputy`) waits and repeats what is said to it; the process (`Principal` is its end of the line) has its own
session, no standard streams and no terminal, so that `$(stage-image REF)` returns and the task's end does not end it.
It is forked, not started anew: another interpreter with all its imports costs 100 ms of CPU (measured), and what the
task knows of settings, job and store would have to be told to it.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from stager import errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

    from stager.interfaces import Teller

LINE_MAX = 1 << 16
LOOK_SECONDS = 0.5


class Ended(BaseException):
    """Somebody asked the process to end. Not an Exception: nothing may swallow it on the way out."""


class Principal:
    """The process's end of the line to the task that it works for; the task may be gone at any time.

    It is a Teller as well: what is said is said by the task, for as long as there is one.
    """

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._gone = False

    def say(self, text: str) -> None:
        """Have the task say one line that matters."""
        self._send("say", text)

    def waiting(self, pid: int, since: float) -> None:
        """Nothing: who leads does not wait."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Nothing: the task reads the leader's note."""

    def close(self) -> None:
        """Nothing is left on the terminal."""

    def staged(self, digest: str) -> None:
        """Tell that the image is published."""
        self._send("staged", digest)

    def failed(self, error: errors.StageImageError) -> None:
        """Tell why it is not."""
        self._send("failed", f"{type(error).__name__}\t{error.message}\t{error.hint}")

    @property
    def gone(self) -> bool:
        """Whether the task has ended, or has all it wants."""
        if not self._gone:
            with suppress(BlockingIOError):
                try:
                    self._gone = self._line.recv(1, socket.MSG_DONTWAIT) == b""
                except ConnectionError:
                    self._gone = True
        return self._gone

    def wait(self, seconds: float) -> None:
        """Return when the task is gone, or its time is over."""
        waiting = select.poll()
        waiting.register(self._line, select.POLLIN)
        waiting.poll(seconds * 1000)

    def hang_up(self) -> None:
        """End the line: whatever else happens is no business of the task's."""
        self._gone = True
        self._line.close()

    def _send(self, word: str, text: str) -> None:
        line = f"{word} {text}".replace("\n", " ")[: LINE_MAX // 4] + "\n"
        try:
            self._line.send(line.encode("utf-8", "backslashreplace"), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return  # a task that is stopped hears the end by the line's closing
        except OSError:
            self._gone = True


class Deputy:
    """The task's end. `tell` repeats what the process says."""

    def __init__(self, line: socket.socket, tell: Teller) -> None:
        self._line = line
        self._tell = tell
        self._heard = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def outcome(self, meanwhile: Callable[[], None]) -> str | None:
        """Wait for the digest of what was published; None if the process ended without a word.

        `meanwhile` is called twice a second. Raises the StageImageError that the process met.
        """
        while True:
            waiting = select.poll()
            waiting.register(self._line, select.POLLIN)
            if not waiting.poll(LOOK_SECONDS * 1000):
                meanwhile()
                continue
            heard = self._line.recv(LINE_MAX)
            if not heard:
                return None
            for word, text in self._lines(heard):
                if word == "say":
                    self._tell.say(text)
                elif word == "failed":
                    raise _error(text)
                else:
                    return text

    def _lines(self, heard: bytes) -> list[tuple[str, str]]:
        *lines, self._heard = (self._heard + heard).split(b"\n")
        parts = (line.decode("utf-8", "replace").partition(" ") for line in lines)
        return [(word, text) for word, _, text in parts]


def begin(work: Callable[[Principal], None], tell: Teller) -> Deputy:
    """Fork a process that does `work` and ends; return our end of the line. Raises OSError.

    It is nobody's child: the task may become a command that is not to meet, in wait(2), a child it does not know.
    """
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()  # what is here stays, and a search for cycles would write to every page of it that is shared
    pid = os.fork()
    if not pid:
        _become_deputy(theirs, work)
    theirs.close()
    os.waitpid(pid, 0)
    return Deputy(ours, tell)


def _become_deputy(line: socket.socket, work: Callable[[Principal], None]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        _let_go_of_everything(keep=line.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with suppress(Ended):
            work(Principal(line))
        code = 0
    finally:
        os._exit(code)


def _let_go_of_everything(keep: int) -> None:
    # Whoever reads the task's stdout waits for the last descriptor of it: `$(…)`, slurmstepd, a pipe.
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, keep)
    os.closerange(keep + 1, _highest_descriptor() + 1)
    with suppress(OSError):
        os.chdir("/")


def _highest_descriptor() -> int:
    try:
        return max(int(name) for name in os.listdir("/proc/self/fd"))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES):
            raise
        return os.sysconf("SC_OPEN_MAX")


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)  # a second one must not interrupt the tidying up of the first
    raise Ended


def _ignore(_number: int, _frame: FrameType | None) -> None:
    return


def _error(text: str) -> errors.StageImageError:
    name, _, rest = text.partition("\t")
    message, _, hint = rest.partition("\t")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__name__ == name]
    kind = next((kind for kind in kinds if issubclass(kind, errors.StageImageError)), errors.StageImageError)
    return kind(message, hint=hint)
