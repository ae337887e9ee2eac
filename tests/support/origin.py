"""A loopback HTTP/1.1 origin that keeps a record of every request and whose faults are exact to the byte.

As a program it serves a directory: `python -m tests.support.origin DIR [--port N] [--rate BYTES] [--log FILE]` prints
its URL on the first line and runs until its stdin ends; each finished request is a line of JSON in the log.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import socket
import struct
import sys
import termios
import threading
import time
from dataclasses import asdict
from email.utils import formatdate
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

from tests.support.faults import HEALTHY, Answer, Fault, Request, Resource, Stall, answer

__all__ = ["HEALTHY", "Fault", "Origin", "Request", "Stall"]

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

SLICE = 256 * 1024
"""Bytes a send, when no rate is set."""


class _Ended(Exception):
    """The connection is to end here."""


class Origin:
    """The server, as a context manager. `requests` is the record; `hook` may choose the fault of each request."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.hook: Callable[[Request], Fault | None] = lambda _: None
        self.root = ""
        self.default = HEALTHY
        self.finished: Callable[[Request], None] = lambda _: None
        self._tls = tls
        self._listener = socket.create_server((host, port), backlog=1024)
        self._resources: dict[str, Resource] = {}
        self._stalls: set[Stall] = set()
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._closing = False

    @property
    def host(self) -> str:
        """Address and port."""
        address, port = self._listener.getsockname()[:2]
        return f"{address}:{port}"

    def url(self, path: str = "/") -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}{path}"

    def put(self, path: str, content: bytes | os.PathLike[str], *faults: Fault) -> str:
        """Serve bytes or a file, with these faults in turn (see Fault.times); return the URL."""
        with self._changed:
            self._resources[path] = Resource(content if isinstance(content, bytes) else os.fspath(content), faults)
        return self.url(path)

    def seen(self, path: str, method: str = "GET") -> list[Request]:
        with self._changed:
            return [request for request in self.requests if (request.path, request.method) == (path, method)]

    def sent(self, path: str) -> int:
        """Bytes of bodies that left for a path."""
        return sum(request.sent for request in self.seen(path))

    def wait_for(self, count: int, timeout: float = 20) -> None:
        """Return once so many requests have come in."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, timeout):
                raise TimeoutError(f"{len(self.requests)} requests came, {count} were expected")

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closing = True
            for stall in self._stalls:
                stall.go.set()
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        number = 0
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            number += 1
            self._start(self._converse, connection, number)

    def _converse(self, connection: socket.socket, number: int) -> None:
        with contextlib.ExitStack() as ending:
            ending.callback(connection.close)
            with contextlib.suppress(OSError, _Ended):
                self._remember(connection)
                if self._tls:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                    ending.callback(connection.close)
                    self._remember(connection)
                with connection.makefile("rb") as reader:
                    while (request := _read_request(reader, number)) and not self._closing:
                        self._respond(connection, request)
                        if request.headers.get("connection") == "close":
                            return

    def _remember(self, connection: socket.socket) -> None:
        with self._changed:
            if self._closing:
                raise _Ended
            self._connections.append(connection)

    def _respond(self, connection: socket.socket, request: Request) -> None:
        with self._changed:
            if self._closing:
                raise _Ended
            resource = self._resources.get(request.path) or self._file(request.path)
            fault = self.hook(request) or (resource.next_fault() if resource else Fault(status=404))
            if fault is HEALTHY:
                fault = self.default
            reply = answer(request, resource or Resource(b""), fault)
            request.status = reply.status
            if fault.stall:
                self._stalls.add(fault.stall)
            self.requests.append(request)
            self._changed.notify_all()
        try:
            _Sender(connection, request, fault).send(reply)
        finally:
            self.finished(request)

    def _file(self, path: str) -> Resource | None:
        name = os.path.join(self.root, unquote(path.partition("?")[0]).lstrip("/"))
        return Resource(name) if self.root and ".." not in name and os.path.isfile(name) else None


def _read_request(reader: IO[bytes], number: int) -> Request | None:
    line = reader.readline(65536).decode("latin-1").split()
    if len(line) != 3:
        return None
    headers: dict[str, str] = {}
    while (header := reader.readline(65536)) not in (b"\r\n", b""):
        name, _, value = header.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    # A request in absolute form is one for a proxy; this server stands for both.
    target = urlsplit(line[1])
    return Request(line[0], target.path + (f"?{target.query}" if target.query else ""), headers, number)


class _Sender:
    """Sends one answer, with the faults that concern the wire."""

    def __init__(self, connection: socket.socket, request: Request, fault: Fault) -> None:
        self._connection = connection
        self._request = request
        self._fault = fault

    def send(self, reply: Answer) -> None:
        if self._fault.stall and self._fault.stall.at < 0:
            self._fault.stall.pause()
        if self._fault.raw:
            self._connection.sendall(self._fault.raw)
            raise _Ended
        self._connection.sendall(self._head(reply))
        if self._request.method != "HEAD" and reply.status != 304:
            self._send_body(reply)
        if self._fault.framing == "close" or self._fault.content_length is not None:
            raise _Ended

    def _head(self, reply: Answer) -> bytes:
        headers = {"Date": formatdate(usegmt=True), **reply.headers}
        if self._fault.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        elif self._fault.framing == "close":
            headers["Connection"] = "close"
        elif reply.status != 304:
            headers["Content-Length"] = str(reply.end - reply.start)
        if self._fault.content_length is not None:
            headers["Content-Length"] = self._fault.content_length
        lines = [f"{name}: {value}\r\n" for name, value in (headers | dict(self._fault.headers)).items()]
        phrase = HTTPStatus(reply.status).phrase
        return f"HTTP/1.1 {reply.status} {phrase}\r\n{''.join(lines)}\r\n".encode("latin-1")

    def _send_body(self, reply: Answer) -> None:
        length, position = reply.end - reply.start, 0
        stops = sorted({*self._stops(), length})
        for stop in stops:
            self._send_until(reply, position, min(stop, length))
            position = min(stop, length)
            self._act(stop)
        if self._fault.framing == "chunked":
            self._connection.sendall(b"0\r\n\r\n")

    def _stops(self) -> list[int]:
        stall = self._fault.stall.at if self._fault.stall else None
        return [n for n in (stall, self._fault.truncate_at, self._fault.reset_at) if n is not None and n >= 0]

    def _act(self, stop: int) -> None:
        if self._fault.stall and self._fault.stall.at == stop:
            self._fault.stall.pause()
        if self._fault.reset_at == stop:
            self._drain()
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise _Ended
        if self._fault.truncate_at == stop:
            raise _Ended

    def _drain(self) -> None:
        # A reset throws away what the client has not acknowledged (SIOCOUTQ, tcp(7)); N bytes are to mean N bytes.
        for _ in range(5000):
            if not any(fcntl.ioctl(self._connection, termios.TIOCOUTQ, b"\0\0\0\0")):
                return
            time.sleep(0.001)

    def _send_until(self, reply: Answer, position: int, stop: int) -> None:
        step = max(1, self._fault.rate // 20) if self._fault.rate else SLICE
        while position < stop:
            piece = reply.body.read(reply.start + position, reply.start + min(position + step, stop))
            if not piece:
                raise _Ended
            chunked = self._fault.framing == "chunked"
            # Counted before the client can know that it has them, and so before its test goes on.
            self._request.sent += len(piece)
            try:
                self._connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            except OSError:
                self._request.sent -= len(piece)
                raise
            position += len(piece)
            if self._fault.rate:
                time.sleep(len(piece) / self._fault.rate)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.support.origin")
    parser.add_argument("directory")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=int, default=0, help="bytes per second and connection")
    parser.add_argument("--log", default=os.devnull, help="one line of JSON per finished request")
    options = parser.parse_args()
    with open(options.log, "a", encoding="utf-8", buffering=1) as log, Origin(port=options.port) as origin:
        origin.root = os.path.abspath(options.directory)
        origin.default = Fault(rate=options.rate)
        origin.finished = lambda request: print(json.dumps(asdict(request)), file=log)
        print(origin.url("/"), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
