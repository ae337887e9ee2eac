"""Putting together a node's part in the cluster; the adapters come when the part is played."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from stager.cluster import ClusterStaging, Terms, member_name
from stager.kinds import port_range
from stager.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.cli.node import Node
    from stager.coordinator import Coordinator
    from stager.election.zookeeper import ZooKeeperRendezvous
    from stager.interfaces import Peers, Rendezvous, Teller
    from stager.reference import Reference
    from stager.seat import Seat
    from stager.shared import SharedStore

REFERENCE_MAX = 500
"""Characters of a reference in a record, which all nodes read and which may have 4 KiB."""

LOG_MAX = 1 << 16
"""Bytes of a relay's log: a stranger shall not fill the disk."""


def rendezvous(node: Node) -> ZooKeeperRendezvous:
    """Return where the nodes of the configured cluster meet; not connected. Raises ConfigError."""
    from stager.election import credentials
    from stager.election.ensemble import Ensemble
    from stager.election.zookeeper import ZooKeeperRendezvous

    config = node.config
    ensemble = Ensemble(
        hosts=config.cluster_zookeeper,
        session_timeout=config.cluster_session_timeout,
        connect_timeout=config.cluster_connect_timeout,
        credentials=credentials.read(config.cluster_credentials_file) if config.cluster_credentials_file else None,
        ca_file=config.cluster_ca_file,
        certificate_file=config.cluster_certificate_file,
        key_file=config.cluster_key_file,
    )
    return ZooKeeperRendezvous(ensemble, name=config.cluster_name, owner=owner())


def owner() -> str:
    """Return whose nodes share: images of root's are the site's, others stay with their user."""
    return "site" if os.geteuid() == 0 else f"uid-{os.geteuid()}"


def cluster_staging(node: Node, reference: Reference, tell: Teller) -> ClusterStaging | None:
    """Return the cluster's staging of a reference, or None where every node is on its own. Raises ConfigError."""
    config = node.config
    if not config.is_cluster or (config.scope == "auto" and not _is_ours(config.cluster_credentials_file)):
        return None
    host = os.uname().nodename
    log = _Log(f"{node.layout.root}/locks/{reference.key}.relay.log")

    def sit(met: Rendezvous, digest: str) -> tuple[Seat, Peers]:
        return _sit(node, reference, met, digest=digest, log=log)

    return ClusterStaging(
        terms=Terms(
            scope=node.job.scope,
            alone=config.cluster_on_failure == "node",
            patience=config.cluster_session_timeout + 15,
            stall=config.deadline + 2 * config.stall_timeout,
            lifetime=config.cluster_lifetime,
            min_nodes=config.min_nodes,
            offline=config.offline == "allow",
            sealed=bool(config.cluster_credentials_file),
        ),
        who={
            "host": host,
            "order": node.job.node_rank,
            "scope": node.job.scope,
            "since": time.time(),
        },
        clock=node.clock,
        tell=tell,
        shared=_shared(node, reference),
        meet=lambda: rendezvous(node),
        sit=sit,
    )


def _shared(node: Node, reference: Reference) -> SharedStore | None:
    if node.config.cluster_transport != "shared":
        return None
    from stager.shared import SharedStore

    return SharedStore(Layout(node.config.cluster_shared_dir), reference, node.clock)


def _is_ours(path: str) -> bool:
    # A site may keep its cluster to root; its users then share by node, without a word in every job.
    return not path or not os.path.exists(path) or os.access(path, os.R_OK)


def _sit(
    node: Node, reference: Reference, met: Rendezvous, *, digest: str, log: Callable[[str], None]
) -> tuple[Seat, Peers]:
    from stager.relay.interface import address
    from stager.relay.peers import RelayPeers
    from stager.relay.secret import Secret
    from stager.seat import Seat

    config = node.config
    ports = port_range(config.cluster_ports) if config.cluster_ports else None
    peers = RelayPeers(address(config.cluster_interface, met.address), ports, log=log)

    def place(wanted: str) -> str:
        return staging_id(config.cluster_name, owner(), reference.cluster_key, wanted)

    def appoint(staging: str) -> Coordinator:
        from stager.coordinator import Coordinator

        return Coordinator(
            staging,
            reference.shown,
            own=member_name(),
            origins=1 if config.cluster_transport == "shared" else config.cluster_origins,
            linger=config.cluster_linger,
        )

    # A job that is pinned looks first where that image is shared, then where the others are that have not finished.
    open_to_all = place(reference.digest.hex if reference.digest else "")
    seat = Seat(
        places=tuple(dict.fromkeys((place(digest), open_to_all) if digest else (open_to_all,))),
        also=place,
        rendezvous=met,
        peers=peers,
        clock=node.clock,
        fresh_secret=lambda: Secret.new().hex,
        appoint=appoint,
        about={"host": os.uname().nodename, "reference": reference.shown[:REFERENCE_MAX], "key": reference.cluster_key},
    )
    return seat, peers


def staging_id(name: str, whose: str, key: str, digest: str) -> str:
    """Return what all nodes call a staging that want the same thing: 32 hex digits."""
    from hashlib import sha256

    return sha256(f"{name}\n{whose}\n{key}\n{digest}".encode()).hexdigest()[:32]


class _Log:
    """Lines in a file, up to LOG_MAX bytes: the relay has no stderr of its own, and may outlive who has one."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, text: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self._path, flags, 0o600)
        except OSError:
            return
        with open(fd, "a", encoding="utf-8", errors="backslashreplace") as file:
            if os.fstat(fd).st_size < LOG_MAX:
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} pid {os.getpid()}: {text}\n")
