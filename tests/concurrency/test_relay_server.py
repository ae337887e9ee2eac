"""The server on real sockets: what it sends, to whom, and what it puts up with."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
import time
from contextlib import ExitStack, suppress
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.clock import SystemClock
from stager.errors import ClusterUnavailable
from stager.relay import connection as connection_module
from stager.relay import server as server_module
from stager.relay.answers import chunks_path, image_path
from stager.relay.link import PeerLost
from stager.relay.secret import Guard, Secret
from stager.relay.server import Server
from stager.relay.wire import CHUNK, OFFSET_MAX, RECORD
from tests.support.effort import effort
from tests.support.relay_scene import (
    GENERATION,
    PATIENCE,
    STAGING,
    Scene,
    body,
    eventually,
    held_by_process,
    image,
    raw,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.relay_scene import Node

IMAGE = image_path(STAGING, GENERATION)
JUNK = [b"\0" * 5000, b"\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"POST /v1/a/join HTTP/1.1\r\n\r\n"]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    before = held_by_process()
    with Scene(str(tmp_path)) as built:
        yield built
    assert held_by_process() == before


def authorized(node: Node, secret: Secret, *, range_: str = "", path: str = IMAGE, method: str = "GET") -> bytes:
    now_ms = int(time.time() * 1000)
    proof = secret.authorize(method, node.address, path, range_=range_, now_ms=now_ms)
    ranged = f"Range: {range_}\r\n" if range_ else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {node.address}\r\nAuthorization: {proof}\r\n{ranged}\r\n".encode()


def everything(sock: socket.socket) -> bytes:
    """Return all that comes until the connection ends, however."""
    came = b""
    try:
        while piece := sock.recv(65536):
            came += piece
    except ConnectionResetError:
        pass
    return came


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.mark.needs("curl")
def test_curl_gets_a_range(scene: Scene) -> None:
    """What is on the wire is plain HTTP: any tool will do, given the one header."""
    content = image(2.5)
    node = scene.full(content)
    proof = scene.secret.authorize(
        "GET", node.address, IMAGE, range_="bytes=300001-500000", now_ms=int(time.time() * 1000)
    )
    command = ["curl", "-sSf", "-D-", "-r", "300001-500000", "-H", f"Authorization: {proof}"]
    run = subprocess.run([*command, f"http://{node.address}{IMAGE}"], capture_output=True, check=True, timeout=PATIENCE)
    head, _, got = run.stdout.partition(b"\r\n\r\n")
    assert got == content[300001:500001]
    assert head.startswith(b"HTTP/1.1 206 Partial Content\r\n")
    assert f"Content-Range: bytes 300001-500000/{len(content)}".encode() in head
    url = f"http://{node.address}{IMAGE}"
    again = subprocess.run([*command, url], capture_output=True, check=False, timeout=PATIENCE)
    assert b"403" in again.stderr
    assert "it was made before" in node.lines[0]


@pytest.mark.parametrize("start", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 77])
def test_a_growing_file_is_sent_as_it_gets_verified(scene: Scene, start: int) -> None:
    content = image(3.5)
    node = scene.node()
    answer, link = scene.get(node, f"bytes={start}-")
    assert (answer.status, answer.length) == (206, None)
    assert answer.fields["content-range"] == f"bytes {start}-{OFFSET_MAX - 1}/*"
    got = b""
    for piece in (CHUNK // 2, CHUNK, CHUNK):
        node.write(content[node.written : node.written + piece])
        node.vouch()
        got += body(link, max(0, node.holding.verified - start) - len(got))
        assert got == content[start : node.holding.verified]
    node.write(content[node.written :])
    node.vouch(finished=True)
    assert got + body(link, len(content)) == content[start:]


def test_only_verified_bytes_leave(scene: Scene) -> None:
    node = scene.node(size=2 * CHUNK)
    _, link = scene.get(node, "bytes=0-")
    node.write(image(1.9))
    node.vouch()
    assert len(body(link, CHUNK)) == CHUNK
    link.deadline = time.monotonic() + 0.2
    with pytest.raises(PeerLost, match="in time"):
        body(link, 1)


@given(st.lists(st.tuples(st.integers(1, CHUNK), st.integers(0, 3 * CHUNK)), min_size=1, max_size=6), st.booleans())
@effort(8)
def test_whatever_is_asked_for_whenever_is_what_the_file_holds(steps: list[tuple[int, int]], known: bool) -> None:
    """Readers that begin anywhere, before or after the bytes are there, get the file from there on."""
    content = image(sum(piece for piece, _ in steps) / CHUNK)
    with Scene("/tmp") as scene:
        node = scene.node(size=len(content) if known else None)
        readers = []
        for piece, start in steps:
            if start < len(content):
                readers.append((start, *scene.get(node, f"bytes={start}-")))
            node.write(content[node.written : node.written + piece])
            node.vouch()
        node.vouch(finished=True)
        for start, answer, link in readers:
            assert answer.length == (len(content) - start if known else None)
            assert body(link, len(content) + 1 if not known else len(content) - start) == content[start:]


def test_a_slow_reader_does_not_stop_a_fast_one(scene: Scene) -> None:
    content = image(64)
    node = scene.full(content)
    _, slow = scene.get(node, "bytes=0-")
    _, fast = scene.get(node, "bytes=0-")
    assert body(fast, len(content)) == content
    eventually(lambda: node.server.downstream == 1)
    assert body(slow, len(content)) == content
    eventually(lambda: node.server.downstream == 0)
    eventually(lambda: node.server.sent == 2 * len(content))


@pytest.mark.parametrize(
    ("range_", "status", "said"),
    [
        ("bytes=0-9", 206, "bytes 0-9/1000"),
        ("bytes=990-2000", 206, "bytes 990-999/1000"),
        ("bytes=1000-", 416, "bytes */1000"),
        ("bytes=1000-1001", 416, "bytes */1000"),
        ("bytes=-5", 400, None),
        ("lines=1-2", 400, None),
    ],
)
def test_ranges_of_a_whole_image(scene: Scene, range_: str, status: int, said: str | None) -> None:
    content = image(1000 / CHUNK)
    answer, link = scene.get(scene.full(content), range_)
    assert (answer.status, answer.fields.get("content-range")) == (status, said)
    if said:
        assert link.is_sealed(answer, said.encode())
    if status == 206:
        first, last = map(int, answer.fields["content-range"][6:-5].split("-"))
        assert body(link, answer.length or 0) == content[first : last + 1]


def test_a_closed_range_of_an_image_of_unknown_size(scene: Scene) -> None:
    """Behind what is there, the end may be no end: the image can turn out to be shorter."""
    content = image(1.5)
    node = scene.node()
    node.write(content)
    node.vouch()
    inside, link = scene.get(node, "bytes=7-99")
    assert (inside.length, inside.fields["content-range"]) == (93, "bytes 7-99/*")
    assert body(link, 93) == content[7:100]
    beyond, link = scene.get(node, f"bytes=7-{9 * CHUNK}")
    assert beyond.length is None
    node.vouch(finished=True)
    assert body(link, 9 * CHUNK) == content[7:]


def test_several_requests_on_one_connection(scene: Scene) -> None:
    content = image(1)
    node = scene.full(content)
    with raw(node.address) as sock:
        for start in (5, 50, 500):
            sock.sendall(authorized(node, scene.secret, range_=f"bytes={start}-{start + 3}"))
        sock.sendall(authorized(node, scene.secret, path="/v1/nothing"))
        came = b""
        while came.count(b"HTTP/1.1") < 4 or not came.endswith(b"\r\n\r\n"):
            came += sock.recv(4096)
    bodies = [answer.partition(b"\r\n\r\n")[2] for answer in came.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [content[5:9], content[50:54], content[500:504], b""]


def test_records_are_sent_like_the_image(scene: Scene) -> None:
    content = image(2.5)
    node = scene.full(content)
    answer, link = scene.get(node, f"bytes={RECORD}-", "chunks")
    assert answer.length == 2 * RECORD
    said = body(link, 2 * RECORD)
    for index in (1, 2):
        sha = sha256(content[index * CHUNK : (index + 1) * CHUNK]).digest()
        record = said[(index - 1) * RECORD : index * RECORD]
        assert scene.secret.check_record(STAGING, GENERATION, index, record) == sha
    assert scene.get(node, f"bytes={3 * RECORD}-", "chunks")[0].status == 416


def test_without_a_range_the_whole_image_comes(scene: Scene) -> None:
    node = scene.full(image(1))
    with raw(node.address) as sock:
        sock.sendall(authorized(node, scene.secret).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        head, _, got = everything(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert got == image(1)


@pytest.mark.parametrize(
    "path", [image_path(STAGING, GENERATION + 1), image_path("f" * 32, GENERATION), "/", f"{IMAGE}/", f"{IMAGE}?x"]
)
def test_what_is_not_there(scene: Scene, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ABSENT_SECONDS", 0.1)
    monkeypatch.setattr(server_module, "TICK", 0.1)
    node = scene.full(image(1))
    assert scene.link(node.address).ask("GET", path, fields={"Range": "bytes=0-"}).status == 404


def test_what_is_not_there_yet_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was sent here may come before the node has heard of the image itself."""
    monkeypatch.setattr(server_module, "ABSENT_SECONDS", 1e9)
    monkeypatch.setattr(server_module, "TICK", 1e6)
    content = image(1)
    node = scene.full(content)
    node.server.withdraw(STAGING, GENERATION)
    early, vain = scene.link(node.address), scene.link(node.address)
    statuses: dict[str, int] = {}
    threads = [
        threading.Thread(target=lambda link=link, path=path: statuses.update({path: link.ask("GET", path).status}))
        for link, path in ((early, IMAGE), (vain, image_path(STAGING, GENERATION - 1)))
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: len(node.server._absent) == 2)
    node.server.offer(STAGING, GENERATION, node.holding)
    for thread in threads:
        thread.join()
    assert statuses == {IMAGE: 200, image_path(STAGING, GENERATION - 1): 404}
    assert body(early, len(content)) == content


