"""ZooKeeper fails in the middle of a staging: bytes flow on, and whoever comes later finds the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.cluster.job import PATIENCE, UNDER_WAY, nothing_is_left, ready
from tests.support.cluster.scenarios import Outcomes, Scenarios
from tests.support.tasks import until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("root", "netns", "zookeeper", "nginx")

scenarios = Scenarios()
outcomes = scenarios.fixture()


@scenarios
def its_leader_dies(folder: Path) -> None:
    with ready(folder, 4, zookeepers=3, STAGE_IMAGE_CLUSTER_CONNECT_TIMEOUT="10s") as job:
        *early, late = job.cluster.nodes
        job.start(*early)
        job.await_part(0.2)
        keeper = job.cluster.zookeeper
        dead = keeper.leader()
        keeper.kill(dead)
        job.start(late)
        job.end()
        assert job.egress < 1.05
        keeper.start(dead)
        keeper.wait()
        nothing_is_left(job.cluster)


@scenarios
def the_majority_dies_and_comes_back(folder: Path) -> None:
    with ready(folder, 4, zookeepers=3) as job:
        *early, late = job.cluster.nodes
        job.start(*early)
        job.await_part(0.2)
        keeper = job.cluster.zookeeper
        dead = (0, 1)
        keeper.kill(*dead)
        job.end()
        assert job.egress < 1.05
        keeper.start(*dead)
        keeper.wait()
        job.start(late)
        job.end()
        assert job.egress < 2.05
        nothing_is_left(job.cluster)


@scenarios
def all_die_and_come_back_with_what_they_knew(folder: Path) -> None:
    with ready(folder, 4) as job:
        *early, late = job.cluster.nodes
        job.start(*early)
        job.await_part(0.2)
        keeper = job.cluster.zookeeper
        keeper.kill()
        keeper.start()
        keeper.wait()
        job.start(late)
        job.end()
        assert job.egress < 1.05
        nothing_is_left(job.cluster)


@scenarios
def all_die_and_the_coordinator_too(folder: Path) -> None:
    """Two faults at once: nobody can be found any more, so what is not there yet comes from the origin, after all."""
    with ready(folder, 3) as job:
        job.start()
        job.await_part(0.3)
        coordinator = job.coordinator()
        job.cluster.zookeeper.kill()
        coordinator.kill()
        job.end(coordinator, patience=PATIENCE + 25)
        assert job.egress < 3.05
        job.cluster.zookeeper.start()
        job.cluster.zookeeper.wait()
        nothing_is_left(job.cluster)


@scenarios
def a_frozen_node_comes_back_after_its_session(folder: Path) -> None:
    with ready(folder, 4) as job:
        job.start()
        job.await_part(0.3)
        coordinator, head = job.coordinator(), job.head()
        frozen = next(node for node in job.relays() if node is not coordinator and node is not head)
        frozen.freeze()
        job.end(frozen)
        until(lambda: not _sessions_of(job.cluster.zookeeper.mntr()) > 3, "its session to expire")
        frozen.thaw()
        job.end()
        assert job.egress < 1.05 + UNDER_WAY / len(job.content)
        nothing_is_left(job.cluster)


@scenarios
def a_frozen_coordinator_finds_another_one_in_its_seat(folder: Path) -> None:
    with ready(folder, 4) as job:
        job.start()
        job.await_part(0.3)
        coordinator = job.coordinator()
        coordinator.freeze()
        before = coordinator.received
        until(lambda: job.coordinator() is not coordinator, "another coordinator")
        in_its_kernel = coordinator.received - before
        coordinator.thaw()
        job.end()
        assert job.egress < 1.05 + (in_its_kernel + UNDER_WAY) / len(job.content)
        nothing_is_left(job.cluster)


@scenarios
def requests_of_a_node_are_counted(folder: Path) -> None:
    """However many tasks: one session a node, and a constant number of packets."""
    counts = []
    for number, nodes in enumerate((2, 6)):
        place = folder / str(number)
        place.mkdir()
        with ready(place, nodes) as job:
            job.start(tasks=2)
            job.end()
            nothing_is_left(job.cluster)
            counts.append(_received(job.cluster.zookeeper.mntr()) / nodes)
    assert counts[1] < 1.2 * counts[0]


def _sessions_of(counters: dict[str, str]) -> int:
    return int(float(counters.get("zk_global_sessions", "0")))


def _received(counters: dict[str, str]) -> int:
    return int(float(counters["zk_packets_received"]))


@pytest.mark.parametrize("scenario", scenarios.names)
def test_zookeeper(scenario: str, outcomes: Outcomes) -> None:
    outcomes[scenario].result()
