"""The other members of one staging: everything that the relay does for a node, in one place."""

from __future__ import annotations

import threading

from stager import interfaces
from stager.clock import SystemClock
from stager.relay.control import Control
from stager.relay.holding import ChunkHasher, Holding
from stager.relay.link import PeerLost
from stager.relay.secret import Guard, Secret
from stager.relay.server import Server
from stager.relay.upstream import Upstream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.interfaces import Message

ASK_SECONDS = 3.0
"""For a coordinator's answer: on a node that starts 128 tasks at once, 1 s without a turn on a core was seen."""

CONNECT_SECONDS = 2.0


class RelayPeers:
    """As interfaces.Peers. Listens on `host` at once, at the first free one of `ports`. Raises ClusterUnavailable.

    `log` is told of strangers.
    """

    def __init__(self, host: str, ports: range | None, *, log: Callable[[str], None]) -> None:
        self._staging = ""
        self._secret = Secret.new()
        self._clock = SystemClock()
        self._guard = Guard(self._secret, self._clock)
        self._server = Server(host, ports, guard=self._guard, log=log)
        self._server.start()
        self._offered: tuple[int, Holding] | None = None
        self._control: Control | None = None
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return self._server.address

    @property
    def downstream(self) -> int:
        return self._server.downstream

    def trust(self, staging: str, secret: str) -> None:
        self._staging = staging
        self._secret = self._guard.secret = Secret.parse(secret)
        self._drop_control()

    def hold(self, fd: int, folder: str, generation: int, *, size: int | None, own: int) -> Holding:
        if self._offered is not None:
            self._server.withdraw(self._staging, self._offered[0])
            self._offered[1].close()
            self._offered = None
        holding = Holding(fd, staging=self._staging, generation=generation, secret=self._secret, folder=folder, own=own)
        if size is not None:
            holding.size = size
        self._server.offer(self._staging, generation, holding)
        self._offered = (generation, holding)
        return holding

    def hash(self, holding: interfaces.Holding, position: Callable[[], int]) -> ChunkHasher:
        if not isinstance(holding, Holding):
            raise TypeError("a holding of this relay is wanted")
        hasher = ChunkHasher(holding, position)
        hasher.start()
        return hasher

    def pull(self, address: str, holding: interfaces.Holding, advance: Callable[[int], None]) -> Upstream:
        if not isinstance(holding, Holding):
            raise TypeError("a holding of this relay is wanted")
        return Upstream(
            address,
            staging=self._staging,
            generation=holding.generation,
            secret=self._secret,
            holding=holding,
            advance=advance,
            connect_timeout=CONNECT_SECONDS,
        )

    def ask(self, address: str, verb: str, message: Message) -> Message:
        with self._lock:
            if self._control is None or self._control.address != address:
                if self._control is not None:
                    self._control.close()
                self._control = Control(address, staging=self._staging, secret=self._secret, timeout=ASK_SECONDS)
            try:
                return self._control.ask(verb, message)
            except PeerLost as lost:
                raise interfaces.PeerLost(lost.why) from lost

    def coordinate(self, answer: Callable[[str, Message], Message | None] | None) -> None:
        self._server.control(self._staging, answer)

    def close(self) -> None:
        self._drop_control()
        self._server.close()
        if self._offered is not None:
            self._offered[1].close()
            self._offered = None

    def _drop_control(self) -> None:
        with self._lock:
            if self._control is not None:
                self._control.close()
                self._control = None
