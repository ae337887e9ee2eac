"""The nginx of the tests is one: it serves, limits, tells what it served, and goes."""

from __future__ import annotations

import socket
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.support.nginx import Access, Nginx

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("nginx")


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=headers), timeout=20) as reply:
        return reply.status, reply.read()


def test_it_serves_and_tells(tmp_path: Path) -> None:
    (tmp_path / "x.sif").write_bytes(b"0123456789")
    with Nginx(tmp_path) as nginx:
        assert fetch(nginx.url("/x.sif")) == (200, b"0123456789")
        assert fetch(nginx.url("/x.sif"), Range="bytes=3-5") == (206, b"345")
        log = nginx.logged(2)
    assert log == [Access("GET", "/x.sif", 200, 10, ""), Access("GET", "/x.sif", 206, 3, "bytes=3-5")]


def test_without_ranges(tmp_path: Path) -> None:
    (tmp_path / "x.sif").write_bytes(b"0123456789")
    with Nginx(tmp_path, ranges=False) as nginx:
        assert fetch(nginx.url("/x.sif"), Range="bytes=3-5") == (200, b"0123456789")


def test_limited_rate(tmp_path: Path) -> None:
    (tmp_path / "x.sif").write_bytes(bytes(300_000))
    with Nginx(tmp_path, rate=200_000) as nginx:
        began = time.monotonic()
        fetch(nginx.url("/x.sif"))
        assert time.monotonic() - began > 0.4


def test_further_locations(tmp_path: Path) -> None:
    with Nginx(tmp_path, locations='location /busy { add_header Retry-After 2 always; return 200 "yes"; }') as nginx:
        assert fetch(nginx.url("/busy")) == (200, b"yes")


def test_it_goes(tmp_path: Path) -> None:
    with Nginx(tmp_path) as nginx:
        address, _, port = nginx.host.partition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, int(port)), 1)


def test_a_bad_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nonsense"), Nginx(tmp_path, locations="nonsense;"):
        pass
