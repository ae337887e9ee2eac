"""What a node costs ZooKeeper does not depend on how many there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.zookeeper_load import REQUESTS, load

if TYPE_CHECKING:
    from tests.support.zookeeper import Servers

pytestmark = pytest.mark.needs("zookeeper")


def test_requests_and_bytes_of_a_node_are_constant(zookeeper: Servers, cluster: str) -> None:
    few, more, many = (load(zookeeper, f"{cluster}-{nodes:04}", nodes) for nodes in (16, 100, 300))
    for found in (few, more, many):
        assert found.leaders == 1
        assert found.watches == 0
        # The leader need not read its own record.
        assert found.requests == REQUESTS * found.nodes - 1
        assert found.bytes_in < 1300 * found.nodes
        assert found.bytes_out < 500 * found.nodes
    assert many.bytes_in / many.nodes < 1.06 * few.bytes_in / few.nodes
    assert many.bytes_out / many.nodes < 1.06 * few.bytes_out / few.nodes
