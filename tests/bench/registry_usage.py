"""What a command uses, its children included: time, memory, and what it writes to disk."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.bench.processes import NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.processes import Command, Launcher

INTERVAL = 0.03
"""Seconds between two looks at the memory."""

PAGE = 4096


@dataclass(frozen=True)
class Used:
    """Seconds of wall clock and CPU; bytes: `memory` of all processes at the worst moment, `own` of the first alone.

    Memory is the sum of the resident sets, so that what processes share counts for each. `written` is what was to go
    to disk by proc_pid_io(5), whether it got there or was removed before.
    """

    seconds: float
    cpu: float
    memory: float
    own: float
    written: float


def measure(launcher: Launcher, command: Command, more: Mapping[str, str] = NOTHING) -> Used:
    """Run a command to its end; nothing else may be started, or written, by this process meanwhile. Raises Failed."""
    before = _written()
    with _Watch() as watch:
        ended = launcher.run(command, more)
    return Used(ended.seconds, ended.cpu, watch.memory, watch.own, _written() - before)


def _written() -> int:
    """Return the bytes written by this process and by all that have ended below it.

    Linux adds a process's account to its parent's when it is waited for (kernel/exit.c, wait_task_zombie).
    """
    with open("/proc/self/io", encoding="ascii") as table:
        lines = dict(line.split(": ") for line in table)
    return int(lines["write_bytes"])


class _Watch:
    """Looks at all processes below this one until the end of the context; `memory` and `own` are the maxima."""

    def __init__(self) -> None:
        self.memory = self.own = 0.0
        self._others = children("self")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(INTERVAL):
            first = [pid for pid in children("self") if pid not in self._others]
            self.own = max(self.own, sum(map(resident, first)))
            self.memory = max(self.memory, sum(map(resident, family(first))))


def children(pid: str) -> list[str]:
    """Return the children of a process (of all its threads), none if it has ended (proc_pid_task(5))."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += (task / "children").read_text(encoding="ascii").split()
    return found


def family(pids: list[str]) -> list[str]:
    """Return these processes and all below them."""
    below = [child for pid in pids for child in children(pid)]
    return [*pids, *family(below)] if below else pids


def resident(pid: str) -> int:
    """Return the bytes of a process's memory that are there, 0 if it has ended (proc_pid_statm(5))."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * PAGE
    return 0
