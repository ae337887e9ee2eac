"""Nodes die in the middle of a staging of the cluster: the others end with the right bytes, from each other."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.cluster.job import UNDER_WAY, Job, nothing_is_left, ready
from tests.support.cluster.scenarios import Outcomes, Scenarios
from tests.support.tasks import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cluster.node import Node

pytestmark = pytest.mark.needs("root", "netns", "zookeeper", "nginx")

scenarios = Scenarios()
outcomes = scenarios.fixture()


def lost_with(job: Job, *dead: Node) -> float:
    """Return how much more the origin may have sent, in images, because these nodes died with what they had."""
    best = max(job.arrived(node) for node in job.tasks if node not in dead)
    most = max(job.arrived(node) for node in dead)
    return (max(0, most - best) + UNDER_WAY) / len(job.content)


def the_head(end: str, part: float, folder: Path) -> None:
    silent = end == "loses-power"
    with ready(folder, 4) as job:
        job.start()
        head = job.head()
        job.await_part(part, head)
        head.kill(silent=silent)
        allowed = 1.05 + lost_with(job, head)
        job.end(head)
        assert job.egress < allowed
        nothing_is_left(job.cluster, dead=[head] if silent else [])


for part in (0.1, 0.5, 0.99):
    scenarios.add(the_head, "dies", part)
    scenarios.add(the_head, "loses-power", part)


@scenarios
def the_head_dies_after_its_last_byte(folder: Path) -> None:
    with ready(folder, 4) as job:
        job.start()
        head = job.head()
        job.await_part(1, head)
        until(lambda: head.has(job.content), "the head to publish")
        head.kill()
        job.end(head)
        assert job.egress < 1.05 + UNDER_WAY / len(job.content)
        nothing_is_left(job.cluster)


@scenarios
def a_node_in_the_middle_dies(folder: Path) -> None:
    with ready(folder, 5) as job:
        job.start()
        job.await_part(0.4)
        (middle, *_) = job.relays()
        middle.kill()
        job.end(middle)
        assert job.egress < 1.05
        nothing_is_left(job.cluster)


@scenarios
def two_neighbours_die_together(folder: Path) -> None:
    with ready(folder, 6) as job:
        job.start()
        job.await_part(0.4)
        one, other, *_ = job.relays()
        for node in (one, other):
            node.cut()
        for node in (one, other):
            node.host.kill()
        job.end(one, other)
        assert job.egress < 1.05
        nothing_is_left(job.cluster, dead=[one, other])


@scenarios
def the_coordinator_dies_and_so_does_its_successor(folder: Path) -> None:
    with ready(folder, 5) as job:
        job.start()
        job.await_part(0.2)
        first = job.coordinator()
        first.kill()
        second = until(lambda: other if (other := job.coordinator()) is not first else None, "another coordinator")
        second.kill()
        allowed = 1.05 + lost_with(job, first, second)
        job.end(first, second)
        assert job.egress < allowed
        nothing_is_left(job.cluster)


@scenarios
def a_task_is_killed_and_its_node_goes_on(folder: Path) -> None:
    """Of all tasks of a node one has led; whoever takes over has the bytes, wherever the others are."""
    with ready(folder, 3) as job:
        job.start(tasks=3)
        job.await_part(0.3)
        (middle, *_) = job.relays()
        victim = job.tasks[middle].pop(0)
        victim.kill()
        job.end()
        assert job.egress < 1.05
        nothing_is_left(job.cluster)


@scenarios
def a_node_that_died_comes_back(folder: Path) -> None:
    with ready(folder, 4) as job:
        job.start()
        job.await_part(0.4)
        (middle, *_) = job.relays()
        middle.kill()
        del job.tasks[middle]
        job.start(middle)
        job.end()
        assert job.egress < 1.05
        nothing_is_left(job.cluster)


@scenarios
def a_cancelled_job_leaves_nothing(folder: Path) -> None:
    with ready(folder, 4) as job:
        job.start(tasks=2)
        job.await_part(0.3)
        tasks = [task for started in job.tasks.values() for task in started]
        for task in tasks:
            task.send(signal.SIGTERM)
        assert {task.done() for task in tasks} <= {-signal.SIGTERM, 128 + signal.SIGTERM}
        assert job.egress < 1.05
        nothing_is_left(job.cluster)


@scenarios
def tasks_that_end_early_still_pass_on_what_others_need(folder: Path) -> None:
    """Nobody on the node wants the image any more, but those behind it do."""
    with ready(folder, 4) as job:
        job.start()
        job.await_part(0.3)
        (middle, *_) = job.relays()
        (task,) = job.tasks.pop(middle)
        task.send(signal.SIGTERM)
        job.end()
        assert job.egress < 1.05
        nothing_is_left(job.cluster)


@pytest.mark.parametrize("scenario", scenarios.names)
def test_deaths(scenario: str, outcomes: Outcomes) -> None:
    outcomes[scenario].result()
