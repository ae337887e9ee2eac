"""What the nodes of a cluster hold, as each has told ZooKeeper: written when that changes, read by `list --cluster`.

A record is the digests of a node's images, a line of 64 hex digits for each (stager.cluster writes it after a publish).
Where ZooKeeper has no credentials, anybody may have written it.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from stager.errors import ConfigError, StageImageError
from stager.progress import write_line
from stager.store import images

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.cli.node import Node

SECONDS = 3.0
"""For making known what a node holds: nobody's eviction waits longer for that."""

_HEX = frozenset("0123456789abcdef")


def make_known(node: Node) -> None:
    """Tell the cluster, if there is one, what this node holds now. Within SECONDS, and whether it works or not.

    And Grid Engine, if the site pushes.
    """
    tell_gridengine(node)
    trouble = ["there was no answer in time"]
    try:
        if not node.config.is_cluster:
            return
    except ConfigError:
        return  # nobody stages like that; whoever tries is told
    # A daemon, because looking up the names of ZooKeeper's servers has no bound.
    thread = threading.Thread(target=_make_known, args=(node, trouble), daemon=True)
    thread.start()
    thread.join(SECONDS)
    if trouble[0]:
        write_line(f"warning: the cluster was not told what this node holds now: {trouble[0]}")


def tell_gridengine(node: Node) -> None:
    """Tell Grid Engine what this node holds now, if the site pushes, and only if that has changed."""
    if node.config.gridengine_push:
        from stager.cli.gridengine_push import push

        push(node)


def holders(found: Mapping[str, bytes]) -> dict[str, list[str]]:
    """Return digest (64 hex digits) → the nodes that hold it; lines that are no digests are left out."""
    from stager.cluster import NODE_RECORD_MAX

    held: dict[str, list[str]] = {}
    for host, record in sorted(found.items()):
        lines = record.decode("ascii", "replace").split("\n", NODE_RECORD_MAX)[:NODE_RECORD_MAX]
        for line in dict.fromkeys(lines):
            if len(line) == 64 and _HEX.issuperset(line):
                held.setdefault(line, []).append(host)
    return held


def read(node: Node) -> dict[str, list[str]]:
    """Ask ZooKeeper who holds what. Raises ConfigError without a cluster, ClusterUnavailable."""
    from stager.cli.clustering import rendezvous

    if not node.config.is_cluster:
        raise ConfigError("no cluster is configured", hint="set cluster.zookeeper; see `stage-image config show`")
    met = rendezvous(node)
    try:
        met.connect()
        return holders(met.nodes())
    finally:
        met.close()


def _make_known(node: Node, trouble: list[str]) -> None:
    from stager.cli.clustering import rendezvous
    from stager.cluster import NODE_RECORD_MAX

    try:
        layout = node.layout
        newest = sorted(images.digests(layout), key=lambda digest: -images.last_used(layout, digest))
        met = rendezvous(node)
        try:
            met.connect()
            met.write_node(os.uname().nodename, "\n".join(digest.hex for digest in newest[:NODE_RECORD_MAX]).encode())
        finally:
            met.close()
        trouble[0] = ""
    except StageImageError as error:
        trouble[0] = error.message
