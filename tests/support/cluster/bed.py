"""A cluster on one machine: nodes, an origin and ZooKeeper, each on a host of its own, with links of a given rate.

`with Cluster(tmp_path, nodes=8, rate=200) as cluster: tasks = cluster.nodes[3].stage(url, tasks=4)`
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from tests.support.cluster.ensemble import Ensemble
from tests.support.cluster.hosts import Host
from tests.support.cluster.network import UNSHAPED, Link, Switch
from tests.support.cluster.node import Node
from tests.support.cluster.origin import Origin
from tests.support.leftovers import Traces

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ORIGIN = "10.79.0.1"
KEPT = ("pins", "nodes", "stagings", "conversions")
"""What stays below a cluster's node of ZooKeeper's tree: nothing in it belongs to a staging that goes on."""


class Cluster:
    """As a context manager: there with everything running at its begin, gone at its end.

    `rate` is that of each node's link in Mbit/s, `origin_rate` that of the origin's, the same by default; 0 is
    unshaped, as the links of ZooKeeper are. `environ` is added to what each node's processes are started with.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int,
        rate: float = 200,
        origin_rate: float | None = None,
        zookeepers: int = 1,
        environ: dict[str, str] | None = None,
    ) -> None:
        self._folder = folder / "cluster"
        self._count = nodes
        self.rate = rate
        self._origin_rate = rate if origin_rate is None else origin_rate
        self._zookeepers = zookeepers
        self.environ = environ or {}
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        self._folder.mkdir()
        names = [f"node{number}" for number in range(self._count)]
        keepers = {f"zookeeper{number}": f"10.79.0.{11 + number}" for number in range(self._zookeepers)}
        addresses = {"origin": ORIGIN, **keepers, **{name: _address(n) for n, name in enumerate(names)}}
        try:
            hosts = self._boot(addresses)
            self.switch = Switch(hosts["switch"])
            rates = {"origin": self._origin_rate, **dict.fromkeys(names, self.rate)}
            self.switch.connect(
                [
                    Link(hosts[name], address, f"port{number}", rates.get(name, UNSHAPED))
                    for number, (name, address) in enumerate(addresses.items())
                ]
            )
            self.zookeeper = Ensemble([hosts[name] for name in keepers], list(keepers.values()))
            self.origin = Origin(hosts["origin"], ORIGIN)
            self.nodes = [Node(hosts[name], self, number) for number, name in enumerate(names)]
            self.zookeeper.start()
            self.origin.start()
            self.zookeeper.wait()
        except BaseException:
            self._ending.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def leftovers(self, *, except_on: Iterable[Node] = ()) -> list[str]:
        """Return one line for each process, port, mount, loop device and node of ZooKeeper that is no longer needed."""
        passed_over = set(except_on)
        found = [line for node in self.nodes if node not in passed_over for line in node.leftovers()]
        found += [f"{device} of {file}" for device, file in Traces("none", (str(self._folder),)).loops().items()]
        return found + self.stray_paths()

    def stray_paths(self) -> list[str]:
        """Return what is in ZooKeeper beside what is to stay."""
        paths = self.zookeeper.paths() if len(self.zookeeper) else {}
        leaves = [path for path in paths if not any(other.startswith(f"{path}/") for other in paths)]
        return [path for path in leaves if not set(KEPT).intersection(path.split("/"))]

    def _boot(self, addresses: dict[str, str]) -> dict[str, Host]:
        table = self._folder / "hosts"
        lines = ("127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items()))
        table.write_text("\n".join((*lines, "")), encoding="ascii")
        hosts = {}
        for name in ("switch", *addresses):
            hosts[name] = Host(name, self._folder / name, table)
            self._ending.callback(hosts[name].destroy)
        for host in hosts.values():
            host.wait()
        return hosts


def _address(number: int) -> str:
    return f"10.79.{1 + number // 250}.{1 + number % 250}"
