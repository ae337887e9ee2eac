"""Which bytes to ask an HTTP origin for, and what its answer means; pure. Section numbers are those of RFC 9110."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from stager.errors import OriginUnavailable
from stager.interfaces import Validators
from stager.sources import headers as said

if TYPE_CHECKING:
    from collections.abc import Mapping


class Outcome(Enum):
    """An answer without an image in it."""

    UNCHANGED = "the origin still has the version that we have"
    START_OVER = "the answer does not fit what we hold: ask again, for everything"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the body of an answer is: the bytes [offset, stop) of an image of `size`; None where that is not known.

    `gzipped`: the body is compressed as a whole; offset and stop count in the image itself.
    """

    offset: int
    stop: int | None
    size: int | None
    validators: Validators
    ranges: bool = False
    gzipped: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """The arguments of Source.open; `partly` is whether a part of the image may be asked for."""

    start: int = 0
    end: int | None = None
    if_range: Validators | None = None
    unless: Validators | None = None
    partly: bool = True

    def headers(self) -> dict[str, str]:
        """Return the headers that ask for this. An `if_range` that says nothing is the caller's own risk."""
        asked = {"Accept-Encoding": "identity"}
        condition = self._condition()
        if self.partly and (self.start or self.end is not None) and condition is not None:
            asked["Range"] = f"bytes={self.start}-{'' if self.end is None else self.end - 1}"
            if condition:
                asked["If-Range"] = condition
        ours = _well_formed(self.known)
        if ours.etag:
            asked["If-None-Match"] = ours.etag
        elif ours.modified:
            asked["If-Modified-Since"] = ours.modified
        return asked

    @property
    def complete(self) -> bool:
        """Whether all bytes are held, so that the only question is whether their version is the current one."""
        return self.if_range is not None and bool(self.if_range) and 0 < self.start == self.if_range.size

    @property
    def known(self) -> Validators | None:
        """The version of which nothing needs to be sent."""
        return self.if_range if self.complete else self.unless

    def _condition(self) -> str | None:
        """Return the value of If-Range (13.1.5), empty for an unconditional range, None if there must be no range."""
        if not self.start or not self.if_range:
            return ""
        if self.complete:
            # A range would be answered 416, which tells nothing of the version (nginx 1.22 leaves the ETag out).
            return None
        ours = _well_formed(self.if_range)
        return ours.etag if said.is_strong(ours.etag) else ours.modified or None

    def anew(self) -> Asked:
        """Return what to ask when nothing that is held can be used."""
        return replace(self, start=0, if_range=None, partly=False)

    def cut(self, size: int | None) -> int | None:
        """Return where the bytes asked for stop in an image of `size`."""
        ends = [end for end in (self.end, size) if end is not None]
        return min(ends, default=None)


def _well_formed(version: Validators | None) -> Validators:
    # They come back from records, which may have been written for another kind of source.
    return said.validators({"ETag": version.etag, "Last-Modified": version.modified} if version else {}, None)


def judge(asked: Asked, status: int, headers: Mapping[str, str]) -> Delivery | Outcome:
    """Return what the answer of a status without an error (200, 206, 304, 416) means.

    `headers` must not care for case. Raises OriginUnavailable, not retryable, for what cannot be understood.
    """
    if status == 304 and _well_formed(asked.known):
        return _unchanged(asked)
    if status == 200:
        return _whole(asked, headers)
    if status in (206, 416) and "Range" in asked.headers():
        return (_part if status == 206 else _nothing_left)(asked, headers) or Outcome.START_OVER
    raise _not_understood(f"answered {status} to a question it was not asked")


def _whole(asked: Asked, headers: Mapping[str, str]) -> Delivery | Outcome:
    gzipped = _is_gzipped(headers)
    known = not gzipped and "Transfer-Encoding" not in headers
    size = said.number(headers.get("Content-Length", "")) if known else None
    version = said.validators(headers, size)
    if asked.known and _is_unchanged(asked.known, version):
        return _unchanged(asked)
    parts = size is not None and headers.get("Accept-Ranges", "").strip().lower() == "bytes"
    ranges = parts and said.names_one_version(headers, version)
    return Delivery(0, asked.cut(size), size, version, ranges, gzipped)


def _unchanged(asked: Asked) -> Delivery | Outcome:
    if not asked.complete or asked.if_range is None:
        return Outcome.UNCHANGED
    return Delivery(asked.start, asked.start, asked.start, asked.if_range, said.is_strong(asked.if_range.etag))


def _is_unchanged(ours: Validators, theirs: Validators) -> bool:
    # For origins that ignore If-None-Match. Weak comparison is right here (13.1.2).
    if ours.etag or theirs.etag:
        return ours.etag.removeprefix("W/") == theirs.etag.removeprefix("W/")
    return bool(ours.modified) and (ours.modified, ours.size) == (theirs.modified, theirs.size)


def _part(asked: Asked, headers: Mapping[str, str]) -> Delivery | None:
    part = said.content_range(headers.get("Content-Range", ""))
    if part is None or part.start != asked.start or _encoding(headers):
        return None
    stop = asked.cut(part.size)
    version = _confirmed(asked.if_range if asked.start else None, said.validators(headers, part.size))
    # Without a size or an end asked for, nothing tells the end of this part from the end of the image.
    if stop is None or version is None:
        return None
    ranges = part.size is not None and said.names_one_version(headers, version)
    return Delivery(part.start, stop, part.size, version, ranges)


def _confirmed(ours: Validators | None, theirs: Validators) -> Validators | None:
    """Return what is known of a part's version, or None if it is not the one that we hold the beginning of."""
    if ours is None:
        return theirs
    if None not in (ours.size, theirs.size) and ours.size != theirs.size:
        return None
    if said.is_strong(ours.etag):
        # Some servers know ranges but not If-Range; a 206 must carry the ETag (15.3.7), so its absence is no consent.
        same = ours.etag == theirs.etag
    else:
        same = not ours or (theirs.etag in ("", ours.etag) and theirs.modified in ("", ours.modified))
    if not same:
        return None
    return Validators(theirs.etag or ours.etag, theirs.modified or ours.modified, theirs.size)


def _nothing_left(asked: Asked, headers: Mapping[str, str]) -> Delivery | None:
    size = said.unsatisfied_size(headers.get("Content-Range", ""))
    if size is None or size != asked.start:
        return None
    version = _confirmed(asked.if_range, said.validators(headers, size))
    if version is None:
        return None
    return Delivery(size, size, size, version, said.names_one_version(headers, version))


def _encoding(headers: Mapping[str, str]) -> str:
    coding = headers.get("Content-Encoding", "").strip().lower()
    return "" if coding == "identity" else coding


def _is_gzipped(headers: Mapping[str, str]) -> bool:
    coding = _encoding(headers)
    if coding and coding not in ("gzip", "x-gzip"):
        raise _not_understood(f"sends the image encoded as {coding[:40]!a}, which nobody asked for")
    return bool(coding)


def _not_understood(what: str) -> OriginUnavailable:
    error = OriginUnavailable(what, hint="the origin or a proxy is misconfigured: tell its administrator")
    error.retryable = False
    return error
