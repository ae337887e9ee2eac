"""One peer of the server: the bytes of its request as they come, the bytes of its answer as they can go."""

from __future__ import annotations

import os
from contextlib import suppress
from socket import SHUT_WR
from time import monotonic

from stager.relay.wire import CHUNK, END_OF_HEAD, HEAD_MAX, RECORD, Request, own_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

    from stager.relay.holding import Holding

STEP = 4 * CHUNK
"""Bytes that one stream may send before another one's turn comes."""

READ = 16384

HEAD_SECONDS = 10.0
"""For a whole request to come, its body included: milliseconds between nodes of a cluster."""
IDLE_SECONDS = 75.0
"""Between two requests of one of us."""
STUCK_SECONDS = 60.0
"""For a peer that takes none of the bytes that are ready for it."""
LINGER_SECONDS = 2.0
"""For a peer to end a connection on which all is said."""

READING, ASKING, SENDING, LINGERING = range(4)
"""What a connection is about: a request comes, its answer is being made, goes, is gone and was the last."""


class HeadTooLong(Exception):
    """A head that does not end."""


class PeerGone(Exception):
    """The other side ended the connection, or what it asked for is no more."""


class Stream:
    """A part of a holding on its way to a peer: bytes [offset, end) of its image or its records.

    `end` is None while the image's size is unknown and the peer wants all of it.
    """

    __slots__ = ("end", "holding", "image", "offset")

    def __init__(self, holding: Holding, offset: int, end: int | None, *, image: bool) -> None:
        self.holding = holding
        self.offset = offset
        self.end = end
        self.image = image

    @property
    def ready(self) -> int:
        """The offset up to which bytes may be sent now."""
        ready = self.holding.verified if self.image else self.holding.counted * RECORD
        return ready if self.end is None else min(ready, self.end)

    @property
    def over(self) -> bool:
        """Whether the last byte is sent."""
        if self.holding.complete and (self.end is None or self.end > self.ready):
            self.end = self.ready
        return self.end is not None and self.offset >= self.end

    def send(self, sock: socket, most: int) -> int:
        """Send what is ready, at most `most` bytes; return how many went. Raises BlockingIOError, OSError, PeerGone."""
        fd = self.holding.data if self.image else self.holding.records
        sent = os.sendfile(sock.fileno(), fd, self.offset, min(most, self.ready - self.offset))
        if not sent:
            raise PeerGone("the file is shorter than what was verified")
        self.offset += sent
        return sent


class Connection:
    """A peer's socket, non-blocking. `known`: it has proved to be one of us. `closing`: it ends with the answer.

    `since` is when its request began to come, or its turn to speak; `moved` when bytes went last; by time.monotonic().
    """

    def __init__(self, sock: socket, peer: str) -> None:
        self.sock = sock
        self.fileno = sock.fileno()
        self.peer = peer
        self.address = own_address(sock)
        self.known = False
        self.state = READING
        self.closing = self.closed = False
        self.since = self.moved = monotonic()
        self.stream: Stream | None = None
        self.out = bytearray()
        self._buffer = bytearray()
        self._request: Request | None = None
        self._scanned = 0

    @property
    def held(self) -> int:
        """Bytes of memory that what came in takes."""
        return len(self._buffer)

    @property
    def stuck(self) -> bool:
        """Whether bytes are ready that have not gone."""
        return bool(self.out) or (self.stream is not None and self.stream.offset < self.stream.ready)

    def receive(self) -> Request | None:
        """Read on until a request is whole; None until then.

        Raises NotUnderstood, HeadTooLong, PeerGone, OSError.
        """
        while (request := self._parse()) is None:
            try:
                came = self.sock.recv(READ)
            except BlockingIOError:
                return None
            if not came:
                raise PeerGone("it ended the connection")
            if not self._buffer and self._request is None:
                self.since = monotonic()
            self._buffer += came
        return request

    def send(self) -> int:
        """Send what can go now, one turn; return the bytes of the stream. Raises BlockingIOError, OSError, PeerGone."""
        while self.out:
            del self.out[: self.sock.send(self.out)]
            self.moved = monotonic()
        sent, stream = 0, self.stream
        while stream is not None and stream.offset < stream.ready and sent < STEP:
            try:
                sent += stream.send(self.sock, STEP - sent)
            except BlockingIOError:
                if not sent:
                    raise
                break
        if sent:
            self.moved = monotonic()
        return sent

    def listen_again(self) -> None:
        """Await the next request."""
        self.state, self.stream, self.since = READING, None, monotonic()

    def linger(self) -> None:
        """Say that nothing more will come. Closing at once would reset the connection and take the answer along."""
        self.state, self.stream, self.moved = LINGERING, None, monotonic()
        self.sock.shutdown(SHUT_WR)

    def discard(self) -> None:
        """Throw away what still comes. Raises PeerGone at its end, OSError."""
        with suppress(BlockingIOError):
            for _ in range(64):
                if not self.sock.recv(READ):
                    break
            raise PeerGone("it ended the connection, or does not stop talking")

    def overdue(self, now: float) -> bool:
        """Whether it has used up its time."""
        if self.state == LINGERING:
            return now - self.moved > LINGER_SECONDS
        if self.state == SENDING:
            return self.stuck and now - self.moved > STUCK_SECONDS
        idle = self.known and not self.held and self._request is None
        return self.state == READING and now - self.since > (IDLE_SECONDS if idle else HEAD_SECONDS)

    def _parse(self) -> Request | None:
        if self._request is None:
            end = self._buffer.find(END_OF_HEAD, max(0, self._scanned - 3))
            self._scanned = len(self._buffer)
            if end > HEAD_MAX or (end < 0 and len(self._buffer) > HEAD_MAX):
                raise HeadTooLong
            if end < 0:
                return None
            self._request = Request(bytes(self._buffer[:end]))
            del self._buffer[: end + len(END_OF_HEAD)]
        request = self._request
        if len(self._buffer) < request.length:
            return None
        request.body = bytes(self._buffer[: request.length])
        del self._buffer[: request.length]
        self._request, self._scanned = None, 0
        return request
