"""What it takes a node of a cluster to begin and to end, where many do so at once: nothing that only the head needs."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support import points
from tests.support.faults import Fault, Stall
from tests.support.origin import Origin
from tests.support.tasks import Tasks, all_end, held, image, until
from tests.support.zookeeper import Servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.points import Point
    from tests.support.tasks import Task

pytestmark = pytest.mark.needs("zookeeper")

SIZE = 24 << 20

FETCHING = frozenset(("requests", "urllib3", "tenacity", "http.client", "stager.sources.http"))
COORDINATING = frozenset(("stager.coordinator", "stager.roster"))
NEEDLESS = frozenset(("rich", "argparse", "tomllib", "email", "subprocess", "shutil", "tempfile", "stager.mount"))
"""By who asks for a path, without a settings file or a terminal."""


@dataclass
class Scene:
    """Two nodes: the head, which has got so far as its origin lets it, and a member that gets its bytes from there."""

    folder: Path
    stall: Stall
    head: Task
    member: Task

    def store(self, name: str) -> Path:
        return self.folder / name / "store"

    def points(self, name: str) -> list[list[Point]]:
        """Return the points of a node's processes: the task and the one that leads for it."""
        return list(points.read(self.folder / name / "points").values())

    def imported(self, name: str) -> set[str]:
        return {point.about for of in self.points(name) for point in of if point.what == "import"}


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """Start both, the member when the head has half of the image."""
    with ExitStack() as stack:
        hosts = stack.enter_context(Servers()).hosts
        origin = stack.enter_context(Origin())
        stall = Stall(at=SIZE // 2)
        url = origin.put("/tool.sqsh", image(SIZE), Fault(stall=stall))

        def start(name: str, rank: int) -> Task:
            own = folder / name
            own.mkdir()
            environ = {"STAGE_IMAGE_STORE": str(own / "store"), "SLURM_JOB_ID": "7", "SLURM_NODEID": str(rank)}
            environ |= {"STAGE_IMAGE_CLUSTER_ZOOKEEPER": hosts, "STAGE_IMAGE_CLUSTER_LINGER": "0s", "HOME": str(own)}
            tasks = stack.enter_context(Tasks(own, **environ))
            return tasks.start(url, program=(*points.PROGRAM, str(own / "points")))

        head = start("head", 0)
        assert stall.reached.wait(30)
        found = Scene(folder, stall, head, start("member", 1))
        try:
            yield found
        finally:
            stall.go.set()
            all_end([found.head, found.member])
            until(lambda: not _relays(folder), "the relays' end")


def _relays(folder: Path) -> list[str]:
    """Return the processes that work in one of the stores."""
    wanted, found = [f"STAGE_IMAGE_STORE={folder}/{name}/".encode() for name in ("head", "member")], []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environ = file.read()
        except OSError:
            continue
        found += [name] if any(text in environ for text in wanted) else []
    return found


def test_a_member_imports_nothing_of_what_the_head_needs(tmp_path: Path) -> None:
    with scene(tmp_path) as site:
        until(lambda: held(site.store("member")) >= SIZE // 4, "the member's first bytes")
    assert site.imported("member") & (FETCHING | COORDINATING | NEEDLESS) == set()
    assert site.imported("head") & (FETCHING | COORDINATING) == (FETCHING | COORDINATING)
    assert site.imported("head") & NEEDLESS <= {"email", "tempfile", "subprocess", "shutil"}, "by requests"


def test_a_member_writes_back_while_bytes_still_come(tmp_path: Path) -> None:
    with scene(tmp_path) as site:
        until(lambda: list(site.store("member").glob("partial/*/*/durable")), "what survives a power loss")
        assert not site.stall.go.is_set()