def test_an_earlier_generation_does_not_come_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ABSENT_SECONDS", 1e9)
    node = scene.full(image(1))
    assert scene.link(node.address).ask("GET", image_path(STAGING, GENERATION - 1)).status == 404


def test_strangers_get_nothing_and_are_told_of(scene: Scene) -> None:
    node = scene.full(image(1))
    for path in (IMAGE, "/", chunks_path(STAGING, GENERATION)):
        assert scene.link(node.address, Secret.new()).ask("GET", path).status == 403
    with raw(node.address) as sock:
        sock.sendall(f"GET {IMAGE} HTTP/1.1\r\nHost: {node.address}\r\n\r\n".encode())
        assert status_of(everything(sock)) == 403
    assert node.server.sent == 0
    assert len(node.lines) == 4
    assert node.lines[0].startswith("relay: refused a request from 127.0.0.1:")
    assert node.lines[0].endswith("its authorization is wrong")
    assert node.lines[3].endswith("it carries no authorization")


def test_a_request_overheard_at_one_node_opens_no_other(scene: Scene) -> None:
    """The other one has never seen its nonce, but the address is signed."""
    one, other = scene.full(image(1)), scene.full(image(1))
    overheard = authorized(one, scene.secret, range_="bytes=0-")
    for said in (overheard, overheard.replace(one.address.encode(), other.address.encode())):
        with raw(other.address) as sock:
            sock.sendall(said)
            assert status_of(everything(sock)) == 403
    assert other.server.sent == 0


