"""The test origin does what it says, to the byte: each fault is met by a client that knows nothing but sockets."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.origin import Fault, Origin, Stall

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = bytes(range(256)) * 400


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        yield server


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    ending: str


def ask(origin: Origin, path: str, method: str = "GET", **headers: str) -> Reply:
    """Send one request and read until the connection ends, by FIN or by RST."""
    with dial(origin, path, method, **headers) as connection:
        received, ending = b"", "fin"
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            ending = "rst"
    return parsed(received, ending)


def dial(origin: Origin, path: str, method: str = "GET", **headers: str) -> socket.socket:
    host, _, port = origin.host.partition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in {"Connection": "close", **headers}.items()]
    connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{''.join(lines)}\r\n".encode())
    return connection


def parsed(received: bytes, ending: str) -> Reply:
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    return Reply(int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body, ending)


def test_whole_file_with_validators(origin: Origin) -> None:
    origin.put("/x", BODY)
    reply = ask(origin, "/x")
    assert (reply.status, reply.body, reply.ending) == (200, BODY, "fin")
    assert reply.headers["Content-Length"] == str(len(BODY))
    assert reply.headers["ETag"].startswith('"')
    assert reply.headers["Last-Modified"].endswith("GMT")


def test_file_on_disk_is_served_as_it_is_now(origin: Origin, tmp_path: Path) -> None:
    image = tmp_path / "x.sif"
    image.write_bytes(b"old")
    origin.put("/x", image)
    old = ask(origin, "/x")
    image.write_bytes(BODY)
    new = ask(origin, "/x")
    assert (old.body, new.body) == (b"old", BODY)
    assert old.headers["ETag"] != new.headers["ETag"]


def test_requests_are_recorded(origin: Origin) -> None:
    origin.put("/x", BODY)
    ask(origin, "/x", Range="bytes=10-19", User_Agent="me")
    ask(origin, "/y")
    assert [(r.method, r.path, r.status) for r in origin.requests] == [("GET", "/x", 206), ("GET", "/y", 404)]
    assert origin.requests[0].headers["user-agent"] == "me"
    assert origin.sent("/x") == 10


def test_head_has_the_headers_and_no_body(origin: Origin) -> None:
    origin.put("/x", BODY)
    reply = ask(origin, "/x", "HEAD")
    assert (reply.headers["Content-Length"], reply.body) == (str(len(BODY)), b"")


def test_a_connection_serves_several_requests(origin: Origin) -> None:
    origin.put("/x", b"12345")
    with dial(origin, "/x", "HEAD", Connection="keep-alive") as connection:
        assert b"200 OK" in connection.recv(65536)
        connection.sendall(b"HEAD /x HTTP/1.1\r\n\r\n")
        assert b"200 OK" in connection.recv(65536)
    assert [request.connection for request in origin.requests] == [1, 1]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-", 5, len(BODY)),
        ("bytes=-7", len(BODY) - 7, len(BODY)),
        ("bytes=9-999999", 9, len(BODY)),
    ],
)
def test_ranges(origin: Origin, asked: str, start: int, end: int) -> None:
    origin.put("/x", BODY)
    reply = ask(origin, "/x", Range=asked)
    assert (reply.status, reply.body) == (206, BODY[start:end])
    assert reply.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(BODY)}"


def test_a_range_behind_the_end_is_416(origin: Origin) -> None:
    origin.put("/x", BODY)
    reply = ask(origin, "/x", Range=f"bytes={len(BODY)}-")
    assert (reply.status, reply.headers["Content-Range"]) == (416, f"bytes */{len(BODY)}")


def test_if_range_needs_the_same_version(origin: Origin) -> None:
    origin.put("/x", BODY)
    headers = ask(origin, "/x").headers
    for condition in (headers["ETag"], headers["Last-Modified"]):
        assert ask(origin, "/x", Range="bytes=1-", If_Range=condition).status == 206
    for condition in ('"other"', "Mon, 01 Jan 2001 00:00:00 GMT"):
        assert ask(origin, "/x", Range="bytes=1-", If_Range=condition).status == 200


def test_not_modified(origin: Origin) -> None:
    origin.put("/x", BODY)
    headers = ask(origin, "/x").headers
    unchanged = ask(origin, "/x", If_None_Match=headers["ETag"])
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert ask(origin, "/x", If_Modified_Since=headers["Last-Modified"]).status == 304
    assert ask(origin, "/x", If_None_Match='"other"').status == 200


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500, 503])
def test_status_the_first_times(origin: Origin, status: int) -> None:
    origin.put("/x", BODY, Fault(status=status, times=2, retry_after="7"))
    replies = [ask(origin, "/x") for _ in range(3)]
    assert [reply.status for reply in replies] == [status, status, 200]
    assert replies[0].headers["Retry-After"] == "7"


def test_faults_come_in_turn(origin: Origin) -> None:
    origin.put("/x", BODY, Fault(status=503, times=1), Fault(truncate_at=3, times=2), Fault(status=410))
    assert [ask(origin, "/x").status for _ in range(5)] == [503, 200, 200, 410, 410]


def test_a_hook_decides_for_each_request(origin: Origin) -> None:
    origin.put("/x", BODY)
    origin.hook = lambda request: Fault(status=500) if "range" in request.headers else None
    assert [ask(origin, "/x").status, ask(origin, "/x", Range="bytes=1-").status] == [200, 500]


def test_stall_inside_the_body(origin: Origin) -> None:
    stall = Stall(1000)
    origin.put("/x", BODY, Fault(stall=stall))
    with dial(origin, "/x") as connection:
        assert stall.reached.wait(20)
        assert origin.sent("/x") == 1000
        stall.go.set()
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert parsed(received, "").body == BODY


def test_stall_before_the_headers(origin: Origin) -> None:
    stall = Stall()
    origin.put("/x", BODY, Fault(stall=stall))
    with dial(origin, "/x") as connection:
        assert stall.reached.wait(20)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        connection.settimeout(20)
        stall.go.set()
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_a_stall_does_not_outlive_the_origin() -> None:
    stall = Stall(5)
    with Origin() as server:
        server.put("/x", BODY, Fault(stall=stall))
        connection = dial(server, "/x")
        assert stall.reached.wait(20)
    connection.close()
    assert stall.go.is_set()


@pytest.mark.parametrize("at", [0, 1, 50_001, len(BODY) - 1])
def test_truncation_is_polite_and_exact(origin: Origin, at: int) -> None:
    origin.put("/x", BODY, Fault(truncate_at=at))
    reply = ask(origin, "/x")
    assert (reply.body, reply.ending) == (BODY[:at], "fin")
    assert reply.headers["Content-Length"] == str(len(BODY))


@pytest.mark.parametrize("at", [0, 1, len(BODY) - 1])
def test_reset_is_rude_and_exact(origin: Origin, at: int) -> None:
    origin.put("/x", BODY, Fault(reset_at=at))
    reply = ask(origin, "/x")
    assert (reply.body, reply.ending) == (BODY[:at], "rst")


def test_no_ranges(origin: Origin) -> None:
    origin.put("/x", BODY, Fault(ranges=False))
    reply = ask(origin, "/x", Range="bytes=5-")
    assert (reply.status, reply.body) == (200, BODY)
    assert "Accept-Ranges" not in reply.headers


def test_if_range_ignored(origin: Origin) -> None:
    origin.put("/x", BODY, Fault(if_range=False))
    assert ask(origin, "/x", Range="bytes=5-", If_Range='"other"').status == 206


@pytest.mark.parametrize("said", ["5", "999999999", "-1", "many"])
def test_lying_content_length(origin: Origin, said: str) -> None:
    origin.put("/x", BODY, Fault(content_length=said))
    reply = ask(origin, "/x")
    assert (reply.headers["Content-Length"], reply.body, reply.ending) == (said, BODY, "fin")


def test_lying_content_range(origin: Origin) -> None:
    origin.put("/x", BODY, Fault(content_range="bytes 0-1/2", times=1), Fault(content_range=""))
    assert ask(origin, "/x", Range="bytes=5-").headers["Content-Range"] == "bytes 0-1/2"
    assert "Content-Range" not in ask(origin, "/x", Range="bytes=5-").headers


def test_close_delimited(origin: Origin) -> None:
    origin.put("/x", BODY, Fault(framing="close"))
    reply = ask(origin, "/x", Connection="keep-alive")
    assert (reply.body, reply.ending) == (BODY, "fin")
    assert "Content-Length" not in reply.headers


def test_chunked(origin: Origin) -> None:
    origin.put("/x", b"12345", Fault(framing="chunked"))
    reply = ask(origin, "/x")
    assert reply.body == b"5\r\n12345\r\n0\r\n\r\n"
    assert "Content-Length" not in reply.headers


def test_a_wrong_byte(origin: Origin) -> None:
    origin.put("/x", BODY, Fault(corrupt_at=1000))
    wrong = [i for i, (a, b) in enumerate(zip(ask(origin, "/x").body, BODY, strict=True)) if a != b]
    assert wrong == [1000]
    assert ask(origin, "/x", Range="bytes=1000-1000").body != BODY[1000:1001]


def test_another_version_at_every_request(origin: Origin) -> None:
    origin.put("/x", BODY, Fault(changing=True))
    first, second = ask(origin, "/x"), ask(origin, "/x")
    assert first.headers["ETag"] != second.headers["ETag"]
    assert first.body != second.body
    assert ask(origin, "/x", Range="bytes=5-", If_Range=first.headers["ETag"]).status == 200


def test_weak_and_missing_validators(origin: Origin) -> None:
    origin.put("/x", BODY, Fault(etag="weak", times=1), Fault(etag="none", dated=False))
    assert ask(origin, "/x").headers["ETag"].startswith('W/"')
    assert not {"ETag", "Last-Modified"} & ask(origin, "/x").headers.keys()


def test_redirect(origin: Origin) -> None:
    with Origin() as other:
        origin.put("/x", BODY, Fault(location=other.url("/y"), times=1), Fault(location="/z", status=308))
        assert ask(origin, "/x").headers["Location"] == other.url("/y")
        assert ask(origin, "/x").status == 308


def test_authorization(origin: Origin) -> None:
    origin.put("/x", BODY, Fault(authorization="Bearer abc"))
    assert ask(origin, "/x").status == 401
    assert ask(origin, "/x", Authorization="Bearer abc").status == 200


def test_gzip(origin: Origin) -> None:
    origin.put("/x", BODY, Fault(gzip=True))
    reply = ask(origin, "/x")
    assert reply.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(reply.body) == BODY


def test_html_instead_of_the_image(origin: Origin) -> None:
    origin.put("/x", BODY, Fault(html=True))
    reply = ask(origin, "/x")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html")
    assert b"<html>" in reply.body


def test_rate_is_kept(origin: Origin) -> None:
    origin.put("/x", BODY[:20_000], Fault(rate=100_000))
    began = time.monotonic()
    assert len(ask(origin, "/x").body) == 20_000
    assert time.monotonic() - began >= 0.19


def test_own_headers_and_raw_bytes(origin: Origin) -> None:
    origin.put(
        "/x",
        BODY,
        Fault(headers=(("ETag", "odd"), ("X-More", "1")), times=1),
        Fault(raw=b"HTTP/1.1 200 K\r\nA: b\r\n\r\n?"),
    )
    headers = ask(origin, "/x").headers
    assert (headers["ETag"], headers["X-More"]) == ("odd", "1")
    assert ask(origin, "/x") == Reply(200, {"A": "b"}, b"?", "fin")


def test_it_stands_for_a_proxy(origin: Origin) -> None:
    origin.put("/x", BODY)
    assert ask(origin, "http://elsewhere/x").body == BODY


def test_many_at_once(origin: Origin) -> None:
    origin.put("/x", BODY)
    threads = [threading.Thread(target=ask, args=(origin, "/x")) for _ in range(40)]
    for thread in threads:
        thread.start()
    origin.wait_for(40)
    for thread in threads:
        thread.join()
    assert origin.sent("/x") == 40 * len(BODY)


def test_waiting_for_requests_that_never_come(origin: Origin) -> None:
    with pytest.raises(TimeoutError, match="0 requests came, 1 were expected"):
        origin.wait_for(1, timeout=0.01)


def test_as_a_program(tmp_path: Path) -> None:
    (tmp_path / "x.sif").write_bytes(BODY)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tests.support.origin", str(tmp_path), "--log", str(log)]
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        host, _, port = url.removeprefix("http://").rstrip("/").partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"GET /x.sif HTTP/1.1\r\nConnection: close\r\n\r\n")
            received = b""
            while piece := connection.recv(65536):
                received += piece
        process.communicate()
    assert parsed(received, "").body == BODY
    assert json.loads(log.read_text())["sent"] == len(BODY)
