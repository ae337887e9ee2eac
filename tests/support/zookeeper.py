"""Real ZooKeeper servers on loopback ports: one, or an ensemble of which single servers die and come back."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.capabilities import ZOOKEEPER_JAR
from tests.support.tasks import until

if TYPE_CHECKING:
    from collections.abc import Sequence

JARS = Path(ZOOKEEPER_JAR).parent

# The manifest of the first names the others, but not all that TLS needs.
_CLASSES = (
    *("zookeeper", "slf4j-simple", "netty-codec", "netty-resolver", "netty-transport-native-unix-common"),
    *("netty-handler", "netty-buffer", "netty-common", "netty-transport"),
)

# A small server, up in half a second. An archive of its classes (AppCDS) would save 0.1 to 0.2 s of that.
_JAVA = ("java", "-Xms32m", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
_LOG = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
_MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"

# What the servers know need not outlive the machine, so nothing is synced.
_CONFIG = """\
tickTime=500
initLimit=20
syncLimit=10
dataDir={folder}/data
admin.enableServer=false
minSessionTimeout=1000
maxSessionTimeout=120000
4lw.commands.whitelist=*
forceSync=no
preAllocSize=64
"""
_PLAIN = "clientPortAddress=127.0.0.1\nclientPort={port}\n"
_SECURE = """\
secureClientPortAddress=127.0.0.1
secureClientPort={port}
serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory
ssl.keyStore.type=PEM
ssl.keyStore.location={folder}/server.pem
ssl.trustStore.type=PEM
ssl.trustStore.location={folder}/authority.pem
"""


class Server:
    """One server in a folder of its own. `options` are lines for zoo.cfg; `files` go beside it."""

    def __init__(self, folder: Path, options: Sequence[str] = (), number: int = 0) -> None:
        self._folder = folder
        self.options = tuple(options)
        self._number = number
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.control = self.port
        """The port that answers `srvr` and its kin: the plain one."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def secure(self, authority: Path, server: Path, *, client_certificates: bool) -> None:
        """Serve TLS as well, on `address`, with PEM files: whom to trust; certificate and key. Before the start."""
        self.port = free_port()
        shutil.copyfile(authority, self._folder / "authority.pem")
        shutil.copyfile(server, self._folder / "server.pem")
        text = _SECURE.format(port=self.port, folder=self._folder)
        self.options += (text + f"ssl.clientAuth={'need' if client_certificates else 'none'}",)

    def start(self) -> None:
        """Start, or start again with what is on its disk, without waiting."""
        (self._folder / "data").mkdir(exist_ok=True)
        (self._folder / "data" / "myid").write_text(str(self._number))
        lines = [_CONFIG.format(folder=self._folder), _PLAIN.format(port=self.control), *self.options]
        (self._folder / "zoo.cfg").write_text("\n".join(lines))
        classes = ":".join(str(JARS / f"{name}.jar") for name in _CLASSES)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_JAVA, _LOG, "-cp", classes, _MAIN, str(self._folder / "zoo.cfg")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )

    def wait(self) -> None:
        """Return once it serves."""
        until(lambda: self.mode or not self.running, "ZooKeeper to serve")
        assert self.running, self.log

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def kill(self) -> None:
        """End it as a failing node would, and return when it is gone."""
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """SIGSTOP makes a silent server, SIGCONT another one of it."""
        if self._process:
            self._process.send_signal(number)
            if number == signal.SIGKILL:
                self._process.wait(20)

    def command(self, word: str, patience: float = 5.0) -> str:
        """Return the answer to a four-letter word, empty if there is none."""
        try:
            with socket.create_connection(("127.0.0.1", self.control), patience) as connection:
                connection.sendall(word.encode())
                with connection.makefile("rb") as answer:
                    return answer.read().decode()
        except OSError:
            return ""

    @property
    def mode(self) -> str:
        """`standalone`, `leader` or `follower`; empty while it does not serve."""
        # A server that just starts may take a connection and forget it.
        return fields(self.command("srvr", 0.3), ": ").get("Mode", "")

    def mntr(self) -> dict[str, str]:
        """Return its counters."""
        return fields(self.command("mntr"), "\t")

    def count(self, name: str) -> int:
        """Return one counter of `mntr`."""
        return int(float(self.mntr()[name]))

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class Servers:
    """One server or an ensemble of several, as a context manager. `options` are lines for each zoo.cfg."""

    def __init__(self, count: int = 1, options: Sequence[str] = ()) -> None:
        ports = [(free_port(), free_port()) for _ in range(count)] if count > 1 else []
        peers = [f"server.{i}=127.0.0.1:{a}:{b}" for i, (a, b) in enumerate(ports)]
        folders = [Path(tempfile.mkdtemp(prefix="zookeeper-")) for _ in range(count)]
        self.all = [Server(folder, ("maxClientCnxns=0", *options, *peers), i) for i, folder in enumerate(folders)]

    @property
    def hosts(self) -> str:
        """All of them, as clients are told."""
        return ",".join(server.address for server in self.all)

    @property
    def one(self) -> Server:
        """The only one."""
        (server,) = self.all
        return server

    def leader(self) -> Server:
        """Return the server that leads the others, once there is one."""
        return until(lambda: next((s for s in self.all if s.mode in ("leader", "standalone")), None), "a leader")

    def followers(self) -> list[Server]:
        leader = self.leader()
        return [server for server in self.all if server is not leader]

    def start(self, *servers: Server) -> None:
        """Start these, all by default, and return once they serve."""
        for server in servers or self.all:
            server.start()
        for server in servers or self.all:
            server.wait()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.all:
            server.stop()


def fields(text: str, separator: str) -> dict[str, str]:
    """Return the names and values of lines."""
    pairs = (line.partition(separator) for line in text.splitlines())
    return {name: value for name, found, value in pairs if found}


_given: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on, below those that the kernel gives to clients: free for restarts, too."""
    while True:
        port = random.randrange(15000, 32000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                pass
        except OSError:
            continue
        if port not in _given:
            _given.add(port)
            return port
