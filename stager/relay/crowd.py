"""All connections of the server: who comes in, and who has to go when there are too many or their time is over."""

from __future__ import annotations

import resource
import select
import socket
from time import monotonic

from stager.errors import ClusterUnavailable
from stager.relay.connection import READING, Connection
from stager.relay.wire import join_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stager.relay.wire import Request

MOST = 12_000
"""Connections: each of 10,000 nodes keeps one to its coordinator."""

SPARE = 64
"""Descriptors left to the rest of the process."""

HELD_MAX = 8 << 20
"""Bytes of requests that are not whole yet, of all peers together."""

EVICTED = 8
"""Where there are too many, one in so many of those that ask for nothing has to go: few sorts, whatever storms in."""

_WATCH = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Crowd:
    """The connections that `listener` accepts, at most `most`, watched by `epoll`; `on_drop` is told who goes."""

    def __init__(
        self, listener: socket.socket, epoll: select.epoll, most: int, on_drop: Callable[[Connection], None]
    ) -> None:
        self._listener = listener
        self._epoll = epoll
        self._most = most
        self._on_drop = on_drop
        self._members: dict[int, Connection] = {}
        self._held = 0
        epoll.register(listener, select.EPOLLIN)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._members.values()))

    def find(self, fd: int) -> Connection | None:
        return self._members.get(fd)

    def accept(self) -> None:
        """Let one in. Who has just come goes first only if all others are being served."""
        if len(self._members) >= self._most:
            self.evict()
        try:
            sock, name = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptors left, or it is gone already
            if not self.evict():
                self._epoll.modify(self._listener, 0)  # until the next tick: the listener is ready all the time
            return
        if len(self._members) >= self._most:
            sock.close()
            return
        sock.settimeout(0)
        self._members[sock.fileno()] = Connection(sock, join_address(name[0], name[1]))
        self._epoll.register(sock, _WATCH)

    def receive(self, connection: Connection) -> Request | None:
        """As the connection's own, but seeing to it that all of them together do not hold too much."""
        before = connection.held
        try:
            request = connection.receive()
        finally:
            self._held += connection.held - before
        while self._held > HELD_MAX and self.evict():
            pass
        return request

    def drop(self, connection: Connection) -> None:
        """End a connection."""
        if not connection.closed:
            connection.closed = True
            del self._members[connection.fileno]
            self._held -= connection.held
            self._on_drop(connection)
            connection.sock.close()

    def evict(self) -> int:
        """End some of the connections that ask for nothing: strangers first, then the oldest; return how many."""
        idle = [connection for connection in self if connection.state == READING]
        idle.sort(key=lambda connection: (connection.known, connection.since))
        victims = idle[: -(-len(idle) // EVICTED)]
        for connection in victims:
            self.drop(connection)
        return len(victims)

    def tick(self) -> None:
        """End those who have used up their time."""
        now = monotonic()
        for connection in self:
            if connection.overdue(now):
                self.drop(connection)
        self._epoll.modify(self._listener, select.EPOLLIN)


def listen(host: str, ports: range) -> socket.socket:
    """Return a socket that listens on the first free port. Raises ClusterUnavailable if there is none."""
    reason: OSError | None = None
    for port in ports:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.settimeout(0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(1024)
        except OSError as error:
            sock.close()
            reason = error
        else:
            _tune(sock)
            return sock
    among = "a port" if ports == range(1) else f"one of the ports {ports.start}–{ports.stop - 1}"
    raise ClusterUnavailable(
        f"the relay cannot listen on {among} of {host}: {reason.strerror if reason else 'there is none'}",
        hint="check the interface and the port range that the relay is to use",
    ) from reason


def room() -> int:
    """Return how many connections this process may have, having asked for as many as are needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + SPARE if hard == resource.RLIM_INFINITY else min(hard, MOST + SPARE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MOST if soft == resource.RLIM_INFINITY else max(SPARE, min(MOST, soft - SPARE))


def _tune(sock: socket.socket) -> None:
    """Set what accepted connections inherit (tcp(7)): no delay of small answers; a dead peer is noticed in 30–60 s."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_KEEPIDLE, 30),
        (socket.TCP_KEEPINTVL, 10),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, 30_000),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
