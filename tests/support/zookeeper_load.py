"""What a number of nodes costs ZooKeeper: each does what a node of the cluster does, and the server counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from stager.election.ensemble import Ensemble
from stager.election.zookeeper import ZooKeeperRendezvous

if TYPE_CHECKING:
    from tests.support.zookeeper import Server, Servers

COUNTERS = ("zk_packets_received", "zk_packets_sent", "zk_bytes_received_count", "zk_response_bytes")

REQUESTS = 7
"""Of a node at its first staging: connect; pin; claim; read whose it is; write the node's record, which is not there
yet, so make it; close. Later ones find the record and need six."""


@dataclass(frozen=True)
class Load:
    """Sums over all `nodes`; bytes as the server counts them, watches while all are connected."""

    nodes: int
    requests: int
    bytes_in: int
    bytes_out: int
    watches: int
    seconds: float
    leaders: int


def load(servers: Servers, name: str, nodes: int, at_a_time: int = 16) -> Load:
    """Have so many nodes meet below `name`, all connected together; `at_a_time` of them ask at once."""
    # Sessions so long that nobody has to show a sign of life while it lasts.
    ensemble = Ensemble(hosts=servers.hosts, session_timeout=100, connect_timeout=60)
    server, record = servers.one, b"r" * 200
    _meet(ensemble, name, "0", record).close()  # the tree itself is made once
    before = _counts(server)
    start = perf_counter()
    with ExitStack() as stack, ThreadPoolExecutor(at_a_time) as threads:
        met = list(threads.map(lambda number: _meet(ensemble, name, str(number), record), range(1, nodes + 1)))
        watches = server.count("zk_watch_count")
        leaders = sum(one.leads("staging") for one in met)
        for one in met:
            stack.callback(one.close)
    seconds = perf_counter() - start
    requests, _, bytes_in, bytes_out = (after - then for after, then in zip(_counts(server), before, strict=True))
    return Load(nodes, requests - 2, bytes_in, bytes_out, watches, seconds, leaders)


def _meet(ensemble: Ensemble, name: str, host: str, record: bytes) -> ZooKeeperRendezvous:
    """Do what every node of a job does."""
    one = ZooKeeperRendezvous(ensemble, name=name, owner="site")
    one.connect()
    one.pin("slurm-1", "key")
    if not one.claim("staging", record):
        one.leader("staging")
    one.write_node(host, record)
    return one


def _counts(server: Server) -> tuple[int, ...]:
    """Return the counters; asking for them counts as a request too."""
    told = server.mntr()
    return tuple(int(float(told[name])) for name in COUNTERS)
