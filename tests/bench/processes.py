"""Starting processes with as little ado as a launcher makes, and knowing when each ended and what it used."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


Command = tuple[str, ...]

NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Ended:
    """One process: wall-clock and CPU seconds (its children's included), and the exit code."""

    seconds: float
    cpu: float
    code: int


class Failed(Exception):
    """A measured command did not do what it is measured for."""


@dataclass
class Launcher:
    """Starts processes in one environment by posix_spawn(3); as a context manager, none is left at its end.

    What they write to stderr is appended to the file `log`, for the message of a failure.
    """

    environ: Mapping[str, str]
    log: str
    _pids: set[int] = field(default_factory=set)

    def start(self, command: Command, more: Mapping[str, str] = NOTHING, *, stdout: int = -1) -> int:
        """Start `command`, whose first word is a path; return the pid. `more` is added to the environment."""
        actions: list[tuple[object, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        ]
        if stdout >= 0:
            actions[1] = (os.POSIX_SPAWN_DUP2, stdout, 1)
        pid = os.posix_spawn(command[0], command, {**self.environ, **more}, file_actions=actions)
        self._pids.add(pid)
        return pid

    def wait(self, pid: int, begun: float) -> Ended:
        """Return how it ended; `begun` is when it was started, by time.perf_counter()."""
        _, status, usage = os.wait4(pid, 0)
        now = time.perf_counter()
        self._pids.discard(pid)
        return Ended(now - begun, usage.ru_utime + usage.ru_stime, os.waitstatus_to_exitcode(status))

    def run(self, command: Command, more: Mapping[str, str] = NOTHING) -> Ended:
        """Run a command to its end. Raises Failed."""
        begun = time.perf_counter()
        ended = self.wait(self.start(command, more), begun)
        self.check([ended], command)
        return ended

    def check(self, ended: Sequence[Ended], command: Command) -> None:
        """Raise Failed unless all exit codes are 0."""
        bad = [one.code for one in ended if one.code]
        if bad:
            raise Failed(f"{len(bad)} of {len(ended)} × {' '.join(command)!r} ended with {bad[0]}: {self.tail()}")

    def tail(self) -> str:
        """Return what was last written to stderr."""
        with contextlib.suppress(OSError), open(self.log, encoding="utf-8", errors="replace") as log:
            return " / ".join(log.read().splitlines()[-3:])
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)  # not yet waited for, so the number is still theirs
        for pid in self._pids:
            os.waitpid(pid, 0)
        self._pids.clear()


class Outputs:
    """A file without a name for the stdout of each of many processes, as a context manager.

    Its mtime tells when a process wrote last, without any process having to look at a clock: on a clock tick, some
    4 ms, before Linux 6.13, better since.
    """

    def __init__(self, count: int) -> None:
        self.files = [os.memfd_create(f"output-{number}") for number in range(count)]

    def said(self) -> list[bytes]:
        """Return what each one wrote."""
        return [os.pread(file, 4096, 0) for file in self.files]

    def when(self) -> list[float]:
        """Return when each one wrote last, in seconds since the epoch."""
        return [os.fstat(file).st_mtime_ns / 1e9 for file in self.files]

    def check(self, right: Callable[[bytes], bool]) -> None:
        """Raise Failed unless each one said something `right`."""
        wrong = [said for said in self.said() if not right(said)]
        if wrong:
            raise Failed(f"{len(wrong)} of {len(self.files)} tasks said {wrong[0]!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files:
            os.close(file)


def cpu_of(pids: Sequence[int]) -> float:
    """Return the CPU seconds that living processes have used so far, without their children (proc_pid_schedstat(5))."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def holders(pids: Sequence[int], suffix: str) -> int:
    """Return how many of these processes have a file open whose name ends so."""
    return sum(_holds(pid, suffix) for pid in pids)


def _holds(pid: int, suffix: str) -> bool:
    with contextlib.suppress(OSError):
        return any(os.readlink(entry.path).endswith(suffix) for entry in os.scandir(f"/proc/{pid}/fd"))
    return False
