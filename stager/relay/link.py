"""One connection to another node, as its client: every wait is bounded, and `shut` ends it from another thread."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from contextlib import suppress
from fcntl import ioctl
from termios import FIONREAD
from time import monotonic

from stager.clock import SystemClock
from stager.relay.secret import credentials
from stager.relay.wire import END_OF_HEAD, HEAD_MAX, Answer, NotUnderstood, request_head, split_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.clock import Clock
    from stager.relay.secret import Secret

SLICE = 0.1
"""Seconds after which a wait looks at its deadline, and hands over what has come of a chunk so far."""

_TIMEVAL = struct.Struct("@ll")


class PeerLost(Exception):
    """Another node does not do what it was asked.

    `why`: refused (nobody listens there, or no way leads there), reset (the connection broke), silent (too long),
    moved (it coordinates no longer), denied (it does not let us in), stranger (it is not one of us). The message is for
    people.
    """

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


class Link:
    """A connection to `address` (`ip:port`), made when first needed.

    `heard` is when the last byte came, by time.monotonic(); `waiting` whether somebody waits for one. For one thread,
    apart from `shut`.
    """

    def __init__(self, address: str, secret: Secret, clock: Clock | None = None) -> None:
        self.address = address
        self.heard = 0.0
        self.waiting = False
        self.deadline = float("inf")
        self._secret = secret
        self._clock = clock or SystemClock()
        self._sock: socket.socket | None = None
        self._lock = threading.Lock()
        self._shut = False
        self._rest = bytearray()
        self._buffer = memoryview(bytearray(16384))
        self._nonce = ""

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as this side knows."""
        return self._sock is not None

    @property
    def silence(self) -> float:
        """Seconds since the last byte came, 0 while none is waited for."""
        return max(0.0, monotonic() - self.heard) if self.waiting else 0.0

    def connect(self, timeout: float) -> None:
        """Connect within `timeout` seconds. Raises PeerLost."""
        try:
            host, port = split_address(self.address)
        except ValueError as error:
            raise PeerLost("refused", str(error)) from error
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        with self._lock:
            self._sock = sock
            if self._shut:
                raise PeerLost("reset", "it is over")
        self.heard, self.waiting = monotonic(), True
        try:
            socket.inet_pton(sock.family, host)  # looking up a name could take any time
            sock.settimeout(timeout)
            sock.connect((host, port))
            sock.settimeout(None)
            # Not settimeout(): that makes the socket non-blocking, and MSG_WAITALL then waits for nothing.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(0, int(SLICE * 1e6)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(timeout) + 1, 0))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            self.close()
            why = "silent" if isinstance(error, TimeoutError) else "refused"
            raise PeerLost(why, f"{self.address} cannot be reached: {error.strerror or error}") from error
        finally:
            self.waiting = False

    def ask(self, method: str, path: str, *, fields: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        """Send a request and return the head of the answer; the body is for `fill` and `take`. Raises PeerLost."""
        named = dict(fields or {})
        now_ms = int(self._clock.wall() * 1000)
        range_ = named.get("Range", "")
        proof = self._secret.authorize(method, self.address, path, range_=range_, body=body, now_ms=now_ms)
        self._nonce = credentials(proof)[0]
        length = {"Content-Length": str(len(body))} if body else {}
        head = request_head(method, path, {"Host": self.address, "Authorization": proof, **named, **length})
        try:
            self._socket().sendall(head + body)
        except OSError as error:
            raise PeerLost("reset", f"{self.address} broke the connection off: {error.strerror}") from error
        return self._read_head()

    def is_sealed(self, answer: Answer, body: bytes) -> bool:
        """Whether an answer comes from one who knows the secret, and belongs to what was asked last."""
        return self._secret.is_seal(answer.fields.get("x-stage-image-mac", ""), self._nonce, body)

    def fill(self, view: memoryview) -> int:
        """Wait until `view` is full; return the bytes that came, fewer only at the end. Raises PeerLost."""
        done = min(len(view), len(self._rest))
        view[:done] = self._rest[:done]
        del self._rest[:done]
        self.heard, self.waiting = monotonic(), True
        while done < len(view) and (got := self.receive(view[done:], socket.MSG_WAITALL)):
            done += got
        self.waiting = False
        return done

    @property
    def available(self) -> int:
        """How many bytes `fill` would not have to wait for, at least."""
        count = bytearray(4)
        try:
            ioctl(self._socket(), FIONREAD, count)
        except (OSError, PeerLost):
            return 0
        return int.from_bytes(count, sys.byteorder)

    def take(self, length: int) -> bytes:
        """Wait for so many bytes, a few; return them, fewer only at the end. Raises PeerLost."""
        self.heard, self.waiting = monotonic(), True
        while len(self._rest) < length and self._read_some():
            pass
        self.waiting = False
        taken = bytes(self._rest[:length])
        del self._rest[:length]
        return taken

    def shut(self) -> None:
        """End it, from any thread: whoever waits for bytes gets none any more."""
        with self._lock:
            self._shut = True
            if self._sock is not None:
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let the connection go, so that another one can be made."""
        with self._lock:  # a number that is free again must not be shut down
            if self._sock is not None:
                self._sock.close()
            self._sock = None
        self.waiting = False
        self._rest.clear()

    def _socket(self) -> socket.socket:
        if self._sock is None:
            raise PeerLost("reset", f"there is no connection to {self.address}")
        return self._sock

    def _read_head(self) -> Answer:
        self.heard, self.waiting = monotonic(), True
        while (end := self._rest.find(END_OF_HEAD)) < 0:
            if len(self._rest) > HEAD_MAX:
                raise PeerLost("stranger", f"{self.address} does not speak what we do")
            if not self._read_some():
                raise PeerLost("reset", f"{self.address} ended the connection without an answer")
        self.waiting = False
        block = bytes(self._rest[:end])
        del self._rest[: end + len(END_OF_HEAD)]
        try:
            return Answer(block)
        except NotUnderstood as error:
            raise PeerLost("stranger", f"{self.address} does not speak what we do: {error}") from error

    def _read_some(self) -> int:
        got = self.receive(self._buffer, 0)
        self._rest += self._buffer[:got]
        return got

    def receive(self, view: memoryview, flags: int) -> int:
        """Wait for some bytes; return how many came, 0 at the end. Raises PeerLost."""
        sock = self._socket()
        while True:
            try:
                got = sock.recv_into(view, 0, flags)
            except BlockingIOError:
                got = -1
            except OSError as error:
                raise PeerLost("reset", f"{self.address} broke the connection off: {error.strerror}") from error
            now = monotonic()
            if got >= 0:
                self.heard = now
            if now > self.deadline:
                raise PeerLost("silent", f"{self.address} does not answer in time")
            if got >= 0:
                return got
