from __future__ import annotations

import socket
import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.election import contact
from stager.election.contact import HUNG_UP, Contact, Frames, Line
from tests.support.effort import effort

if TYPE_CHECKING:
    from collections.abc import Iterator

bodies = st.lists(st.binary(max_size=12), max_size=6)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def greeting(seconds: float) -> bytes:
    """The first answer of a server: version, timeout, session, password."""
    return framed(struct.pack(">iiq", 0, int(seconds * 1000), 7) + framed(bytes(16)))


@effort(80)
@given(messages=bodies, cuts=st.lists(st.integers(0, 100)))
def test_messages_are_counted_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(framed, messages))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    frames, ended = Frames(), 0
    for start, end in pairwise(edges):
        ended += frames.feed(memoryview(stream)[start:end])
        assert ended == whole(messages, end)
    assert frames.head == b"".join(messages)[:8]


def whole(messages: list[bytes], end: int) -> int:
    """Return how many messages lie before `end`."""
    return sum(sum(4 + len(body) for body in messages[: count + 1]) <= end for count in range(len(messages)))


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(contact, "now", clock)
    return clock


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection: the client's and the server's."""
    client, server = socket.socketpair()
    with client, server:
        client.setblocking(False)
        yield client, server


def test_nobody_is_sure_of_a_session_that_has_not_begun(time: Time) -> None:
    assert not Contact().sure(1)


def test_one_is_sure_from_the_sending_of_what_was_answered(
    time: Time, pair: tuple[socket.socket, socket.socket]
) -> None:
    proved, (client, server) = Contact(), pair
    line = Line(client, proved)
    line.send(framed(b"connect"))
    time.now += 3
    server.sendall(greeting(10))
    line.recv(1000)
    assert proved.granted == 10
    assert proved.sure(0.8)
    time.now += 4.9  # 7.9 s after the request was sent, 4.9 s after its answer came
    assert proved.sure(0.8)
    time.now += 0.2
    assert not proved.sure(0.8)
    line.send(framed(b"ping"))
    assert not proved.sure(0.8)  # nothing is proved by asking
    server.sendall(framed(b"pong"))
    assert not proved.sure(0.8)  # nor by an answer that nobody has read
    line.recv(1000)
    assert proved.sure(0.8)


def test_an_answer_read_late_proves_what_it_did_when_it_was_asked_for(
    time: Time, pair: tuple[socket.socket, socket.socket]
) -> None:
    """As after SIGCONT, with the answers of an hour ago still in the kernel's buffer."""
    proved, (client, server) = Contact(), pair
    line = Line(client, proved)
    line.send(framed(b"connect"))
    server.sendall(greeting(10))
    line.recv(1000)
    line.send(framed(b"ping"))
    server.sendall(framed(b"pong"))
    time.now += 3600
    line.recv(1000)
    assert not proved.sure(0.8)


@effort(60)
@given(script=st.lists(st.sampled_from(["send", "answer", "reconnect"]), max_size=30))
def test_answers_prove_the_request_that_they_answer(script: list[str]) -> None:
    proved, waiting, heard = Contact(), list[float](), 0.0
    proved.grant(1.0)
    for at, word in enumerate(script, start=1):
        if word == "send":
            proved.sent(1, float(at))
            waiting.append(float(at))
        elif word == "reconnect":
            proved.begin()
            waiting.clear()
        else:
            proved.answered(1)
            heard = waiting.pop(0) if waiting else heard
        assert proved._heard == heard


def test_a_connection_is_what_it_was_but_for_the_accounts(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    line = Line(client, Contact())
    assert line.fileno() == client.fileno()
    assert not hasattr(line, "pending")  # kazoo knows TLS by that
    assert line.send(memoryview(framed(b"abc"))) == 7
    assert server.recv(100) == framed(b"abc")
    with pytest.raises(BlockingIOError):
        line.recv(10)
    assert line.ending == ""


def test_hanging_up_before_a_session_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    line = Line(client, Contact())
    server.close()
    assert line.recv(10) == b""
    assert line.ending == HUNG_UP


def test_hanging_up_on_what_we_say_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    line = Line(client, Contact())
    server.close()
    with pytest.raises(BrokenPipeError):
        line.send(framed(b"connect"))
    assert line.ending == HUNG_UP


def test_a_reset_is_hanging_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        line = Line(client, Contact())
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()
        with pytest.raises(ConnectionResetError):
            line.recv(10)
    assert line.ending == HUNG_UP


def test_hanging_up_on_a_session_is_none_of_that(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    line = Line(client, Contact())
    server.sendall(greeting(6))
    server.close()
    line.recv(1000)
    assert line.recv(1000) == b""
    assert line.ending == ""


def test_now_goes_on() -> None:
    assert contact.now() <= contact.now()
