"""A job that stages one image on several nodes of the test bed: what happens to it, what must be true at its end."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from tests.support.cluster.bed import Cluster
from tests.support.tasks import NOTHING, all_end, image, published, until, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.support.cluster.hosts import Process
    from tests.support.cluster.node import Node

PATIENCE = 20.0
"""Seconds that a staging may take beyond what its links need, whatever happens to it."""

GONE = 15.0
"""Seconds after the linger time in which everything has to go."""

MBIT = 1_000_000 / 8

SIZE = 16 << 20
RATE = 50.0
"""2.7 s at this rate: time for a fault in the middle."""
LINGER = 1.0

UNDER_WAY = 2 << 20
"""Bytes that a node may have got and not yet passed on: what is in queues and in chunks that are not whole."""

QUICK = {
    "STAGE_IMAGE_CLUSTER_LINGER": f"{LINGER:g}s",
    "STAGE_IMAGE_CLUSTER_SESSION_TIMEOUT": "2s",
    "STAGE_IMAGE_CLUSTER_CONNECT_TIMEOUT": "2s",
}
"""Times as short as they may be, so that a test need not wait long for what only time ends."""


class Job:
    """One job: `name` is its number, `content` the image, `url` where the origin has it."""

    def __init__(self, cluster: Cluster, content: bytes, url: str, *, name: str = "1") -> None:
        self.cluster = cluster
        self.content = content
        self.url = url
        self.name = name
        self.tasks: dict[Node, list[Process]] = {}
        self.began = time.monotonic()

    def start(self, *nodes: Node, tasks: int = 1, env: Mapping[str, str] = NOTHING) -> None:
        """Start so many tasks on each of these nodes, all by default."""
        for node in nodes or self.cluster.nodes:
            started = node.stage(self.url, tasks=tasks, env=env, job=self.name)
            self.tasks.setdefault(node, []).extend(started)

    def start_command(self, node: Node, *words: str) -> None:
        """Start one task on a node by another command line, to which the URL is added."""
        task = node.start(*words, self.url, env={"PYTHONPATH": ""}, job=self.name)
        self.tasks.setdefault(node, []).append(task)

    def start_by(self, words: Sequence[str], node: Node) -> None:
        """Start one task on a node by a program that is told, after `words`, an interpreter and the URL."""
        task = node.start(*words, sys.executable, self.url, job=self.name)
        self.tasks.setdefault(node, []).append(task)

    def arrived(self, node: Node) -> int:
        """Return how many bytes a node has."""
        return len(self.content) if published(node.seen, self.content).exists() else node.held()

    def spread(self) -> int:
        """Return by how many bytes the last node is behind the first one."""
        parts = [self.arrived(node) for node in self.tasks]
        return max(parts) - min(parts)

    def await_part(self, part: float, *nodes: Node) -> None:
        """Return when each of these nodes, all by default, has that part of the image."""
        wanted = int(part * len(self.content))
        for node in nodes or list(self.tasks):
            until(partial(self._has_or_failed, node, wanted), f"{part:.0%} on {node}")

    def head(self) -> Node:
        """Return the node that pulls from the origin, once there is one."""
        by_address = {node.address: node for node in self.cluster.nodes}
        (address, *_) = until(lambda: sorted(self.cluster.origin.clients), "somebody at the origin")
        return by_address[address]

    def coordinator(self) -> Node:
        """Return the node that decides who feeds whom, once there is one."""
        by_address = {node.address: node for node in self.cluster.nodes}
        record = until(self._record, "a coordinator")
        return by_address[str(record["address"]).partition(":")[0]]

    def relays(self) -> list[Node]:
        """Return the nodes that feed others, but for the head, most bytes sent first."""
        head = self.head()
        least = 0.05 * len(self.content)
        feeding = [node for node in self.cluster.nodes if node is not head and node.sent > least]
        return sorted(feeding, key=lambda node: -node.sent)

    def end(self, *but: Node, patience: float = PATIENCE) -> float:
        """Fail unless all tasks, but those on nodes left out, end well and in time; return seconds since the start."""
        nodes = [node for node in self.tasks if node not in but]
        bound = len(self.content) / (self.cluster.rate * MBIT) + patience
        tasks = [task for node in nodes for task in self.tasks[node]]
        wait_for(tasks, max(0.0, bound - (time.monotonic() - self.began)))
        seconds = time.monotonic() - self.began
        all_end(tasks)
        for node in nodes:
            assert {task.answer for task in self.tasks[node]} == {str(published(node.store, self.content))}
            assert node.has(self.content), f"{node} has other bytes"
        return seconds

    def codes(self, node: Node, patience: float = PATIENCE) -> set[int]:
        """Return the exit codes of a node's tasks."""
        return set(wait_for(self.tasks[node], patience))

    @property
    def egress(self) -> float:
        """What the origin has put on the wire, in images."""
        return self.cluster.origin.host.sent / len(self.content)

    def _has_or_failed(self, node: Node, wanted: int) -> bool:
        failed = [task.err for task in self.tasks[node] if task.process.poll()]
        assert not failed, failed
        return self.arrived(node) >= wanted

    def _record(self) -> dict[str, object] | None:
        stagings = (record for path, record in self.cluster.zookeeper.paths().items() if "/stagings/" in path)
        return next((json.loads(record) for record in stagings), None)


@contextmanager
def ready(folder: Path, nodes: int, *, zookeepers: int = 1, rate: float = RATE, **environ: str) -> Iterator[Job]:
    """Yield a job on so many nodes, of which no task has been started; `environ` are settings of its tasks."""
    content = image(SIZE)
    settings = {**QUICK, **environ}
    with Cluster(folder, nodes=nodes, rate=rate, zookeepers=zookeepers, environ=settings) as cluster:
        yield Job(cluster, content, cluster.origin.put("tool.sqsh", content))


def nothing_is_left(cluster: Cluster, *, linger: float = LINGER, dead: Iterable[Node] = ()) -> None:
    """Fail unless all that the nodes do for each other ends: processes, ports, mounts, records."""
    end = time.monotonic() + linger + GONE
    while (left := cluster.leftovers(except_on=dead)) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []
