"""One run on the test bed: nodes stage an image, something happens half-way, and it is measured how that went."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from stager.layout import Layout
from tests.bench.cluster_usage import Usage
from tests.bench.processes import Failed
from tests.support.cluster.bed import Cluster
from tests.support.cluster.job import MBIT, Job
from tests.support.image_factory import minimal_squashfs
from tests.support.tasks import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.cluster.node import Node

MEMORY = "/dev/shm"
"""Stores lie in memory, so that what is measured is the network and not one disk shared by all nodes."""

LINGER = {"STAGE_IMAGE_CLUSTER_LINGER": "2s"}


@dataclass(frozen=True)
class Size:
    """A cluster: `rate` in Mbit/s, `image` in bytes."""

    nodes: int
    rate: float
    image: int

    @property
    def seconds(self) -> float:
        """What one link needs for the image's bytes, headers not counted."""
        return self.image / (self.rate * MBIT)

    def __str__(self) -> str:
        return f"{self.nodes} nodes, {self.rate:g} Mbit/s, {self.image >> 20} MiB"


@dataclass(frozen=True)
class Outcome:
    """Seconds from the first process's start until the last node (but those that were hit) had the image.

    `flowing`: from the origin's first byte on. `egress` and `upload` (the most of any node) in images; `cpu` (seconds,
    the nodes' median) and `memory` (bytes, the most of any). `busy`: the part of this machine that was at work.
    """

    seconds: float
    flowing: float
    egress: float
    upload: float
    cpu: float
    memory: int
    busy: float


@cache
def content_of(size: int) -> bytes:
    """Return an image with so many random bytes."""
    return minimal_squashfs(os.urandom(size))


@contextmanager
def cluster_of(size: Size, zookeepers: int = 1) -> Iterator[Cluster]:
    """Yield a cluster whose files are in memory. Raises Failed if there is no room."""
    if shutil.disk_usage(MEMORY).free < 1.2 * size.image * (size.nodes + 1):
        raise Failed(f"{MEMORY} has no room for {size.nodes} stores")
    folder = Path(tempfile.mkdtemp(prefix="stage-image-bench-", dir=MEMORY))
    try:
        with Cluster(folder, nodes=size.nodes, rate=size.rate, zookeepers=zookeepers, environ=LINGER) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def staged(size: Size, command: tuple[str, ...], fault: Callable[[Job], Node | None] | None = None) -> Outcome:
    """Let one task on each node run `command URL`; `fault` returns the node that is not waited for. Raises Failed."""
    with cluster_of(size) as cluster:
        content = content_of(size.image)
        job = Job(cluster, content, cluster.origin.put("bench.sqsh", content))
        with Usage(cluster.nodes) as usage:
            began, first = time.time(), _FirstByte(cluster)
            for node in cluster.nodes:
                job.start_command(node, *command)
            hit = fault(job) if fault else None
            try:
                job.end(*([hit] if hit else []), patience=60 + 3 * size.seconds)
            except (AssertionError, TimeoutError) as error:
                raise Failed(str(error)) from error
            done = max(_published(node) for node in cluster.nodes if node is not hit)
        return Outcome(
            seconds=done - began,
            flowing=done - first.when(),
            egress=cluster.origin.host.sent / len(content),
            upload=max(node.sent for node in cluster.nodes) / len(content),
            cpu=median(usage.cpu()),
            memory=max(usage.memory()),
            busy=usage.busy,
        )


def downloaded(size: Size) -> Outcome:
    """Let every node get the file from the origin by curl. Raises Failed."""
    with cluster_of(size, zookeepers=0) as cluster:
        content = content_of(size.image)
        url = cluster.origin.put("bench.sqsh", content)
        with Usage(cluster.nodes) as usage:
            began = time.time()
            tasks = [node.start("curl", "-sfo", "image", url) for node in cluster.nodes]
            if any(wait_for(tasks, 60 + 2 * size.nodes * size.seconds)):
                raise Failed("curl failed")
            seconds = time.time() - began
        egress = cluster.origin.host.sent / len(content)
        return Outcome(seconds, seconds, egress, 0.0, median(usage.cpu()), max(usage.memory()), usage.busy)


def middle(job: Job, part: float) -> Node:
    """Return a node from the middle of the chain, once it has that part of the image."""
    nodes = job.cluster.nodes
    job.await_part(min(part, 0.1), nodes[-1])
    busy = {job.head(), job.coordinator()}
    node = next(node for node in nodes[len(nodes) // 2 :] if node not in busy)
    job.await_part(part, node)
    return node


def killed(job: Job) -> Node:
    """Kill a node in the middle when it has half of the image."""
    node = middle(job, 0.5)
    node.kill()
    return node


def silent(job: Job) -> Node:
    """Cut one off without a word."""
    node = middle(job, 0.5)
    node.cut()
    return node


def slow(job: Job) -> Node:
    """Let one have a tenth of the others' rate, from its first bytes on."""
    node = middle(job, 0.02)
    node.slow(job.cluster.rate / 10)
    return node


class _FirstByte(threading.Thread):
    """Watches for the moment in which the origin begins to send."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(name="first byte", daemon=True)
        self._origin = cluster.origin.host
        self._before = self._origin.sent
        self._when = 0.0
        self.start()

    def run(self) -> None:
        while self._origin.sent < self._before + 10_000:
            time.sleep(0.005)
        self._when = time.time()

    def when(self) -> float:
        self.join(10)
        return self._when


def _published(node: Node) -> float:
    """Return when a node's image came to exist: when its directory was renamed."""
    (folder,) = Path(Layout(str(node.seen)).images).glob("??/????*")
    return folder.stat().st_ctime_ns / 1e9
