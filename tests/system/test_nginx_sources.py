"""HttpSource against a real server."""

from __future__ import annotations

import gzip
import os
from typing import TYPE_CHECKING

import pytest

from stager.clock import SystemClock
from stager.errors import AccessDenied, NotFound, OriginUnavailable
from stager.reference import parse
from stager.retry import RetryPolicy, retrying
from stager.sources import source_for
from stager.sources.http import HttpSettings, HttpSource, HttpStream
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("nginx")

SIZE = 3_000_001
SETTINGS = HttpSettings(connect_timeout=10, stall_timeout=20)


@pytest.fixture
def body(tmp_path: Path) -> bytes:
    """Lies in tmp_path as x.sif, long enough ago for its date to be a strong validator."""
    content = os.urandom(SIZE)
    (tmp_path / "x.sif").write_bytes(content)
    os.utime(tmp_path / "x.sif", (1_700_000_000, 1_700_000_000))
    return content


def at(nginx: Nginx, path: str = "/x.sif") -> HttpSource:
    return HttpSource(nginx.url(path), settings=SETTINGS)


def opened(stream: HttpStream | None) -> HttpStream:
    assert stream is not None
    return stream


def read(stream: HttpStream | None) -> bytes:
    stream = opened(stream)
    try:
        return b"".join(stream.chunks())
    finally:
        stream.close()


def test_whole_part_rest_and_nothing(tmp_path: Path, body: bytes) -> None:
    with Nginx(tmp_path) as nginx:
        first = opened(at(nginx).open())
        version = first.validators
        assert (first.size, first.ranges, first.private) == (SIZE, True, False)
        assert read(first) == body
        assert read(at(nginx).open(1000, 2000, if_range=version)) == body[1000:2000]
        rest = opened(at(nginx).open(1000, if_range=version))
        assert rest.validators == version
        assert read(rest) == body[1000:]
        nothing = opened(at(nginx).open(SIZE, if_range=version))
        assert (nothing.offset, read(nothing)) == (SIZE, b"")
        assert at(nginx).open(unless=version) is None
        log = nginx.logged(5)
    assert [entry.status for entry in log] == [200, 206, 206, 304, 304]
    assert [entry.size for entry in log] == [SIZE, 1000, SIZE - 1000, 0, 0]


def test_another_version(tmp_path: Path, body: bytes) -> None:
    with Nginx(tmp_path) as nginx:
        first = opened(at(nginx).open())
        first.close()
        (tmp_path / "x.sif").write_bytes(b"new")
        again = opened(at(nginx).open(1, if_range=first.validators))
        assert (again.offset, read(again)) == (0, b"new")
        assert read(at(nginx).open(unless=first.validators)) == b"new"


def test_without_ranges(tmp_path: Path, body: bytes) -> None:
    with Nginx(tmp_path, ranges=False) as nginx:
        first = opened(at(nginx).open())
        first.close()
        assert not first.ranges
        again = opened(at(nginx).open(1000, 2000, if_range=first.validators))
        assert (again.offset, read(again)) == (0, body[:2000])


def test_behind_the_end(tmp_path: Path, body: bytes) -> None:
    with Nginx(tmp_path) as nginx:
        stream = opened(at(nginx).open(SIZE))
        assert (stream.offset, stream.size, read(stream)) == (SIZE, SIZE, b"")
        assert opened(over := at(nginx).open(SIZE + 1)).offset == 0
        assert read(over) == body


def test_dates_are_enough_if_old(tmp_path: Path, body: bytes) -> None:
    with Nginx(tmp_path, locations="etag off;") as nginx:
        first = opened(at(nginx).open())
        first.close()
        assert (first.validators.etag, first.ranges) == ("", True)
        assert read(at(nginx).open(1000, if_range=first.validators)) == body[1000:]
        assert at(nginx).open(unless=first.validators) is None
        os.utime(tmp_path / "x.sif")
        young = opened(at(nginx).open(1000, if_range=first.validators))
        young.close()
        assert (young.offset, young.ranges) == (0, False)


def test_a_file_that_shrinks_on_its_way(tmp_path: Path, body: bytes) -> None:
    with Nginx(tmp_path, rate=500_000) as nginx:
        stream = opened(at(nginx).open())
        chunks = stream.chunks()
        next(chunks)
        os.truncate(tmp_path / "x.sif", 600_000)
        with pytest.raises(OriginUnavailable, match="broke off at byte"):
            list(chunks)
        stream.close()


def test_refusals(tmp_path: Path, body: bytes) -> None:
    busy = 'location /busy { add_header Retry-After 2 always; return 503 "busy"; } location /empty { return 444; }'
    with Nginx(tmp_path, locations=f"{busy} location /closed {{ deny all; }}") as nginx:
        with pytest.raises(NotFound):
            at(nginx, "/none").open()
        with pytest.raises(AccessDenied):
            at(nginx, "/closed").open()
        with pytest.raises(OriginUnavailable, match="503") as caught:
            at(nginx, "/busy").open()
        assert caught.value.retry_after == 2
        with pytest.raises(OriginUnavailable, match="closed the connection without an answer"):
            at(nginx, "/empty").open()


def test_https_at_a_port_for_http(tmp_path: Path) -> None:
    with Nginx(tmp_path) as nginx:
        source = HttpSource(nginx.url("/x.sif").replace("http:", "https:"), settings=SETTINGS)
        with pytest.raises(OriginUnavailable, match=f"cannot talk to {nginx.host}: TLS failed") as caught:
            source.open()
    assert not caught.value.retryable


def test_gzip_that_nobody_asked_for(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "y.sif").write_bytes(gzip.compress(body))
    with Nginx(tmp_path, locations="location /y.sif { add_header Content-Encoding gzip; }") as nginx:
        stream = opened(at(nginx, "/y.sif").open())
        assert (stream.size, stream.ranges) == (None, False)
        assert read(stream) == body
        again = opened(at(nginx, "/y.sif").open(1000, if_range=stream.validators))
        assert (again.offset, read(again)) == (0, body)


def test_a_server_that_comes_back(tmp_path: Path, body: bytes) -> None:
    waits = []
    with Nginx(tmp_path) as nginx:
        source = at(nginx)
        nginx.stop()

        def restart(error: Exception, seconds: float) -> None:
            waits.append(str(error))
            if len(waits) == 2:
                nginx.start()

        policy = RetryPolicy(base=0.01, cap=0.01)
        assert read(retrying(source.open, policy=policy, clock=SystemClock(), on_wait=restart)) == body
    assert len(waits) == 2
    assert "Connection refused" in waits[0]


def test_a_mirror_in_front(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "x.sif").write_bytes(body)
    with Nginx(tmp_path) as nginx:
        mirrors = {nginx.url("/"): [nginx.url("/mirror/")]}
        source = source_for(parse(nginx.url("/x.sif")), SETTINGS, mirrors)
        for _ in range(2):
            stream = source.open()
            assert stream is not None
            assert b"".join(stream.chunks()) == body
            stream.close()
            (tmp_path / "mirror" / "x.sif").unlink(missing_ok=True)
        log = nginx.logged(3)
    assert [(entry.path, entry.status) for entry in log] == [
        ("/mirror/x.sif", 200),
        ("/mirror/x.sif", 404),
        ("/x.sif", 200),
    ]
