"""What a connection to ZooKeeper proves: when the server last heard from us, and what it granted.

A session is a lease that begins anew whenever the server hears from its client. The client knows only of requests that
were answered, and only when it sent them: until that moment plus the session's timeout nobody else can have taken what
is ours. A process that was stopped (SIGSTOP, a suspended node) cannot trust the client library's word for it: the
library is told by the same kernel buffers only after the process runs again.

A message is four bytes of length, big endian, and that many bytes; each request has one answer, in order
(https://zookeeper.apache.org/doc/r3.8.0/zookeeperProgrammers.html, and org.apache.zookeeper.ClientCnxn). We set no
watches, so nothing else comes in between.
"""

from __future__ import annotations

import ssl
import struct
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

_GRANT = struct.Struct(">ii")
"""The head of the first answer: version of the protocol, session timeout in milliseconds."""


HUNG_UP = "it accepted the connection and hung up without a word"


class Frames:
    """Counts the messages in a stream of bytes, however it is cut. `head` keeps the first bytes of the first one."""

    def __init__(self) -> None:
        self.head = b""
        self._prefix = b""
        self._left = 0

    def feed(self, piece: bytes | memoryview) -> int:
        """Return how many messages end in this piece."""
        data, position, ended = bytes(piece), 0, 0
        while position < len(data):
            if self._left == 0:
                taken = data[position : position + 4 - len(self._prefix)]
                self._prefix += taken
                position += len(taken)
                if len(self._prefix) < 4:
                    break
                self._left, self._prefix = int.from_bytes(self._prefix, "big"), b""
            else:
                taken = data[position : position + self._left]
                self.head += taken[: max(0, _GRANT.size - len(self.head))]
                self._left -= len(taken)
                position += len(taken)
            ended += self._left == 0
        return ended


class Contact:
    """What the connections of one client have proved. Written by the client's thread, read by anybody's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: deque[float] = deque()
        self._heard = 0.0
        self._granted = 0.0

    def begin(self) -> None:
        """A new connection: what was sent over the old one is not answered any more."""
        with self._lock:
            self._sent.clear()

    def sent(self, count: int, at: float) -> None:
        """So many requests are on their way since `at`."""
        with self._lock:
            self._sent.extend([at] * count)

    def answered(self, count: int) -> None:
        """So many answers came in."""
        with self._lock:
            for _ in range(min(count, len(self._sent))):
                self._heard = self._sent.popleft()

    @property
    def granted(self) -> float:
        """The session's timeout in seconds; 0 without a session."""
        return self._granted

    def grant(self, seconds: float) -> None:
        """The server gave the session this timeout; 0: the session is over."""
        self._granted = seconds

    def sure(self, share: float) -> bool:
        """Whether the session lives for certain: less than `share` of its timeout ago the server heard from us."""
        return now() - self._heard < self._granted * share


class Line:
    """A connected socket, plain or TLS, that keeps the accounts of a Contact. Else it is that socket.

    `greeted`: the server has given a session, or says that the old one is over. `ending` says how the connection ended,
    if it did before that.
    """

    def __init__(self, connection: socket.socket, contact: Contact) -> None:
        self._connection = connection
        self._contact = contact
        self._out, self._in = Frames(), Frames()
        self.greeted = False
        self.ending = ""
        contact.begin()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._connection, name)

    def send(self, data: bytes | memoryview) -> int:
        """Send some of `data`; return how many bytes."""
        at = now()  # before the system call: we may be stopped behind it
        try:
            count = self._connection.send(data)
        except ConnectionError:
            self._end(HUNG_UP)
            raise
        self._contact.sent(self._out.feed(data[:count]), at)
        return count

    def recv(self, size: int) -> bytes:
        """Return what has come, at most `size` bytes."""
        try:
            data = self._connection.recv(size)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ConnectionError:  # a server that has too many hangs up before it has read what we sent: a reset
            self._end(HUNG_UP)
            raise
        except OSError as error:
            self._end(error.strerror or str(error))
            raise
        if not data:
            self._end(HUNG_UP)
        self._contact.answered(self._in.feed(data))
        self._greet()
        return data

    def _greet(self) -> None:
        if not self.greeted and len(self._in.head) == _GRANT.size:
            self.greeted = True
            self._contact.grant(_GRANT.unpack(self._in.head)[1] / 1000)

    def _end(self, how: str) -> None:
        if not self.greeted:
            self.ending = how


def now() -> float:
    """Return seconds since boot, those in which the node was suspended included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
