"""HttpSource against an origin that fails to the byte."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from stager import __version__
from stager.clock import SystemClock
from stager.errors import AccessDenied, NotFound, OriginStalled, OriginUnavailable, StageImageError
from stager.interfaces import Validators
from stager.retry import RetryPolicy, retrying
from stager.sources.http import HttpSettings, HttpSource, HttpStream
from tests.support.origin import Fault, Origin, Stall

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = bytes(range(256)) * 4000
SETTINGS = HttpSettings(connect_timeout=10, stall_timeout=20)
HASTY = HttpSettings(connect_timeout=10, stall_timeout=0.5)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        yield server


def source(origin: Origin, *faults: Fault, settings: HttpSettings = SETTINGS) -> HttpSource:
    return HttpSource(origin.put("/x.sif", BODY, *faults), settings=settings)


def opened(stream: HttpStream | None) -> HttpStream:
    assert stream is not None
    return stream


def read(stream: HttpStream | None) -> bytes:
    stream = opened(stream)
    try:
        return b"".join(stream.chunks())
    finally:
        stream.close()


def version_at(source: HttpSource) -> Validators:
    stream = opened(source.open())
    stream.close()
    return stream.validators


def test_whole_image(origin: Origin) -> None:
    stream = opened(source(origin).open())
    assert (stream.offset, stream.size, stream.ranges, stream.private) == (0, len(BODY), True, False)
    assert stream.validators.size == len(BODY)
    chunks = list(stream.chunks())
    stream.close()
    assert b"".join(chunks) == BODY
    assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks)


def test_what_is_sent(origin: Origin) -> None:
    read(source(origin).open())
    headers = origin.requests[0].headers
    assert headers["user-agent"] == f"stage-image/{__version__}"
    assert headers["accept-encoding"] == "identity"
    assert not {"range", "if-range", "authorization", "cookie"} & headers.keys()


def test_name_is_the_host(origin: Origin) -> None:
    assert source(origin).name == origin.host


@pytest.mark.parametrize(("start", "end"), [(0, 10), (5, None), (5, 6), (len(BODY) - 1, None), (7, len(BODY) + 7)])
def test_parts(origin: Origin, start: int, end: int | None) -> None:
    image = source(origin)
    for version in (None, version_at(image)):
        stream = opened(image.open(start, end, if_range=version))
        assert (stream.offset, stream.size, stream.ranges) == (start, len(BODY), True)
        assert read(stream) == BODY[start:end]
    assert origin.requests[-1].sent == len(BODY[start:end])


def test_going_on_when_nothing_is_left(origin: Origin) -> None:
    image = source(origin)
    version = version_at(image)
    stream = opened(image.open(len(BODY), if_range=version))
    assert (stream.offset, stream.size, read(stream), stream.validators) == (len(BODY), len(BODY), b"", version)
    assert origin.requests[-1].sent == 0


def test_a_shrunken_image_starts_over(origin: Origin) -> None:
    stream = opened(source(origin).open(len(BODY) + 1))
    assert (stream.offset, read(stream)) == (0, BODY)
    assert [request.status for request in origin.requests] == [416, 200]


@pytest.mark.parametrize("fault", [Fault(), Fault(if_range=False), Fault(etag="weak"), Fault(etag="weak", dated=False)])
def test_a_changed_image_starts_over(origin: Origin, fault: Fault) -> None:
    version = version_at(source(origin, fault))
    origin.put("/x.sif", BODY[::-1], fault)
    stream = opened(HttpSource(origin.url("/x.sif"), settings=SETTINGS).open(1000, if_range=version))
    assert (stream.offset, read(stream)) == (0, BODY[::-1])
    assert stream.validators != version


@pytest.mark.parametrize(
    "fault", [Fault(ranges=False), Fault(content_range="bytes 0-9/10"), Fault(content_range=""), Fault(gzip=True)]
)
def test_origins_that_do_not_know_ranges_start_over(origin: Origin, fault: Fault) -> None:
    version = version_at(source(origin))
    stream = opened(source(origin, fault).open(1000, 2000, if_range=version))
    assert (stream.offset, read(stream)) == (0, BODY[:2000])


def test_a_changing_image_never_goes_on(origin: Origin) -> None:
    image = source(origin, Fault(changing=True))
    version = version_at(image)
    stream = opened(image.open(1000, if_range=version))
    stream.close()
    assert stream.offset == 0


def test_unchanged(origin: Origin) -> None:
    image = source(origin)
    version = version_at(image)
    assert image.open(unless=version) is None
    origin.put("/x.sif", BODY + b"more")
    assert read(image.open(unless=version)) == BODY + b"more"


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (404, NotFound, False),
        (410, NotFound, False),
        (401, AccessDenied, False),
        (403, AccessDenied, False),
        (407, AccessDenied, False),
        (400, OriginUnavailable, False),
        (451, OriginUnavailable, False),
        (408, OriginUnavailable, True),
        (429, OriginUnavailable, True),
        (500, OriginUnavailable, True),
        (502, OriginUnavailable, True),
        (503, OriginUnavailable, True),
        (204, OriginUnavailable, False),
        (300, OriginUnavailable, False),
    ],
)
def test_refusals(origin: Origin, status: int, kind: type[StageImageError], *, retryable: bool) -> None:
    image = source(origin, Fault(status=status))
    with pytest.raises(kind, match=f"{origin.url('/x.sif')} answered {status}") as caught:
        image.open()
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    assert caught.value.hint


@pytest.mark.parametrize(("said", "seconds"), [("7", 7), ("", None), ("never", None), ("9" * 99, 7 * 86400)])
def test_retry_after(origin: Origin, said: str, seconds: float | None) -> None:
    with pytest.raises(OriginUnavailable) as caught:
        source(origin, Fault(status=503, retry_after=said)).open()
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(truncate_at=0), "closed the connection too early"),
        (Fault(truncate_at=300_000), "at byte 300000"),
        (Fault(reset_at=300_000), "at byte 300000: Connection reset by peer"),
        (Fault(truncate_at=300_000, framing="chunked"), "at byte 300000"),
        (Fault(content_length=str(len(BODY) + 1)), f"at byte {len(BODY)}"),
        (Fault(content_length="9" * 25), "too early"),
        (Fault(gzip=True, framing="close", truncate_at=100), "compressed"),
        (Fault(gzip=True, truncate_at=100), "too early"),
        (Fault(headers=(("Content-Encoding", "gzip"),)), "compressed"),
    ],
)
def test_bodies_that_break_off(origin: Origin, fault: Fault, reason: str) -> None:
    stream = opened(source(origin, fault).open())
    with pytest.raises(OriginUnavailable, match=reason) as caught:
        read(stream)
    assert caught.value.retryable
    assert not isinstance(caught.value, OriginStalled)


def test_a_part_that_is_shorter_than_it_says(origin: Origin) -> None:
    origin.put("/x.sif", BODY, Fault(content_length="50", times=1))
    stream = opened(HttpSource(origin.url("/x.sif"), settings=SETTINGS).open(1000, 2000))
    with pytest.raises(OriginUnavailable, match="950 bytes before the end"):
        read(stream)


def test_what_arrived_before_the_break_is_kept(origin: Origin) -> None:
    stream = opened(source(origin, Fault(reset_at=300_000)).open())
    received = b""
    with pytest.raises(OriginUnavailable):  # noqa: PT012 - the loop is what raises
        for chunk in stream.chunks():
            received += chunk
    stream.close()
    assert received == BODY[:300_000]


@pytest.mark.parametrize("fault", [Fault(framing="chunked"), Fault(framing="close"), Fault(content_length="many")])
def test_bodies_without_a_length(origin: Origin, fault: Fault) -> None:
    stream = opened(source(origin, fault).open())
    assert (stream.size, stream.ranges) == (None, False)
    assert read(stream) == BODY


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_gzip_is_undone(origin: Origin, framing: str) -> None:
    stream = opened(source(origin, Fault(gzip=True, framing=framing)).open())  # type: ignore[arg-type]
    assert (stream.offset, stream.size, stream.ranges, stream.validators.size) == (0, None, False, None)
    assert read(stream) == BODY


@pytest.mark.parametrize(
    "raw",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n12345\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n12345\r\n0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe\r\n\r\n",
        b"HTTP/1.1 999 What\r\n\r\n",
        b"\r\n",
    ],
)
def test_garbage_is_an_expected_failure(origin: Origin, raw: bytes) -> None:
    origin.put("/\xc3\xbf\xc3\xbe", BODY)
    with pytest.raises((OriginUnavailable, NotFound)) as caught:
        read(source(origin, Fault(raw=raw)).open())
    assert caught.value.message.isprintable()


def test_odd_validators_are_not_repeated(origin: Origin) -> None:
    raw = b'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: "a\r\n b"\r\nLast-Modified: now\r\n\r\n!'
    stream = opened(source(origin, Fault(raw=raw)).open())
    assert (read(stream), stream.validators) == (b"!", Validators(size=1))


def test_no_answer_in_time(origin: Origin) -> None:
    with pytest.raises(OriginStalled, match=r"did not answer within 0.5 s"):
        source(origin, Fault(stall=Stall()), settings=HASTY).open()


def test_bytes_stop_flowing(origin: Origin) -> None:
    stream = opened(source(origin, Fault(stall=Stall(1000)), settings=HASTY).open())
    chunks = stream.chunks()
    assert sum(len(chunk) for chunk in (next(chunks),)) == 1000
    with pytest.raises(OriginStalled, match=r"sent nothing for 0.5 s, at byte 1000"):
        next(chunks)
    stream.close()


def test_slow_is_not_stalled(origin: Origin) -> None:
    stream = opened(source(origin, Fault(rate=1_300_000), settings=HASTY).open())
    assert read(stream) == BODY


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(OriginUnavailable, match=f"cannot reach 127.0.0.1:{port}: Connection refused") as caught:
        HttpSource(f"http://127.0.0.1:{port}/x?signature=secret", settings=SETTINGS).open()
    assert caught.value.retryable


def test_the_name_cannot_be_resolved() -> None:
    with pytest.raises(OriginUnavailable, match=r"cannot reach nowhere.invalid: its name cannot be resolved") as caught:
        HttpSource("http://nowhere.invalid/x?signature=secret", settings=SETTINGS).open()
    assert "secret" not in caught.value.message


def test_no_connection_in_time() -> None:
    # A listener whose queue is full answers no SYN (tcp(7)); filling it is the only way to be ignored on loopback.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as one, socket.socket() as two:
        for filler in (one, two):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        port = listener.getsockname()[1]
        hasty = HttpSettings(connect_timeout=0.2)
        with pytest.raises(OriginUnavailable, match=r"did not accept a connection within 0.2 s"):
            HttpSource(f"http://127.0.0.1:{port}/x", settings=hasty).open()


def test_an_impossible_host_is_not_tried_again() -> None:
    with pytest.raises(OriginUnavailable) as caught:
        HttpSource(f"http://{'a' * 70}/x", settings=SETTINGS).open()
    assert not caught.value.retryable


def test_signatures_are_not_shown(origin: Origin) -> None:
    url = origin.put("/x?signature=secret", BODY, Fault(status=500, times=1), Fault(truncate_at=10))
    image = HttpSource(url, settings=SETTINGS)
    for _ in range(2):
        with pytest.raises(OriginUnavailable) as caught:
            read(image.open())
        assert "secret" not in f"{caught.value}{caught.value.hint}{image.name}"


def reading(stream: HttpStream, enough: int) -> tuple[threading.Thread, threading.Event, list[StageImageError]]:
    """Read in a thread; tell when `enough` bytes have come and how it ended."""
    reached = threading.Event()
    ends: list[StageImageError] = []

    def run() -> None:
        received = 0
        try:
            for chunk in stream.chunks():
                received += len(chunk)
                if received >= enough:
                    reached.set()
        except StageImageError as error:
            ends.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, reached, ends


def test_closing_from_another_thread_ends_the_reader(origin: Origin) -> None:
    stream = opened(source(origin, Fault(stall=Stall(1000)), settings=HttpSettings(stall_timeout=300)).open())
    thread, reached, ends = reading(stream, 1000)
    assert reached.wait(20)
    stream.close()
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in ends] == [OriginUnavailable]
    assert "given up" in str(ends[0])


def test_closing_twice_and_reading_afterwards(origin: Origin) -> None:
    stream = opened(source(origin).open())
    next(stream.chunks())
    stream.close()
    stream.close()
    with pytest.raises(OriginUnavailable, match="given up"):
        next(stream.chunks())


def test_closing_after_the_end(origin: Origin) -> None:
    stream = opened(source(origin).open())
    assert b"".join(stream.chunks()) == BODY
    stream.close()


def test_threads_share_a_source(origin: Origin) -> None:
    image = source(origin)
    version = version_at(image)
    step = len(BODY) // 8
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda i: read(image.open(i * step, (i + 1) * step, if_range=version)), range(8))
        assert b"".join(parts) == BODY
    assert len({request.connection for request in origin.requests}) == 9


def test_failures_leave_no_connection() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Origin() as origin:
        url = origin.put(
            "/x", BODY, Fault(status=503, times=2), Fault(location="ftp://x", times=1), Fault(truncate_at=9)
        )
        for _ in range(4):
            with pytest.raises(OriginUnavailable):
                read(HttpSource(url, settings=SETTINGS).open())
    assert len(os.listdir("/proc/self/fd")) == before


def test_breaks_cost_no_byte_twice(origin: Origin) -> None:
    places = [1, 70_000, 70_000, 0, 500_000]
    image = source(origin, *(Fault(reset_at=place, times=1) for place in places))
    held, version = bytearray(), None

    def fetch() -> None:
        nonlocal version
        stream = opened(image.open(len(held), if_range=version))
        assert stream.offset == len(held)
        version = stream.validators
        try:
            for chunk in stream.chunks():
                held.extend(chunk)
        finally:
            stream.close()

    policy = RetryPolicy(base=0.001, cap=0.001, attempts=3)
    retrying(fetch, policy=policy, clock=SystemClock(), progressed=lambda: len(held))
    assert held == BODY
    assert origin.sent("/x.sif") == len(BODY)


def test_proxy_from_the_environment(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    origin.put("/x.sif", BODY)
    monkeypatch.setenv("http_proxy", origin.url())
    assert read(HttpSource("http://elsewhere.invalid/x.sif", settings=SETTINGS).open()) == BODY
    assert origin.requests[0].headers["host"] == "elsewhere.invalid"
    monkeypatch.setenv("no_proxy", "elsewhere.invalid")
    with pytest.raises(OriginUnavailable, match="its name cannot be resolved"):
        HttpSource("http://elsewhere.invalid/x.sif", settings=SETTINGS).open()


@pytest.mark.parametrize(("status", "kind"), [(407, AccessDenied), (502, OriginUnavailable)])
def test_a_proxy_that_opens_no_tunnel(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[StageImageError]
) -> None:
    origin.hook = lambda request: Fault(status=status)
    monkeypatch.setenv("https_proxy", origin.url().replace("http://", "http://user:secret@"))
    with pytest.raises(kind, match=str(status)) as caught:
        HttpSource("https://elsewhere.invalid/x.sif", settings=SETTINGS).open()
    assert "proxy" in caught.value.message
    assert "secret" not in caught.value.message


def test_a_file_of_zero_bytes(origin: Origin, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    image = HttpSource(origin.put("/empty", tmp_path / "empty"), settings=SETTINGS)
    for stream in (opened(image.open()), opened(image.open(0, 10))):
        assert (stream.size, read(stream)) == (0, b"")
