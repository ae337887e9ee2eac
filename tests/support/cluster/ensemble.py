"""ZooKeeper: one server, or three, each on a host of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tests.support.tasks import until
from tests.support.zookeeper import JARS, fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.cluster.hosts import Host, Process

PORT = 2181

_JARS = f"{JARS}/zookeeper.jar:{JARS}/slf4j-simple.jar"
# A small, quickly started server; nothing of what it knows outlives the host, so it needs no fsync.
_JAVA = ("-Xms32m", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto")
_MAIN = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", _JARS)
_CONFIG = """\
tickTime=500
initLimit=20
syncLimit=10
dataDir={data}
clientPortAddress={address}
clientPort={port}
admin.enableServer=false
maxClientCnxns=0
minSessionTimeout=1000
maxSessionTimeout=60000
4lw.commands.whitelist=*
forceSync=no
"""


class Ensemble:
    """The servers, which know each other."""

    def __init__(self, hosts: Sequence[Host], addresses: Sequence[str]) -> None:
        self._hosts = hosts
        self._addresses = addresses
        self._processes: dict[int, Process] = {}
        peers = "".join(f"server.{i}={address}:2888:3888\n" for i, address in enumerate(addresses))
        for number, (host, address) in enumerate(zip(hosts, addresses, strict=True)):
            data = host.folder / "data"
            data.mkdir()
            (data / "myid").write_text(str(number))
            text = _CONFIG.format(data=data, address=address, port=PORT) + (peers if len(hosts) > 1 else "")
            (host.folder / "zoo.cfg").write_text(text)

    @property
    def address(self) -> str:
        """All of them, as clients are told."""
        return ",".join(f"{address}:{PORT}" for address in self._addresses)

    def __len__(self) -> int:
        return len(self._hosts)

    def start(self, *numbers: int) -> None:
        """Start these servers, all by default, without waiting for any."""
        for number in numbers or range(len(self)):
            host = self._hosts[number]
            main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
            self._processes[number] = host.start("java", *_JAVA, *_MAIN, main, str(host.folder / "zoo.cfg"))

    def wait(self, *numbers: int) -> None:
        """Return when these, all by default, serve."""
        for number in numbers or range(len(self)):
            until(partial(self.mode, number), f"server {number} of ZooKeeper to serve")

    def kill(self, *numbers: int) -> None:
        """End these, all by default, as SIGKILL does; what they know stays on their disks."""
        for number in numbers or range(len(self)):
            self._hosts[number].kill()

    def freeze(self) -> None:
        """Let all of them be silent: connections stand, and nobody answers."""
        for host in self._hosts:
            host.freeze()

    def thaw(self) -> None:
        for host in self._hosts:
            host.thaw()

    def mode(self, number: int) -> str:
        """Return what a server says it is: standalone, leader, follower; empty while it does not serve."""
        return fields(self._ask(number, b"srvr"), ": ").get("Mode", "")

    def leader(self) -> int:
        """Return the number of the server that leads the others."""
        return next(number for number in range(len(self)) if self.mode(number) in {"leader", "standalone"})

    def mntr(self, number: int = 0) -> dict[str, str]:
        """Return a server's counters."""
        return fields(self._ask(number, b"mntr"), "\t")

    def paths(self, top: str = "/stage-image") -> dict[str, bytes]:
        """Return all nodes of the tree from `top` on, with what they hold."""
        from kazoo.client import KazooClient

        def visit() -> dict[str, bytes]:
            client = KazooClient(self.address, timeout=5)
            client.start(10)
            try:
                return _tree(client, top)
            finally:
                client.stop()
                client.close()

        return self._hosts[0].within(visit)

    def _ask(self, number: int, word: bytes) -> str:
        try:
            with self._hosts[number].connect(self._addresses[number], PORT, 2) as connection:
                connection.sendall(word)
                with connection.makefile("rb") as answer:
                    return answer.read().decode()
        except OSError:
            return ""


def _tree(client: Any, top: str) -> dict[str, bytes]:  # noqa: ANN401
    from kazoo.exceptions import NoNodeError

    try:
        found = {top: client.get(top)[0]}
        for name in client.get_children(top):
            found |= _tree(client, f"{top}/{name}")
    except NoNodeError:
        return {}
    return found
