"""Links are cut, slow, or lead to a full disk or to damaged bytes; the origin dies: the rest of the cluster goes on."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from stager.errors import NoSpace
from stager.roster_messages import CHUNK
from tests.support.cluster.job import PATIENCE, RATE, SIZE, UNDER_WAY, nothing_is_left, ready
from tests.support.cluster.scenarios import Outcomes, Scenarios
from tests.support.tasks import image, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("root", "netns", "zookeeper", "nginx")

scenarios = Scenarios()
outcomes = scenarios.fixture()

NEEDED = SIZE * 8 / (RATE * 1e6)
"""Seconds that the link needs."""


@scenarios
def a_node_is_cut_off_and_healed(folder: Path) -> None:
    with ready(folder, 5, rate=RATE / 2) as job:
        job.start()
        job.await_part(0.3)
        (middle, *_) = job.relays()
        middle.cut()
        job.await_part(0.8, *(node for node in job.tasks if node is not middle))
        assert job.arrived(middle) < 0.8 * len(job.content)
        middle.heal()
        job.end()
        assert job.egress < 1.05 + UNDER_WAY / len(job.content)
        nothing_is_left(job.cluster)


@scenarios
def the_head_is_cut_off_and_healed(folder: Path) -> None:
    """Others stay long enough to be found again; with everybody gone, it would have to get the rest by itself."""
    linger = 10.0
    with ready(folder, 4, rate=RATE / 2, STAGE_IMAGE_CLUSTER_LINGER=f"{linger:g}s") as job:
        job.start()
        job.await_part(0.3)
        head = job.head()
        head.cut()
        job.await_part(0.8, *(node for node in job.tasks if node is not head))
        head.heal()
        job.end()
        assert job.egress < 1.05 + 2 * UNDER_WAY / len(job.content)
        nothing_is_left(job.cluster, linger=linger)


@scenarios
def a_slow_link_holds_nobody_up(folder: Path) -> None:
    with ready(folder, 5, rate=RATE / 2) as job:
        job.start()
        job.await_part(0.2)
        (slow, *_) = job.relays()
        slow.slow(RATE / 20)
        began = time.monotonic()
        job.end(slow)
        assert time.monotonic() - began < 2 * NEEDED + 6
        assert job.arrived(slow) < len(job.content)
        slow.slow(RATE / 2)
        job.end()
        assert job.egress < 1.05
        nothing_is_left(job.cluster)


@scenarios
def a_slow_head_is_replaced_or_waited_for(folder: Path) -> None:
    """Nobody can know whether the head's link is slow or the origin is; the bytes come once, and all get them."""
    with ready(folder, 3) as job:
        job.start()
        head = job.head()
        head.slow(RATE / 4)
        job.end(patience=PATIENCE + 4 * NEEDED)
        assert job.egress < 1.05 + 2 * UNDER_WAY / len(job.content)
        nothing_is_left(job.cluster)


@scenarios
def a_full_disk_is_its_node_s_own_trouble(folder: Path) -> None:
    with ready(folder, 4) as job:
        full = job.cluster.nodes[2]
        full.small_disk(4 << 20)
        job.start(tasks=2)
        assert job.codes(full) == {NoSpace.exit_code}
        job.end(full)
        assert job.egress < 1.05 + UNDER_WAY / len(job.content)
        nothing_is_left(job.cluster)


@scenarios
def a_disk_that_fills_up_on_the_way(folder: Path) -> None:
    """The room is there when the node begins, and somebody else takes it."""
    with ready(folder, 4) as job:
        full = job.cluster.nodes[1]
        full.small_disk(100 << 20)
        job.start()
        job.await_part(0.1)
        greedy = full.start("sh", "-c", 'head -c 200000000 /dev/zero >"$STAGE_IMAGE_STORE/greedy"')
        assert greedy.done() == 1
        codes = job.codes(full)
        assert codes <= {0, NoSpace.exit_code}
        job.end(full)
        assert (0 in codes) == full.has(job.content)
        nothing_is_left(job.cluster)


@scenarios
def bytes_that_rot_on_relays_reach_nobody(folder: Path) -> None:
    """What nodes have verified changes on their disks, and then another one comes for it."""
    with ready(folder, 4, rate=RATE / 2) as job:
        *early, late = job.cluster.nodes
        job.start(*early)
        job.await_part(0.5)
        head = job.head()
        rotten = [node for node in early if node is not head]
        for node in rotten:
            (copy,) = node.copies()
            _overwrite(copy, 0, 1 << 20)
        job.start(late)
        job.end(*rotten)
        assert job.egress < 1.05


@scenarios
def who_is_told_to_be_rotten_publishes_nothing_bad(folder: Path) -> None:
    with ready(folder, 3, rate=RATE / 2) as job:
        *early, late = job.cluster.nodes
        job.start(*early)
        job.await_part(0.5)
        head = job.head()
        (rotten,) = (node for node in early if node is not head)
        (copy,) = rotten.copies()
        _overwrite(copy, 1 << 20, 1 << 20)
        job.start(late)  # sent to the end of the chain, which is the rotten one
        job.end(rotten)
        assert job.egress < 1.05
        assert job.codes(rotten) != {0} or rotten.has(job.content)


@scenarios
def the_origin_dies_and_comes_back(folder: Path) -> None:
    with ready(folder, 4) as job:
        job.start()
        job.await_part(0.5)
        job.cluster.origin.stop()
        until(lambda: job.spread() < CHUNK, "all to have what there is")
        until(lambda: any("trying again" in task.err for tasks in job.tasks.values() for task in tasks), "a retry")
        job.cluster.origin.start()
        job.end()
        assert job.egress < 1.05 + UNDER_WAY / len(job.content)
        nothing_is_left(job.cluster)


@scenarios
def the_origin_says_nothing_for_a_while(folder: Path) -> None:
    with ready(folder, 4, STAGE_IMAGE_STALL_TIMEOUT="2s") as job:
        job.start()
        job.await_part(0.5)
        origin = job.cluster.origin.host
        job.cluster.switch.cut(origin)
        until(lambda: any("trying again" in task.err for tasks in job.tasks.values() for task in tasks), "a retry")
        job.cluster.switch.heal(origin)
        job.end(patience=PATIENCE + 10)
        assert job.egress < 1.05 + UNDER_WAY / len(job.content)
        nothing_is_left(job.cluster)


@scenarios
def the_image_changes_at_the_origin_in_the_middle(folder: Path) -> None:
    """All begin again with the new one; none ends with a mixture."""
    with ready(folder, 4) as job:
        job.start()
        job.await_part(0.5)
        job.content = image(SIZE, seed=4)
        job.cluster.origin.stop()
        job.cluster.origin.put("tool.sqsh", job.content)
        job.cluster.origin.start()
        job.end(patience=PATIENCE + NEEDED)
        assert job.egress < 2.05
        nothing_is_left(job.cluster)


def _overwrite(path: Path, start: int, size: int) -> None:
    """Change bytes of a file in place."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, b"\xff" * size, start)
    finally:
        os.close(fd)


@pytest.mark.parametrize("scenario", scenarios.names)
def test_links(scenario: str, outcomes: Outcomes) -> None:
    outcomes[scenario].result()
