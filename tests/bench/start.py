"""What it costs a node of a cluster to begin and to end: CPU of its task and of the process that leads for it.

`python -m tests.bench.start [ROUNDS]`. CPU and not seconds, so that it can be measured on a busy machine; the least of
all rounds counts. The image is small: what bytes cost is in the relay's benchmark.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import capabilities, points
from tests.support.faults import Fault, Stall
from tests.support.origin import Origin
from tests.support.tasks import held, image, until
from tests.support.zookeeper import Servers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.points import Point

ROUNDS = 7
SIZE = 1 << 20
PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h: orphans below us become our children, so that wait4(2) tells what they have used."""

ROLES = ("head", "member")
HEAD = ("milliseconds of CPU", *ROLES)


@dataclass
class Round:
    """One staging on two nodes; `used` is CPU by process, in seconds."""

    folder: Path
    used: dict[int, float] = field(default_factory=dict)

    def phases(self, role: str) -> dict[str, float]:
        """Return the CPU of each phase, in the order of the table, in seconds."""
        task, _between, leader = points.read(self.folder / role / "points").values()
        begun, ready = _cpu(task, "import", "stager.cli.main"), _cpu(task, "import", "stager.cli.full")
        fork = _cpu(task, "os.fork")
        calls = [point.cpu for point in leader if point.what == "socket.connect" and not _is_probe(point)]
        published = next(point.cpu for point in leader if point.what == "os.link" and "/images/" in point.about)
        met, asked = calls[0], max(cpu for cpu in calls if cpu < published)
        all_task, all_leader = self.used[task[0].pid], self.used[leader[0].pid]
        return {
            "task: the interpreter": begun,
            "task: the light entry": ready - begun,
            "task: the long way, to the fork": fork - ready,
            "leader: to ZooKeeper": met,
            "leader: to the first byte asked for": asked - met,
            "**both, to the first byte asked for**": fork + asked,
            "leader: to the image published": published - asked,
            "leader: its end": all_leader - published,
            "task: its end": all_task - fork,
            "**both, in all**": all_task + all_leader,
        }


def _cpu(found: Sequence[Point], what: str, about: str = "") -> float:
    return next(point.cpu for point in found if (point.what, point.about) == (what, about))


def _is_probe(point: Point) -> bool:
    return "'192.0.2.1'" in point.about  # stager.relay.interface asks the kernel which address is ours: nothing is sent


def _round(servers: Servers, origin: Origin, folder: Path) -> Round:
    found, stall, tasks = Round(folder), Stall(at=SIZE // 2), dict[int, Path]()
    url = origin.put("/tool.sqsh", image(SIZE), Fault(stall=stall))
    common = {"STAGE_IMAGE_CLUSTER_ZOOKEEPER": servers.hosts, "STAGE_IMAGE_CLUSTER_LINGER": "0s"}
    common |= {"SLURM_JOB_ID": str(time.time_ns()), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    for rank, role in enumerate(ROLES):
        own = folder / role
        own.mkdir()
        environ = {**common, "SLURM_NODEID": str(rank), "STAGE_IMAGE_STORE": str(own / "store"), "HOME": str(own)}
        command = (*points.PROGRAM, str(own / "points"), url)
        tasks[os.posix_spawn(command[0], command, environ, file_actions=_streams(str(own / "said")))] = own
        if role == "head":
            stall.reached.wait(60)
        else:
            until(lambda own=own: held(own / "store") > 0, "the member's first bytes")  # type: ignore[misc]
    stall.go.set()
    while len(found.used) < 2 * len(ROLES):  # of each its task, and the leader that is left to us by it
        pid, status, usage = os.wait4(-1, 0)
        if status:
            raise RuntimeError((tasks[pid] / "said").read_text() if pid in tasks else f"{pid} ended with {status}")
        found.used[pid] = usage.ru_utime + usage.ru_stime
    return found


def _streams(said: str) -> list[tuple[object, ...]]:
    return [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, said, os.O_WRONLY | os.O_CREAT, 0o600),
    ]


def measured(rounds: int) -> list[tuple[str, ...]]:
    """Return the rows of the table."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    phases: dict[str, list[dict[str, float]]] = {role: [] for role in ROLES}
    with Servers() as servers, Origin() as origin:
        for _ in range(rounds):
            folder = Path(tempfile.mkdtemp(prefix="stage-image-bench-", dir="/var/tmp"))
            try:
                found = _round(servers, origin, folder)
                for role in ROLES:
                    phases[role].append(found.phases(role))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    least = {role: {name: min(each[name] for each in phases[role]) for name in phases[role][0]} for role in ROLES}
    return [(name, *(f"{least[role][name] * 1000:.1f}" for role in ROLES)) for name in least[ROLES[0]]]


def main(arguments: Sequence[str]) -> int:
    """Print the table; return 0 unless the machine cannot."""
    if lacking := capabilities.missing(["zookeeper"]):
        sys.stderr.write(f"bench: this machine lacks: {', '.join(lacking)}\n")
        return 2
    table = [HEAD, ("---", *("---:" for _ in ROLES)), *measured(int(arguments[0]) if arguments else ROUNDS)]
    sys.stdout.write("".join(f"| {' | '.join(row)} |\n" for row in table))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
