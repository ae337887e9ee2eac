"""What goes over the wire between nodes: the part of HTTP/1.1 (RFC 9112) that is spoken, and nothing beyond it.

GET  /v1/<staging>/<generation>/image    the image's bytes, as they get verified; Range: bytes=N- or N-M
GET  /v1/<staging>/<generation>/chunks   likewise the chunk records, one after the other
POST /v1/<staging>/<verb>                a JSON object, answered by a JSON object

Bytes that are not verified yet are waited for, for ever; an image that is not there at all for 2 s.

A parser of its own because http.client costs 15 ms at import (email.parser), and because one that refuses all it does
not need is the safer one: it is what strangers talk to.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from socket import socket

CHUNK = 1 << 18
"""Bytes that are verified and passed on as one. Measured for a chain of 32: 16 ms a hop; 1 MiB makes it 82 ms."""

RECORD = 64
"""Bytes that vouch for one chunk: its sha256, and the MAC of whoever knows the staging's secret."""

HEAD_MAX = 8192
BODY_MAX = 65536
FIELDS_MAX = 64
OFFSET_MAX = (1 << 63) - 1
"""off_t of Linux; also what stands for the last byte of a range whose end nobody knows yet."""

END_OF_HEAD = b"\r\n\r\n"
JSON = "application/json"
BYTES = "application/octet-stream"

REASONS = {
    200: "OK",
    206: "Partial Content",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    410: "Gone",
    416: "Range Not Satisfiable",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_HEX = frozenset("0123456789abcdef")
_CONTROLS = frozenset(map(chr, (*range(0x20), 0x7F))) - {"\t"}


class NotUnderstood(Exception):
    """The other side does not speak what is spoken here; says what about it."""


class Request:
    """What somebody asks for. `fields` has lower-case names."""

    __slots__ = ("body", "close", "fields", "length", "method", "path")

    def __init__(self, block: bytes) -> None:
        """Parse a head without the empty line at its end. Raises NotUnderstood."""
        start, self.fields = _parse(block)
        self.method, self.path, version = start
        if not _TOKEN.issuperset(self.method) or self.path[:1] != "/" or version not in {"HTTP/1.1", "HTTP/1.0"}:
            raise NotUnderstood("a request line of another kind")
        self.length = _length(self.fields) or 0
        if self.length > BODY_MAX:
            raise NotUnderstood("a body too long")
        self.close = version == "HTTP/1.0" or self.fields.get("connection", "").lower() == "close"
        self.body = b""


class Answer:
    """The head of an answer. `length` is the body's in bytes, None if it lasts until the connection ends."""

    __slots__ = ("close", "fields", "length", "status")

    def __init__(self, block: bytes) -> None:
        """Parse a head without the empty line at its end. Raises NotUnderstood."""
        (version, status, _), self.fields = _parse(block)
        if version not in {"HTTP/1.1", "HTTP/1.0"} or len(status) != 3 or not is_number(status):
            raise NotUnderstood("a status line of another kind")
        self.status = int(status)
        self.length = _length(self.fields)
        self.close = version == "HTTP/1.0" or self.fields.get("connection", "").lower() == "close"


def request_head(method: str, path: str, fields: Mapping[str, str]) -> bytes:
    """Return a head, its empty line included."""
    return _head(f"{method} {path} HTTP/1.1", fields)


def answer_head(status: int, fields: Mapping[str, str]) -> bytes:
    """Return a head, its empty line included."""
    return _head(f"HTTP/1.1 {status} {REASONS[status]}", fields)


def parse_range(text: str) -> tuple[int, int | None]:
    """Return the first byte and the one after the last (None: up to the end) of `bytes=N-` or `bytes=N-M`.

    Raises NotUnderstood for anything else, also for what RFC 9110 allows beyond: several ranges, the last N bytes.
    """
    unit, _, rest = text.partition("=")
    first, dash, last = rest.partition("-")
    if unit != "bytes" or not dash or not is_number(first) or (last and not is_number(last)):
        raise NotUnderstood("a range of another kind")
    start, end = int(first), int(last) + 1 if last else None
    if end is not None and end <= start:
        raise NotUnderstood("a range that ends before it begins")
    return start, end


def content_range(start: int, end: int | None, size: int | None) -> str:
    """Return the field's value; None is what is not known yet."""
    last = OFFSET_MAX - 1 if end is None else end - 1
    return f"bytes {start}-{last}/{'*' if size is None else size}"


def parse_content_range(text: str) -> tuple[int | None, int | None]:
    """Return the first byte (None in `bytes */size`) and the size of the whole (None: unknown).

    Raises NotUnderstood.
    """
    unit, _, rest = text.partition(" ")
    span, slash, whole = rest.partition("/")
    first, dash, last = span.partition("-")
    if unit != "bytes" or not slash or not (whole == "*" or is_number(whole)):
        raise NotUnderstood("a content range of another kind")
    if span != "*" and not (dash and is_number(first) and is_number(last)):
        raise NotUnderstood("a content range of another kind")
    return None if span == "*" else int(first), None if whole == "*" else int(whole)


def split_address(address: str) -> tuple[str, int]:
    """Return the IP address and the port of `10.1.2.3:4567` or `[fe80::1]:4567`. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not is_number(port) or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not an address and a port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """Return what `split_address` takes apart."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def own_address(sock: socket) -> str:
    """Return where a connection ends on this side; an IPv4 address as such, also where an IPv6 socket speaks it."""
    host, port = sock.getsockname()[:2]
    return join_address(host.removeprefix("::ffff:") if "." in host else host, port)


def is_number(text: str) -> bool:
    """Whether it is a whole number that fits in off_t."""
    return text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= OFFSET_MAX


def is_hex(text: str, length: int) -> bool:
    """Whether it is so many lower-case hexadecimal digits."""
    return len(text) == length and _HEX.issuperset(text)


def _head(start: str, fields: Mapping[str, str]) -> bytes:
    lines = [start, *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode("latin-1") + END_OF_HEAD


def _parse(block: bytes) -> tuple[tuple[str, str, str], dict[str, str]]:
    first, *lines = block.decode("latin-1").split("\r\n")
    if not _CONTROLS.isdisjoint(first) or len(lines) > FIELDS_MAX:
        raise NotUnderstood("a head of another kind")
    start = first.split(" ", 2)
    if len(start) != 3 or not all(start[:2]):
        raise NotUnderstood("a first line of another kind")
    fields: dict[str, str] = {}
    for line in lines:
        name, value = _field(line)
        if name in fields:  # which of the two counts is what request smuggling lives on
            raise NotUnderstood("a field that comes twice")
        fields[name] = value
    if "transfer-encoding" in fields:
        raise NotUnderstood("a transfer encoding")
    return (start[0], start[1], start[2]), fields


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or not _TOKEN.issuperset(name) or not _CONTROLS.isdisjoint(value):
        raise NotUnderstood("a field of another kind")
    return name.lower(), value.strip(" \t")


def _length(fields: Mapping[str, str]) -> int | None:
    text = fields.get("content-length")
    if text is not None and not is_number(text):
        raise NotUnderstood("a length that is no number")
    return None if text is None else int(text)
