"""Where images come from: HTTP origins, files, and mirrors of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stager.clock import SystemClock
from stager.reference import Reference, parse
from stager.sources.settings import HttpSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stager.interfaces import Source, Stream, Validators
    from stager.sources.mirrors import FailureMemory

__all__ = ["Deferred", "HttpSettings", "source_for"]

NO_MIRRORS: Mapping[str, Sequence[str]] = {}


def source_for(
    reference: Reference,
    settings: HttpSettings,
    mirrors: Mapping[str, Sequence[str]] = NO_MIRRORS,
    memory: FailureMemory | None = None,
) -> Source:
    """Return the source of a reference.

    `mirrors`: the beginning of a URL, up to the end of its host or of a path component → what may stand for it, as
    URLs or directories, tried in this order before the origin; the longest beginning that fits counts. They never get
    the token, which is the origin's. `memory` is shared by whoever is to avoid a failed mirror. Raises
    InvalidReference for a mirror that is none.
    """
    origin = _single(reference, settings)
    places = _mirrored(reference.location, mirrors) if reference.scheme != "file" else []
    if not places:
        return origin
    from stager.sources.mirrors import MirroredSource, RecentFailures

    without_token = replace(settings, token_file="")
    sources = [_single(place, without_token) for place in places]
    return MirroredSource([*sources, origin], memory or RecentFailures(SystemClock()))


class Deferred:
    """A source that is made when it is first asked.

    What speaks HTTP takes 50 ms of CPU to import (measured, requests 2.34), and of a cluster's nodes one asks.
    """

    def __init__(self, make: Callable[[], Source]) -> None:
        self._make = make
        self._made: Source | None = None

    @property
    def name(self) -> str:
        """As Source.name."""
        return self._source.name

    def open(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        if_range: Validators | None = None,
        unless: Validators | None = None,
    ) -> Stream | None:
        """As Source.open; raises what making the source raises, too."""
        return self._source.open(start, end, if_range=if_range, unless=unless)

    @property
    def _source(self) -> Source:
        if self._made is None:
            self._made = self._make()
        return self._made


def _single(reference: Reference, settings: HttpSettings) -> Source:
    if reference.scheme == "file":
        from stager.sources.file import FileSource

        return FileSource(reference.location)
    from stager.sources.http import HttpSource

    return HttpSource(reference.location, settings=settings)


def _mirrored(url: str, mirrors: Mapping[str, Sequence[str]]) -> list[Reference]:
    """Return where else `url` may be found."""
    for beginning in sorted(mirrors, key=len, reverse=True):
        rest = url.removeprefix(beginning.rstrip("/"))
        if rest != url and rest.startswith("/"):
            places = (_below(parse(mirror), rest) for mirror in mirrors[beginning])
            return [place for place in places if place]
    return []


def _below(mirror: Reference, rest: str) -> Reference | None:
    from urllib.parse import unquote

    if mirror.scheme != "file":
        return Reference(mirror.scheme, mirror.location.rstrip("/") + rest)
    path = unquote(rest.partition("?")[0], errors="surrogateescape")
    # A URL may climb out of a directory where a web server would not let it.
    climbs = ".." in path.split("/") or "\0" in path
    return None if climbs else Reference("file", mirror.location.rstrip("/") + path)
