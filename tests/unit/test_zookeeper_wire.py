from __future__ import annotations

import socket

import pytest

from stager.election.wire import Wire
from tests.support.within import within


class Decrypted:
    """A TLS socket of which the kernel has nothing more to give, but OpenSSL has: several answers in one record."""

    def __init__(self, connection: socket.socket, pending: int) -> None:
        self.fileno = connection.fileno
        self.pending = lambda: pending


def test_what_is_decrypted_already_is_not_waited_for() -> None:
    one, other = socket.socketpair()
    with one, other:
        for pending, readable in [(10, True), (0, False)]:
            connection = Decrypted(one, pending)
            with within(10):
                found, writable, _ = Wire(None).select([connection, other], [], [], 60 if readable else 0.01)
            assert found == [connection] * readable
            assert writable == []
        one.send(b"x")
        connection = Decrypted(one, 10)
        assert Wire(None).select([connection, other], [], [], 60)[0] == [connection, other]
        other.send(b"x")
        assert Wire(None).select([connection], [], [], 60)[0] == [connection]


def test_nothing_is_connected_after_the_end() -> None:
    wire = Wire(None)
    wire.abort()
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(OSError, match="being closed"):
        wire.create_connection(address=listener.getsockname())
