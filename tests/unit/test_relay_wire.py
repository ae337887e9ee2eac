"""The little HTTP that nodes speak."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from stager.relay.wire import (
    OFFSET_MAX,
    Answer,
    NotUnderstood,
    Request,
    answer_head,
    content_range,
    own_address,
    parse_content_range,
    parse_range,
    request_head,
    split_address,
)
from tests.support.source_trees import ROOT

HEAVY = frozenset(
    ("http.client", "email", "ssl", "asyncio", "requests", "random", "logging", "typing", "dataclasses", "subprocess")
)


def block(head: bytes) -> bytes:
    return head.removesuffix(b"\r\n\r\n")


def test_a_request_is_read_as_it_was_written() -> None:
    fields = {"Host": "10.0.0.1:99", "Range": "bytes=5-", "Content-Length": "3"}
    request = Request(block(request_head("GET", "/v1/a/1/image", fields)))
    assert (request.method, request.path, request.length, request.close) == ("GET", "/v1/a/1/image", 3, False)
    assert request.fields == {"host": "10.0.0.1:99", "range": "bytes=5-", "content-length": "3"}


def test_an_answer_is_read_as_it_was_written() -> None:
    answer = Answer(block(answer_head(416, {"Content-Length": "0", "Connection": "close"})))
    assert (answer.status, answer.length, answer.close) == (416, 0, True)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET / HTTP/2.0",
        b"GET / HTTP/1.1 ",
        b"GET  / HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET x HTTP/1.1",
        b"G\0T / HTTP/1.1",
        b"G(T / HTTP/1.1",
        b"GET / HTTP/1.1\nHost: a",
        b"GET / HTTP/1.1\r\nHost",
        b"GET / HTTP/1.1\r\n: a",
        b"GET / HTTP/1.1\r\nHost : a",
        b"GET / HTTP/1.1\r\nHost: a\r\n b",
        b"GET / HTTP/1.1\r\nHost: a\rb",
        b"GET / HTTP/1.1\r\nHost: a\0",
        b"GET / HTTP/1.1\r\nHost: a\r\nhOST: a",
        b"GET / HTTP/1.1\r\nContent-Length: -1",
        b"GET / HTTP/1.1\r\nContent-Length: +1",
        b"GET / HTTP/1.1\r\nContent-Length: 1_0",
        b"GET / HTTP/1.1\r\nContent-Length: \xb2",
        b"GET / HTTP/1.1\r\nContent-Length: 1, 1",
        b"GET / HTTP/1.1\r\nContent-Length: 65537",
        b"GET / HTTP/1.1\r\nContent-Length: " + b"9" * 5000,
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked",
        b"GET / HTTP/1.1" + b"".join(b"\r\na%d: b" % number for number in range(65)),
    ],
)
def test_what_is_no_request(head: bytes) -> None:
    with pytest.raises(NotUnderstood):
        Request(head)


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200", b"HTTP/1.1 2000 OK", b"HTTP/1.1 -20 OK", b"HTTP/9 200 OK", b"SSH-2.0-OpenSSH_9.2 a b"],
)
def test_what_is_no_answer(head: bytes) -> None:
    with pytest.raises(NotUnderstood):
        Answer(head)


@pytest.mark.parametrize(("text", "meant"), [("bytes=0-", (0, None)), ("bytes=7-7", (7, 8)), ("bytes=0-99", (0, 100))])
def test_ranges(text: str, meant: tuple[int, int | None]) -> None:
    assert parse_range(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=-5", "bytes=5", "bytes=5-4", "bytes=0-1,3-4", "chunks=0-"),
        *("bytes= 0-", "bytes=0x1-", "bytes=1.5-", f"bytes={1 << 63}-", "bytes=" + "9" * 99 + "-"),
        *("bytes=0-" + "9" * 5000, "bytes=٣-"),
    ],
)
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse_range(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (content_range(5, 10, 20), (5, 20)),
        (content_range(5, None, None), (5, None)),
        (content_range(0, OFFSET_MAX, None), (0, None)),
        ("bytes */7", (None, 7)),
    ],
)
def test_content_ranges(text: str, meant: tuple[int | None, int | None]) -> None:
    assert parse_content_range(text) == meant


@pytest.mark.parametrize("text", ["", "bytes", "bytes 5-9", "bytes 5/9", "bytes -/9", "bytes */x", "chunks 5-9/9"])
def test_what_is_no_content_range(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse_content_range(text)


@pytest.mark.parametrize(
    ("address", "parts"), [("10.0.0.1:80", ("10.0.0.1", 80)), ("[fe80::1]:65535", ("fe80::1", 65535))]
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize("address", ["", "10.0.0.1", ":80", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "a:b"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        split_address(address)


def test_an_ipv4_address_on_an_ipv6_socket_is_written_as_such() -> None:
    class Mapped(socket.socket):
        def getsockname(self) -> tuple[str, int, int, int]:
            return ("::ffff:10.1.2.3", 80, 0, 0)

    with Mapped() as sock:
        assert own_address(sock) == "10.1.2.3:80"


def test_importing_the_relay_is_cheap() -> None:
    """Each node of a cluster does, from a shared file system: none of what costs more than all the rest."""
    modules = "stager.relay.server, stager.relay.upstream, stager.relay.control"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {modules}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY.intersection(run.stdout.split()) == set()
