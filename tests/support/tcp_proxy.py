"""A TCP proxy on a loopback port that can swallow what the server answers: the request is done, and nobody is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

from tests.support.zookeeper import free_port


class Proxy:
    """Forwards to `target` (`host:port`), as a context manager. While `mute`, answers get lost."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", free_port()))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.mute = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """End all connections; new ones may be made."""
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join(20)
        for end in (self._listener, *self._sockets):
            end.close()

    def _spawn(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._sockets.append(client)
                try:
                    server = socket.create_connection(self._target, 5)
                except OSError:
                    client.shutdown(socket.SHUT_RDWR)
                    continue
                server.settimeout(None)
                self._sockets.append(server)
                self._spawn(self._forward, client, server, False)
                self._spawn(self._forward, server, client, True)

    def _forward(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if not (answers and self.mute):
                    sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
