"""Runs `stage-image` and tells how much CPU it had used when it came to certain points, without changing what it does.

`python points.py LOG WORDS…`: each point is a line in LOG: pid, seconds of CPU of all threads, what, about what. The
points are audit events (PEP 578): what it imports, forks, connects to and links. A fork counts from zero again.
"""

from __future__ import annotations

import os
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

PROGRAM = (sys.executable, os.path.abspath(__file__))

ABOUT = {"import": 0, "os.fork": None, "socket.connect": 1, "os.link": 1}
"""Event, and which of its arguments tells what it is about."""


class Point:
    """One line; `cpu` in seconds since the process or the fork began. No dataclass: that would be measured along."""

    def __init__(self, pid: int, cpu: float, what: str, about: str) -> None:
        self.pid = pid
        self.cpu = cpu
        self.what = what
        self.about = about


def read(log: str | os.PathLike[str]) -> dict[int, list[Point]]:
    """Return the points of each process, in the order of their beginning."""
    found: dict[int, list[Point]] = {}
    with open(log, encoding="utf-8") as file:
        for line in file:
            pid, cpu, what, about = line.rstrip("\n").split(" ", 3)
            found.setdefault(int(pid), []).append(Point(int(pid), float(cpu), what, about))
    return found


def tell(log: str) -> None:
    """Write a line for every point from here on."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in ABOUT:
            cpu, which = time.process_time(), ABOUT[event]
            about = "" if which is None else arguments[which]
            fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)  # a fork closes what it has
            os.write(fd, f"{os.getpid()} {cpu:.6f} {event} {about}\n".encode())
            os.close(fd)

    sys.addaudithook(hook)


if __name__ == "__main__":
    tell(sys.argv.pop(1))
    sys.path[0] = ROOT
    from stager.cli.main import main

    raise SystemExit(main())
