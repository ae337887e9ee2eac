"""What a test origin answers, and how it may fail: requests, resources, faults; no network here (see origin.py)."""

from __future__ import annotations

import gzip
import os
import re
import threading
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import sha256
from typing import Literal

MODIFIED = 1_700_000_000
"""Last-Modified of bytes in memory, in seconds since the epoch."""

HTML = b"<!DOCTYPE html><html><body><h1>Please log in</h1></body></html>\n"

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Stall:
    """A pause after `at` bytes of the body, or before the headers if negative; lasts until somebody sets `go`."""

    def __init__(self, at: int = -1) -> None:
        self.at = at
        self.reached = threading.Event()
        self.go = threading.Event()

    def pause(self) -> None:
        self.reached.set()
        self.go.wait()


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is to go wrong; byte positions count in the body of the one response."""

    times: int = 0
    """The first so many requests of the path; 0 is all of them."""
    status: int = 0
    retry_after: str = ""
    stall: Stall | None = None
    truncate_at: int | None = None
    """Ends the connection there, politely (FIN)."""
    reset_at: int | None = None
    """Ends the connection there, rudely (RST)."""
    ranges: bool = True
    if_range: bool = True
    """Whether If-Range is honoured."""
    content_length: str | None = None
    """Said instead of the truth."""
    content_range: str | None = None
    """As above; an empty string leaves the header out."""
    framing: Literal["length", "chunked", "close"] = "length"
    corrupt_at: int | None = None
    """Position, in the resource, of one wrong byte."""
    changing: bool = False
    """Every request meets another version: its first byte and its ETag differ."""
    etag: Literal["strong", "weak", "none"] = "strong"
    dated: bool = True
    """Whether Last-Modified is sent."""
    location: str = ""
    """Redirect there (status 302 unless given)."""
    authorization: str = ""
    """401 unless the request carries exactly this."""
    gzip: bool = False
    html: bool = False
    rate: int = 0
    """Bytes per second and connection; 0 is as fast as can be."""
    headers: tuple[tuple[str, str], ...] = ()
    raw: bytes = b""
    """Sent instead of a response, then FIN."""


HEALTHY = Fault()


@dataclass
class Request:
    """What came in; `status` and `sent` (bytes of the body) tell how far the answer got."""

    method: str
    path: str
    headers: dict[str, str]
    connection: int
    status: int = 0
    sent: int = 0


class Body:
    """Bytes in memory or in a file, with single bytes changed on the way out."""

    def __init__(self, content: bytes | str, patches: dict[int, int] | None = None) -> None:
        self._content = content
        self._patches = patches or {}
        self.size = os.path.getsize(content) if isinstance(content, str) else len(content)

    def read(self, start: int, end: int) -> bytes:
        if isinstance(self._content, str):
            with open(self._content, "rb", buffering=0) as file:
                piece = os.pread(file.fileno(), end - start, start)
        else:
            piece = self._content[start:end]
        for position, mask in self._patches.items():
            if start <= position < start + len(piece):
                changed = bytearray(piece)
                changed[position - start] ^= mask
                piece = bytes(changed)
        return piece


@dataclass
class Resource:
    """Something at a path: bytes, or the name of a file."""

    content: bytes | str
    faults: tuple[Fault, ...] = ()
    uses: int = 0

    def next_fault(self) -> Fault:
        self.uses += 1
        nth = self.uses
        for fault in self.faults:
            if fault.times == 0 or nth <= fault.times:
                return fault
            nth -= fault.times
        return HEALTHY

    def etag(self) -> str:
        if isinstance(self.content, str):
            status = os.stat(self.content)
            return f"{status.st_mtime_ns:x}-{status.st_size:x}"
        return sha256(self.content).hexdigest()[:16]

    def modified(self) -> float:
        return os.path.getmtime(self.content) if isinstance(self.content, str) else MODIFIED

    def body(self, fault: Fault) -> Body:
        patches = {} if fault.corrupt_at is None else {fault.corrupt_at: 0xFF}
        if fault.changing:
            patches[0] = self.uses - 1 & 0xFF
        if fault.gzip:
            plain = Body(self.content)
            return Body(gzip.compress(plain.read(0, plain.size)))
        return Body(self.content, patches)


@dataclass
class Answer:
    """A response before it is sent: the bytes `start` to `end` of `body`."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Body = field(default_factory=lambda: Body(b""))
    start: int = 0
    end: int = 0


def _plain(status: int, text: bytes = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, Body(text), 0, len(text))


def answer(request: Request, resource: Resource, fault: Fault) -> Answer:
    """Decide what an origin with this fault says to the request (RFC 9110)."""
    if fault.authorization and request.headers.get("authorization") != fault.authorization:
        return _plain(401, b"who are you?\n", WWW_Authenticate='Basic realm="test"')
    if fault.location:
        return _plain(fault.status or 302, Location=fault.location)
    if fault.status:
        return _plain(fault.status, b"no\n", **({"Retry_After": fault.retry_after} if fault.retry_after else {}))
    if fault.html:
        return _plain(200, HTML, Content_Type="text/html")
    return _represent(request, resource, fault)


def _represent(request: Request, resource: Resource, fault: Fault) -> Answer:
    body = resource.body(fault)
    headers = {"Content-Type": "application/octet-stream"}
    if fault.etag != "none":
        version = f"-{resource.uses}" if fault.changing else ""
        headers["ETag"] = ("W/" if fault.etag == "weak" else "") + f'"{resource.etag()}{version}"'
    if fault.dated:
        headers["Last-Modified"] = formatdate(resource.modified(), usegmt=True)
    if fault.gzip:
        headers["Content-Encoding"] = "gzip"
    if _unchanged(request, headers):
        return Answer(304, headers)
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if not (fault.ranges and asked and _range_applies(request, headers, fault)):
        return Answer(200, headers | ({"Accept-Ranges": "bytes"} if fault.ranges else {}), body, 0, body.size)
    start, end = _bounds(asked, body.size)
    if start >= end:
        return _plain(416, b"", Content_Range=f"bytes */{body.size}")
    said = f"bytes {start}-{end - 1}/{body.size}" if fault.content_range is None else fault.content_range
    return Answer(206, headers | ({"Content-Range": said} if said else {}), body, start, end)


def _unchanged(request: Request, headers: dict[str, str]) -> bool:
    tags = request.headers.get("if-none-match")
    if tags is not None:
        current = headers.get("ETag", "").removeprefix("W/")
        return bool(current) and current in (tag.strip().removeprefix("W/") for tag in tags.split(","))
    return "Last-Modified" in headers and request.headers.get("if-modified-since") == headers["Last-Modified"]


def _range_applies(request: Request, headers: dict[str, str], fault: Fault) -> bool:
    condition = request.headers.get("if-range")
    if condition is None or not fault.if_range:
        return True
    strong = headers.get("ETag", "W/")
    return condition == headers.get("Last-Modified") or (condition == strong and not strong.startswith("W/"))


def _bounds(asked: re.Match[str], size: int) -> tuple[int, int]:
    first, last = asked.groups()
    if not first:
        return max(0, size - int(last or 0)), size
    return int(first), min(size, int(last) + 1) if last else size