def test_a_withdrawn_image_is_gone_at_once(scene: Scene) -> None:
    node = scene.node(size=2 * CHUNK)
    _, link = scene.get(node, "bytes=0-")
    eventually(lambda: node.server.downstream == 1)
    node.server.withdraw(STAGING, GENERATION)
    node.server.withdraw(STAGING, GENERATION)
    assert node.server.downstream == 0
    node.holding.close()
    assert body(link, 1) == b""


def test_a_file_cut_short_ends_the_stream_only(scene: Scene) -> None:
    node = scene.full(image(2))
    os.ftruncate(node.fd, CHUNK)
    answer, link = scene.get(node, "bytes=0-")
    assert len(body(link, answer.length or 0)) == CHUNK
    assert scene.get(node, "bytes=5-9")[0].status == 206


@pytest.mark.parametrize("junk", [*JUNK, os.urandom(9000), b"GET / HTTP/1.1\r\n" * 600])
def test_junk_is_answered_or_cut_off(scene: Scene, junk: bytes) -> None:
    node = scene.full(image(1))
    with raw(node.address) as sock:
        sock.sendall(junk)
        sock.shutdown(socket.SHUT_WR)
        assert status_of(everything(sock)) in {0, 400, 403, 431}
    assert scene.get(node, "bytes=0-0")[0].status == 206


def test_a_long_head(scene: Scene) -> None:
    node = scene.full(image(1))
    with raw(node.address) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 60000)
        answer = sock.recv(65536)
        assert status_of(answer) == 431
        assert sock.recv(1) == b""  # and no reset, which could take the answer along


@pytest.mark.parametrize("method", ["PUT", "HEAD", "DELETE"])
def test_other_methods(scene: Scene, method: str) -> None:
    node = scene.full(image(1))
    with raw(node.address) as sock:
        sock.sendall(authorized(node, scene.secret, method=method))
        assert status_of(everything(sock)) == 400


def test_slow_heads_and_idle_connections_time_out(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connection_module, "IDLE_SECONDS", 0.5)
    node = scene.node(size=9)
    _, waiting = scene.get(node, "bytes=0-")
    with raw(node.address) as mute, raw(node.address) as drip, raw(node.address) as idle:
        idle.sendall(authorized(node, scene.secret, path="/v1/nothing"))
        ended = threading.Event()

        def dripping() -> None:
            while not ended.wait(0.05):
                try:
                    drip.send(b"G")
                except OSError:
                    return

        thread = threading.Thread(target=dripping)
        thread.start()
        assert everything(mute) == b""
        assert status_of(everything(idle)) == 404
        assert everything(drip) == b""
        ended.set()
        thread.join()
    # Who waits for bytes that are not there yet is not idle.
    node.write(b"123456789")
    node.vouch()
    assert body(waiting, 9) == b"123456789"


