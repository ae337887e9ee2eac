"""Several faults in one staging, drawn by lot: whoever lives at the end has the image, and nothing else is left.

STAGE_IMAGE_TEST_CHAOS=20-39 tries those numbers instead of the few that belong to every run. With odd numbers, the
image at the origin may change, too.
"""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from stager.errors import OriginUnavailable, PinLost
from tests.support.cluster.job import PATIENCE, RATE, SIZE, Job, nothing_is_left, ready
from tests.support.cluster.scenarios import Outcomes, Scenarios
from tests.support.tasks import image, until, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.cluster.node import Node

pytestmark = pytest.mark.needs("root", "netns", "zookeeper", "nginx")

scenarios = Scenarios()
outcomes = scenarios.fixture()

FEW = "0-2"
NODES = 6
FAULTS = 4

HEALED = PATIENCE + 30
"""Seconds after the last fault in which all must be well: the waits for ZooKeeper and between tries come on top."""


class Chaos:
    """What may happen to a job; `dead` nodes stay dead, everything else is put right at the end."""

    def __init__(self, job: Job, lot: Random, *, changes: bool) -> None:
        self.job = job
        self.lot = lot
        self.changes = changes
        self.dead: list[Node] = []
        self.amends: list[Callable[[], None]] = []
        self.told: list[str] = []
        self._busy: set[Node] = set()

    def strike(self) -> None:
        """Let something happen."""
        kinds = (self.kill, self.power, self.cut, self.slow, self.freeze, self.restart, self.zookeeper, self.origin)
        kind = self.lot.choice((*kinds, *(self.change,) * (2 * self.changes)))
        living = [node for node in self.job.tasks if node not in self.dead and node not in self._busy]
        node = self.lot.choice(living)
        self.told.append(f"{kind.__name__} {node}")
        kind(node)

    def put_right(self) -> None:
        """End all that can be ended."""
        for amend in reversed(self.amends):
            amend()

    def kill(self, node: Node) -> None:
        if len(self.dead) < 2:
            node.kill()
            self.dead.append(node)

    def power(self, node: Node) -> None:
        if len(self.dead) < 2:
            node.kill(silent=True)
            self.dead.append(node)

    def restart(self, node: Node) -> None:
        node.kill()
        del self.job.tasks[node]
        self.job.start(node)

    def cut(self, node: Node) -> None:
        self._busy.add(node)
        node.cut()
        self.amends.append(node.heal)

    def slow(self, node: Node) -> None:
        node.slow(RATE / 20)
        self.amends.append(lambda: node.slow(RATE / 2))

    def freeze(self, node: Node) -> None:
        self._busy.add(node)
        node.freeze()
        self.amends.append(node.thaw)

    def change(self, _node: Node) -> None:
        self.job.cluster.origin.put("tool.sqsh", image(SIZE, seed=10 + len(self.told)))

    def zookeeper(self, _node: Node) -> None:
        keeper = self.job.cluster.zookeeper
        if not keeper.mode(0):
            return
        keeper.kill()
        self.amends.append(keeper.wait)
        self.amends.append(keeper.start)

    def origin(self, _node: Node) -> None:
        if not self.job.cluster.origin.host.listening():
            return
        self.job.cluster.origin.stop()
        self.amends.append(self.job.cluster.origin.start)


def chaos(number: int, folder: Path) -> None:
    lot = Random(number)
    with ready(folder, NODES, rate=RATE / 2) as job:
        *early, late = job.cluster.nodes
        job.start(*early)
        faults = Chaos(job, lot, changes=bool(number % 2))
        at = sorted(lot.uniform(0, 0.9) for _ in range(FAULTS))
        try:
            for part in at:
                _await_any(job, part)
                faults.strike()
            job.start(late)
            faults.put_right()
            if faults.changes:
                _agree(job, faults.dead)
            else:
                job.end(*faults.dead, patience=time.monotonic() - job.began + HEALED)
            nothing_is_left(job.cluster, dead=faults.dead)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"chaos {number}, {faults.told} at {[round(part, 2) for part in at]}") from error


def _agree(job: Job, dead: list[Node]) -> None:
    """Fail unless each living node has the image that all others have, unharmed, or says that it cannot be had."""
    tasks = {task: node for node, tasks in job.tasks.items() for task in tasks if node not in dead}
    codes = dict(zip(tasks, wait_for(tasks, HEALED), strict=True))
    assert set(codes.values()) <= {0, OriginUnavailable.exit_code, PinLost.exit_code}, [task.err for task in tasks]
    answers = {Path(task.answer).relative_to(node.store): task for task, node in tasks.items() if not codes[task]}
    assert len(answers) < 2, [task.err for task in tasks]
    for task in tasks:
        if not codes[task]:
            path = Path(task.answer)
            assert sha256(path.read_bytes()).hexdigest() == path.parent.name


def _await_any(job: Job, part: float, patience: float = 5) -> None:
    """Return when any node has that part of the image, or nothing has come for a while."""
    end = time.monotonic() + patience
    wanted = int(part * len(job.content))
    until(lambda: max(map(job.arrived, job.tasks)) >= wanted or time.monotonic() > end, "bytes or patience")


def _numbers() -> range:
    first, _, last = os.environ.get("STAGE_IMAGE_TEST_CHAOS", FEW).partition("-")
    return range(int(first), int(last or first) + 1)


for seed in _numbers():
    scenarios.add(chaos, seed)


@pytest.mark.parametrize("scenario", scenarios.names)
def test_chaos(scenario: str, outcomes: Outcomes) -> None:
    outcomes[scenario].result()
