"""What Source and Stream promise, of every source there is, the fake one of the tests included."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import pytest

from stager.errors import NotFound, OriginUnavailable
from stager.sources.file import FileSource
from stager.sources.http import HttpSettings, HttpSource
from stager.sources.mirrors import MirroredSource, RecentFailures
from tests.support.fake_clock import FakeClock
from tests.support.fake_source import FakeSource
from tests.support.nginx import Nginx
from tests.support.origin import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stager.interfaces import Source, Stream, Validators

OLD, NEW = bytes(range(256)) * 5000, b"hsqs" * 300_000


class Site(Protocol):
    """Somewhere an image lies."""

    source: Source

    def publish(self, body: bytes) -> None: ...


class FileSite:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "x.sif"
        self.source: Source = FileSource(str(self._path))

    def publish(self, body: bytes) -> None:
        aside = self._path.with_suffix(".new")
        aside.write_bytes(body)
        os.utime(aside, (1_700_000_000, 1_700_000_000))  # only the size or the inode may tell versions apart
        aside.rename(self._path)


class OriginSite:
    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self.source: Source = HttpSource(origin.url("/x.sif"), settings=HttpSettings())

    def publish(self, body: bytes) -> None:
        self._origin.put("/x.sif", body)


class NginxSite(FileSite):
    def __init__(self, folder: Path, nginx: Nginx) -> None:
        super().__init__(folder)
        self.source = HttpSource(nginx.url("/x.sif"), settings=HttpSettings())


class FakeSite:
    def __init__(self) -> None:
        self._fake = FakeSource("fake", fails=NotFound("nothing there"))
        self._fake.piece = 100_000
        self.source: Source = self._fake

    def publish(self, body: bytes) -> None:
        self._fake.body, self._fake.fails = body, None


class MirroredSite:
    def __init__(self, near: Site, origin: Site) -> None:
        self._sites = (near, origin)
        self.source: Source = MirroredSource([near.source, origin.source], RecentFailures(FakeClock()))

    def publish(self, body: bytes) -> None:
        for site in self._sites:
            site.publish(body)


@pytest.fixture(params=["file", "http", pytest.param("nginx", marks=pytest.mark.needs("nginx")), "fake", "mirrored"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    match request.param:
        case "file":
            yield FileSite(tmp_path)
        case "fake":
            yield FakeSite()
        case "nginx":
            with Nginx(tmp_path) as nginx:
                yield NginxSite(tmp_path, nginx)
        case kind:
            with Origin() as origin:
                http = OriginSite(origin)
                yield http if kind == "http" else MirroredSite(http, FileSite(tmp_path))


def opened(stream: Stream | None) -> Stream:
    assert stream is not None
    return stream


def version_at(site: Site) -> Validators:
    stream = opened(site.source.open())
    stream.close()
    return stream.validators


def read(stream: Stream | None) -> bytes:
    stream = opened(stream)
    try:
        return b"".join(stream.chunks())
    finally:
        stream.close()


def test_whole(site: Site) -> None:
    site.publish(OLD)
    stream = opened(site.source.open())
    assert (stream.offset, stream.size, stream.validators.size) == (0, len(OLD), len(OLD))
    assert stream.validators
    chunks = list(stream.chunks())
    stream.close()
    assert b"".join(chunks) == OLD
    assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, None), (100, 1_200_000), (len(OLD) - 1, None), (9, 10**9)])
def test_parts(site: Site, start: int, end: int | None) -> None:
    site.publish(OLD)
    first = opened(site.source.open())
    first.close()
    assert first.ranges
    for version in (None, first.validators):
        part = opened(site.source.open(start, end, if_range=version))
        assert (part.offset, part.size, part.validators) == (start, len(OLD), first.validators)
        assert read(part) == OLD[start:end]


def test_nothing_left(site: Site) -> None:
    site.publish(OLD)
    version = version_at(site)
    stream = opened(site.source.open(len(OLD), if_range=version))
    assert (stream.offset, read(stream), stream.validators) == (len(OLD), b"", version)


@pytest.mark.parametrize("start", [1, 1000, len(OLD)])
def test_another_version_starts_over(site: Site, start: int) -> None:
    site.publish(OLD)
    version = version_at(site)
    site.publish(NEW)
    stream = opened(site.source.open(start, if_range=version))
    assert (stream.offset, stream.validators.size, read(stream)) == (0, len(NEW), NEW)
    assert stream.validators != version


def test_unless(site: Site) -> None:
    site.publish(OLD)
    version = version_at(site)
    assert site.source.open(unless=version) is None
    site.publish(NEW)
    assert read(site.source.open(unless=version)) == NEW


def test_not_there(site: Site) -> None:
    with pytest.raises(NotFound):
        site.source.open()


def test_closed(site: Site) -> None:
    site.publish(OLD)
    stream = opened(site.source.open())
    chunks = stream.chunks()
    next(chunks)
    stream.close()
    stream.close()
    with pytest.raises(OriginUnavailable):
        list(chunks)


def test_several_threads(site: Site) -> None:
    site.publish(OLD)
    version = version_at(site)
    step = len(OLD) // 6

    def fetch(index: int) -> bytes:
        return read(site.source.open(index * step, min(len(OLD), (index + 1) * step), if_range=version))

    with ThreadPoolExecutor(6) as pool:
        assert b"".join(pool.map(fetch, range(7))) == OLD