def test_who_takes_nothing_is_cut_off(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "STUCK_SECONDS", 0.5)
    node = scene.full(image(64))
    scene.get(node, "bytes=0-")
    eventually(lambda: node.server.downstream == 1)
    eventually(lambda: node.server.downstream == 0)


def test_idle_strangers_make_room_for_members(scene: Scene) -> None:
    content = image(1)
    node = scene.node(size=len(content), most=50)
    _, early = scene.get(node, "bytes=0-")
    idle = scene.link(node.address)
    assert idle.ask("GET", "/v1/nothing").status == 404
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(raw(node.address))
        _, late = scene.get(node, "bytes=0-")
        node.write(content)
        node.vouch()
        assert body(early, len(content)) == body(late, len(content)) == content
        assert len(list(node.server._crowd)) <= 50
        assert idle.ask("GET", "/v1/nothing").status == 404


def test_requests_that_never_end_do_not_fill_the_memory(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stager.relay.crowd.HELD_MAX", 300_000)
    node = scene.full(image(1))
    with ExitStack() as stack:
        strangers = [stack.enter_context(raw(node.address)) for _ in range(20)]
        for sock in strangers:
            with suppress(OSError):  # it may be its turn to go already
                sock.sendall(b"POST /v1/a/join HTTP/1.1\r\nContent-Length: 65536\r\n\r\n" + b"x" * 60000)
        eventually(lambda: sum(map(is_over, strangers)) >= 15)
        assert scene.get(node, "bytes=0-0")[0].status == 206
    eventually(lambda: node.server._crowd._held == 0)


def is_over(sock: socket.socket) -> bool:
    """Whether the other side has ended the connection."""
    sock.settimeout(0)
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_peers_that_vanish_in_every_way(scene: Scene) -> None:
    content = image(16)
    node = scene.node(size=len(content))
    for reset in (False, True):
        for said in (b"", b"GET", authorized(node, scene.secret, range_="bytes=0-")):
            sock = raw(node.address)
            sock.sendall(said)
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
    eventually(lambda: not list(node.server._crowd))
    assert not any(node.server._waiting.values())
    _, link = scene.get(node, "bytes=0-")
    node.write(content)
    node.vouch()
    assert body(link, len(content)) == content
    eventually(lambda: node.server.downstream == 0)
    assert not any("failed" in line for line in node.lines)


def test_a_bug_ends_the_one_connection_that_met_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    content = image(2)
    node = scene.node(size=len(content))
    _, link = scene.get(node, "bytes=0-")
    with monkeypatch.context() as broken:
        broken.setattr(server_module, "reply_to", lambda *_: 1 // 0)
        with pytest.raises(PeerLost, match="without an answer"):
            scene.get(node, "bytes=0-")
    node.write(content)
    node.vouch()
    assert body(link, len(content)) == content
    assert [line.partition(" failed: ")[2] for line in node.lines] == [
        "ZeroDivisionError: integer division or modulo by zero"
    ]


def test_the_first_free_port_of_the_range(scene: Scene) -> None:
    first = scene.node()
    port = int(first.address.rpartition(":")[2])
    taken = Server("127.0.0.1", range(port, port + 1), guard=Guard(scene.secret, SystemClock()), log=print)
    with pytest.raises(ClusterUnavailable, match=f"ports {port}–{port} of 127.0.0.1: Address already in use"):
        taken.start()
    taken.close()
    second = Server("127.0.0.1", range(port, port + 40), guard=Guard(scene.secret, SystemClock()), log=print)
    second.start()
    assert port < int(second.address.rpartition(":")[2]) < port + 40
    second.close()


def test_an_address_that_is_not_ours(scene: Scene) -> None:
    with pytest.raises(ClusterUnavailable, match=r"a port of 192\.0\.2\.1: Cannot assign"):
        Server("192.0.2.1", guard=Guard(scene.secret, SystemClock()), log=print).start()


def test_ipv6(scene: Scene) -> None:
    server = Server("::1", guard=Guard(scene.secret, SystemClock()), log=print)
    server.start()
    assert server.address.startswith("[::1]:")
    assert scene.link(server.address).ask("GET", "/v1/nothing").status == 404
    server.close()


def test_closing_ends_what_is_being_sent(scene: Scene) -> None:
    node = scene.node(size=9)
    _, link = scene.get(node, "bytes=0-")
    node.server.close()
    node.server.close()
    assert body(link, 1) == b""
    node.write(b"123456789")
    node.vouch()  # nobody is told, nothing breaks
