"""What the processes of each node use, looked at from outside: CPU time and memory, of children that are gone too."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.cluster.node import Node

LOOK_SECONDS = 0.25
"""Between two looks: what a process uses between the last one and its end is not seen."""

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Usage:
    """As a context manager, looks at all nodes again and again, in a thread of its own."""

    nodes: Sequence[Node]
    _cpu: dict[int, dict[tuple[int, str], float]] = field(default_factory=dict)
    _memory: dict[int, int] = field(default_factory=dict)
    _end: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._homes = {os.stat(f"/proc/{n.host.pid}/ns/pid").st_ino: n.number for n in self.nodes}
        self._first = {node.host.pid for node in self.nodes}
        self._before = _ticks()
        self._thread = threading.Thread(target=self._run, name="usage")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._after = _ticks()
        self._end.set()
        self._thread.join()

    def cpu(self) -> list[float]:
        """Return each node's CPU seconds."""
        return [sum(self._cpu.get(node.number, {}).values()) for node in self.nodes]

    def memory(self) -> list[int]:
        """Return the most that one process of each node held at a time, in bytes (VmHWM)."""
        return [self._memory.get(node.number, 0) for node in self.nodes]

    @property
    def busy(self) -> float:
        """The part of the machine's cores that was busy meanwhile, with whatever."""
        idle, total = (after - before for before, after in zip(self._before, self._after, strict=True))
        return 1 - idle / total

    def _run(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            for name in os.listdir("/proc"):
                if name.isdigit() and int(name) not in self._first:
                    self._look(int(name))

    def _look(self, pid: int) -> None:
        try:
            number = self._homes.get(os.stat(f"/proc/{pid}/ns/pid").st_ino)
            if number is None:
                return
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
                fields = stat.read().rpartition(") ")[2].split()
            with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
                peak = next((int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:")), 0)
        except OSError:  # gone in the meantime
            return
        seconds = (int(fields[11]) + int(fields[12])) / _TICKS
        self._cpu.setdefault(number, {})[pid, fields[19]] = seconds
        self._memory[number] = max(self._memory.get(number, 0), peak)


def _ticks() -> tuple[int, int]:
    """Return idle and all ticks of all cores so far: proc_stat(5)."""
    with open("/proc/stat", encoding="ascii") as file:
        numbers = [int(word) for word in file.readline().split()[1:9]]
    return numbers[3] + numbers[4], sum(numbers)
