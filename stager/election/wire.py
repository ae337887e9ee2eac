"""kazoo's sockets and threads, with our own connecting: bounded, jittered, and telling what went wrong.

kazoo takes a handler for everything that its event loop needs; this is its usual one, threads, with sockets of ours.
It swallows why a connection failed, trusts every certificate authority of the system beside the one that it was given,
and leaks the socket of a TLS handshake that fails.
"""

from __future__ import annotations

import random
import socket
import ssl
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kazoo.handlers.threading import SequentialThreadingHandler

from stager.election.contact import Contact, Line

if TYPE_CHECKING:
    from collections.abc import Sequence

SPREAD = 0.5
"""Seconds over which the clients of a server that died come back: without it, all of them in the same millisecond."""


class Wire(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no annotations
    """`tls` is what TLS needs, or None.

    `patience`: seconds that a server has to accept a connection; `silence`: to give it a session then. kazoo would wait
    for the whole session's timeout, and a server that just starts may take a connection and forget it.
    `refusals` counts how often one did not want us: it hung up, or its certificate is not to be trusted.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self.contact = Contact()
        self.address = ""
        self.refusals = 0
        self._tls = tls
        self.patience = self.silence = 1.0
        self._over = threading.Event()
        self._troubles: dict[str, str] = {}
        self._place = ""
        self._line: Line | None = None
        self._socket: socket.socket | None = None

    @property
    def troubles(self) -> dict[str, str]:
        """Why the last attempt with each server, by its name and address, came to nothing."""
        ending = self._line.ending if self._line else ""
        return {**self._troubles, **({self._place: ending} if ending else {})}

    def create_connection(self, address: tuple[str, int], hostname: str = "", **_: object) -> Line:
        """Connect, for kazoo. Raises OSError."""
        self._account()
        self._place = f"{hostname or address[0]}:{address[1]}"
        if hostname not in ("", address[0]):
            self._place += f" ({address[0]})"  # a name may have several
        if self.contact.granted:
            self._over.wait(random.uniform(0, SPREAD))  # noqa: S311
        if self._over.is_set():
            raise OSError("the session is being closed")
        try:
            connection = self._open(address, hostname or address[0])
        except OSError as error:
            self._troubles[self._place] = error.strerror or str(error) or type(error).__name__
            self.refusals += isinstance(error, ssl.SSLError)
            raise
        self._troubles[self._place] = "it accepted the connection and did not answer"
        self._line = Line(connection, self.contact)
        self.address = str(connection.getsockname()[0])
        return self._line

    def select(self, rlist: Sequence[Any], wlist: Sequence[Any], xlist: Sequence[Any], timeout: float) -> Any:  # noqa: ANN401
        """Wait, for kazoo. What TLS has decrypted already, the kernel does not tell as readable any more."""
        if self._line and not self._line.greeted:
            timeout = min(timeout, self.silence)
        buffered = [item for item in rlist if hasattr(item, "pending") and item.pending()]
        readable, *others = super().select(rlist, wlist, xlist, 0 if buffered else timeout)
        return (buffered + [item for item in readable if item not in buffered], *others)

    def abort(self) -> None:
        """Have whatever kazoo waits for on the network end now, and no connection made any more."""
        self._over.set()
        if self._socket:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # of a socket that is connecting, too: inet_shutdown, Linux

    def _account(self) -> None:
        if self._line and self._line.ending:
            self._troubles[self._place] = self._line.ending
            self.refusals += 1
        self._line = None

    def _open(self, address: tuple[str, int], hostname: str) -> socket.socket:
        self._socket = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        try:
            self._socket.settimeout(self.patience)
            self._socket.connect(address)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                # Connected first, then secured: abort() has to know the socket that waits.
                secured = self._tls.wrap_socket(self._socket, server_hostname=hostname, do_handshake_on_connect=False)
                self._socket = secured
                secured.do_handshake()
        except BaseException:
            self._socket.close()
            raise
        return self._socket
