"""What `doctor` finds out about cluster scope: whether ZooKeeper answers, and where others would reach this node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stager.cli.finding import Finding
from stager.errors import StageImageError

if TYPE_CHECKING:
    from stager.cli.node import Node


def findings(node: Node) -> list[Finding]:
    """Return what was found; nothing where no cluster is configured."""
    try:
        if not node.config.is_cluster:
            return []
        return [*_zookeeper(node), _credentials(node), *_shared(node)]
    except StageImageError as error:
        return [Finding("cluster", ok=False, detail=error.message, remedy=error.hint)]


def _zookeeper(node: Node) -> list[Finding]:
    from stager.cli.clustering import rendezvous
    from stager.relay.interface import address

    met, begun = rendezvous(node), time.monotonic()
    try:
        met.connect()
        took = time.monotonic() - begun
        detail = f"{node.config.cluster_zookeeper} answers within {took * 1000:.0f} ms"
        listens = address(node.config.cluster_interface, met.address)
        ports = node.config.cluster_ports or "any port"
        return [
            Finding("ZooKeeper", ok=True, detail=detail),
            Finding(
                "relay",
                ok=not listens.startswith("127."),
                detail=f"others reach this node at {listens}, {ports}",
                remedy="set cluster.interface to the network that the nodes share",
            ),
        ]
    finally:
        met.close()


def _credentials(node: Node) -> Finding:
    path = node.config.cluster_credentials_file
    detail = f"of {path}" if path else "none: whoever can ask ZooKeeper can read an image from the relay"
    remedy = "set cluster.credentials_file; without it, private images are not relayed"
    return Finding("credentials", ok=bool(path), detail=detail, remedy=remedy)


def _shared(node: Node) -> list[Finding]:
    if node.config.cluster_transport != "shared":
        return []
    from stager.store import folder

    root = node.config.cluster_shared_dir
    try:
        layout = folder.open_store(root)
    except StageImageError as error:
        return [Finding("shared store", ok=False, detail=error.message, remedy=error.hint)]
    ok = folder.is_writable(layout)
    remedy = "whoever stages must be able to write there"
    return [Finding("shared store", ok=ok, detail=f"{root} is {'writable' if ok else 'read-only'}", remedy=remedy)]
