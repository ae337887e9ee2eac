"""The node that pulls and converts for a whole cluster dies at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.cluster.job import nothing_is_left
from tests.support.tasks import until
from tests.system.test_cluster_containers import REFERENCE, ends, staged, town

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("root", "netns", "zookeeper", "nginx", "curl", "docker-registry", "mksquashfs")


@pytest.mark.parametrize("point", ["committed", "converted"])
def test_another_node_takes_over(point: str, tmp_path: Path) -> None:
    """The process that leads dies at the point, and its tasks start another one, which then is not the first to ask."""
    with town(tmp_path, 3) as it:
        first, *others = it.cluster.nodes
        tasks = first.stage(REFERENCE, env={"STAGE_IMAGE_TEST_CRASH_AT": point})
        until(lambda: it.asked("blobs"), "the first node to pull")
        tasks += [task for node in others for task in node.stage(REFERENCE)]
        (digest,) = ends(tasks)
        assert {name for node in it.cluster.nodes for name in staged(node)} == {digest}
        nothing_is_left(it.cluster)


def test_a_node_that_loses_its_power_while_it_converts(tmp_path: Path) -> None:
    with town(tmp_path, 3) as it:
        first, *others = it.cluster.nodes
        first.stage(REFERENCE, env={"STAGE_IMAGE_TEST_STOP_AT": "pulled"})
        until(lambda: len(list(first.seen.glob("blobs/sha256/*/*"))) == 3, "the first node to have all layers")
        tasks = [task for node in others for task in node.stage(REFERENCE)]
        first.kill(silent=True)
        (digest,) = ends(tasks)
        assert {name for node in others for name in staged(node)} == {digest}
        nothing_is_left(it.cluster, dead=[first])
