"""The relay: one thread that sends what this node holds to whoever may have it, as it gets verified.

sendfile(2) from the page cache into non-blocking sockets, driven by edge-triggered epoll(7): a stream that has sent all
there is costs nothing until its holding says that there is more.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from functools import partial
from time import monotonic

from stager.relay.answers import Reply, chunks_path, image_path, place_of, reply_to
from stager.relay.complaints import Complaints
from stager.relay.connection import ASKING, LINGERING, READING, SENDING, Connection, HeadTooLong, PeerGone
from stager.relay.crowd import Crowd, listen, room
from stager.relay.desk import Desk
from stager.relay.secret import credentials
from stager.relay.wire import JSON, NotUnderstood, answer_head, join_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.relay.desk import Handler
    from stager.relay.holding import Holding
    from stager.relay.secret import Guard
    from stager.relay.wire import Request

    Action = Callable[[], object]

TICK = 1.0
"""Seconds between two looks at who has used up its time."""

ABSENT_SECONDS = 2.0
"""For which an image that is not here yet is waited for: who is sent to us may come before we have heard of it."""

_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Server:
    """Listens on `host` (an IP address) and the first free one of `ports`, or any port.

    `guard` decides who may ask, `log` is told of those who may not. At most `most` connections: as many as the process
    may have, unless given.
    """

    def __init__(
        self, host: str, ports: range | None = None, *, guard: Guard, log: Callable[[str], None], most: int = 0
    ) -> None:
        self.address = ""
        """Where it listens, `ip:port`."""
        self.sent = 0
        """Bytes of images sent."""
        self._host = host
        self._ports = ports or range(1)
        self._guard = guard
        self._log = log
        self._most = most
        self._complaints = Complaints(log)
        self._desk = Desk(log)
        self._offers: dict[str, Offer] = {}
        self._waiting: dict[Holding, set[Connection]] = {}
        self._absent: list[tuple[Connection, Request, float]] = []
        self._ready: list[Connection] = []
        self._news: deque[Action] = deque()
        self._bell = -1
        self._rung = True  # until there is a bell
        self._ringing = threading.Lock()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="relay-server", daemon=True)

    def start(self) -> None:
        """Listen. Raises ClusterUnavailable if no port is free."""
        self._listener = listen(self._host, self._ports)
        self.address = join_address(self._host, self._listener.getsockname()[1])
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)
        self._crowd = Crowd(self._listener, self._epoll, self._most or room(), self._forget)
        os.eventfd_write(self._bell, 1)
        self._thread.start()

    def offer(self, staging: str, generation: int, holding: Holding) -> None:
        """Serve what is held, and what will be."""
        self.withdraw(staging, generation)
        offer = Offer(holding, lambda: self._post(offer.serve), self._serve)
        self._offers[image_path(staging, generation)] = offer
        self._offers[chunks_path(staging, generation)] = offer
        holding.listen(offer)
        self._post(self._look_again)

    def withdraw(self, staging: str, generation: int) -> None:
        """Serve it no more: once this returns, no byte of it is read again."""
        offer = self._offers.pop(image_path(staging, generation), None)
        self._offers.pop(chunks_path(staging, generation), None)
        if offer is None:
            return
        offer.holding.unlisten(offer)
        done = threading.Event()
        self._post(lambda: self._end_streams(offer.holding, done))
        while self._thread.is_alive() and not done.wait(TICK):
            pass

    def control(self, staging: str, handler: Handler | None) -> None:
        """Have `handler` answer what members say to the coordinator of `staging`; None: it coordinates no more.

        It is called with the verb and the message, one at a time, in a thread of its own; it returns the answer, or
        None if there is nothing to coordinate (410).
        """
        if handler is None:
            self._desk.handlers.pop(staging, None)
        else:
            self._desk.handlers[staging] = handler

    @property
    def downstream(self) -> int:
        """How many peers are being sent an image."""
        streams = [connection.stream for connection in self._crowd]
        return sum(stream is not None and stream.image for stream in streams)

    def close(self) -> None:
        """End all connections and threads."""
        if self._thread.is_alive():
            self._closing = True
            self._post(lambda: None)
            self._thread.join()
            self._desk.close()
            self._epoll.close()
            self._listener.close()
            with self._ringing:  # a number that is free again must not be written to
                self._rung = True
                os.close(self._bell)
        for offer in self._offers.values():
            offer.holding.unlisten(offer)

    def _post(self, action: Action) -> None:
        """Have the loop do something; from any thread."""
        self._news.append(action)
        with self._ringing:
            if not self._rung:
                self._rung = True
                os.eventfd_write(self._bell, 1)

    # What follows happens in the loop's thread.

    def _run(self) -> None:
        ticked = monotonic()
        while not self._closing:
            for fd, events in self._epoll.poll(0 if self._ready else TICK):
                self._attend(fd, events)
            while self._news:
                self._news.popleft()()
            ready, self._ready = self._ready, []
            for connection in ready:
                self._guarded(self._go_on, connection)
            if monotonic() - ticked > TICK:
                ticked = monotonic()
                self._crowd.tick()
                self._look_again()
        for connection in self._crowd:
            self._crowd.drop(connection)

    def _attend(self, fd: int, events: int) -> None:
        connection = self._crowd.find(fd)
        if connection is not None:
            if events & _ENDED and connection.state != READING:
                # Half a connection is none: none of us shuts down one direction only.
                self._crowd.drop(connection)
            else:
                self._guarded(self._go_on, connection)
        elif fd == self._bell:
            os.eventfd_read(self._bell)
            self._rung = False  # before the news are taken: what comes from now on rings again
        else:
            self._crowd.accept()

    def _guarded(self, act: Callable[[Connection], None], connection: Connection) -> None:
        """Let one peer's trouble end that peer's connection, and nothing else."""
        if connection.closed:
            return
        try:
            act(connection)
        except BlockingIOError:
            pass
        except NotUnderstood:
            self._guarded(lambda peer: self._reply(peer, Reply(400)), connection)
        except HeadTooLong:
            self._guarded(lambda peer: self._reply(peer, Reply(431)), connection)
        except (OSError, PeerGone):
            self._crowd.drop(connection)
        except Exception as error:  # noqa: BLE001 - a bug that one request meets must not end all streams
            self._log(f"relay: a request of {connection.peer} failed: {type(error).__name__}: {error}")
            self._crowd.drop(connection)

    def _go_on(self, connection: Connection) -> None:
        if connection.state == SENDING:
            self._send(connection)
        elif connection.state == LINGERING:
            connection.discard()
        elif connection.state == READING:
            request = self._crowd.receive(connection)
            if request is not None and not connection.closed:
                self._answer(connection, request)

    def _answer(self, connection: Connection, request: Request) -> None:
        connection.closing = request.close
        if reason := self._refusal(connection, request):
            self._complaints.refused(connection.peer, reason)
            self._reply(connection, Reply(403))
            return
        connection.known = True
        if request.method != "GET":
            self._ask(connection, request)
        elif self._may_come(request.path):
            connection.state = ASKING
            self._absent.append((connection, request, monotonic() + ABSENT_SECONDS))
        else:
            self._give(connection, request)

    def _give(self, connection: Connection, request: Request) -> None:
        offer = self._offers.get(request.path)
        reply = reply_to(request, offer.holding if offer else None)
        self._reply(connection, reply, self._guard.secret.seal(_nonce(request), reply.sealed))

    def _may_come(self, path: str) -> bool:
        """Whether what is not here may be offered soon: unless we have gone on to a later generation."""
        place = place_of(path)
        if path in self._offers or place is None:
            return False
        present = [other[1] for other in map(place_of, list(self._offers)) if other and other[0] == place[0]]
        return max(present, default=0) < place[1]

    def _look_again(self) -> None:
        """Answer those who wait for an image that was not here."""
        absent, self._absent = self._absent, []
        now = monotonic()
        for connection, request, until in absent:
            if now < until and self._may_come(request.path):
                self._absent.append((connection, request, until))
            else:
                self._guarded(partial(self._give, request=request), connection)

    def _refusal(self, connection: Connection, request: Request) -> str:
        fields = request.fields
        host = fields.get("host", "")
        if host not in {connection.address, self.address}:
            return "it is meant for somebody else"
        proof, range_ = fields.get("authorization", ""), fields.get("range", "")
        return self._guard.refusal(proof, request.method, host, request.path, range_=range_, body=request.body)

    def _ask(self, connection: Connection, request: Request) -> None:
        """Have a question answered in the desk's thread."""
        nonce = _nonce(request)

        def deliver(status: int, body: bytes) -> None:
            reply = Reply(status, {"Content-Type": JSON} if body else {}, body=body)
            seal = self._guard.secret.seal(nonce, body)
            self._post(lambda: self._guarded(lambda peer: self._reply(peer, reply, seal), connection))

        where = request.path.split("/")
        if request.method != "POST":
            raise NotUnderstood("a method of another kind")
        if len(where) != 4 or where[1] != "v1":
            self._reply(connection, Reply(404))
            return
        connection.state = ASKING
        self._desk.ask(where[2], where[3], request.body, deliver)

    def _reply(self, connection: Connection, reply: Reply, seal: str = "") -> None:
        connection.state = SENDING
        connection.closing |= reply.close
        connection.stream = reply.stream
        seals = {"X-Stage-Image-Mac": seal} if seal else {}
        ends = {"Connection": "close"} if connection.closing else {}
        connection.out += answer_head(reply.status, {**reply.fields, **seals, **ends}) + reply.body
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        sent = connection.send()
        stream = connection.stream
        if sent and stream is not None and stream.image:
            self.sent += sent
        if connection.stuck:
            self._ready.append(connection)
        elif stream is not None and not stream.over:
            self._waiting.setdefault(stream.holding, set()).add(connection)
        else:
            connection.linger() if connection.closing else connection.listen_again()
            self._ready.append(connection)  # it may have sent more already, which no edge will tell

    def _serve(self, holding: Holding) -> None:
        for connection in self._waiting.pop(holding, ()):
            self._guarded(self._go_on, connection)

    def _forget(self, connection: Connection) -> None:
        if connection.stream is not None:
            self._waiting.get(connection.stream.holding, set()).discard(connection)

    def _end_streams(self, holding: Holding, done: threading.Event) -> None:
        for connection in self._crowd:
            if connection.stream is not None and connection.stream.holding is holding:
                self._crowd.drop(connection)
        self._waiting.pop(holding, None)
        done.set()


def _nonce(request: Request) -> str:
    return credentials(request.fields["authorization"])[0]


class Offer:
    """A holding that is served; called as its listener, it has `serve` run in the loop, once for all news."""

    __slots__ = ("_pending", "_post", "_serve", "holding")

    def __init__(self, holding: Holding, post: Action, serve: Callable[[Holding], None]) -> None:
        self.holding = holding
        self._post = post
        self._serve = serve
        self._pending = False

    def __call__(self) -> None:
        if not self._pending:
            self._pending = True
            self._post()

    def serve(self) -> None:
        """Wake the streams that wait for more of it."""
        self._pending = False  # first: what is verified from now on is news again
        self._serve(self.holding)
