"""What members say to the coordinator: read with suspicion, passed on as plain values.

A member holds the staging's secret, but may run another version, a broken clock or bad memory: whatever is not as
promised is Malformed, never another exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, TypeVar

from stager.quantity import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

CHUNK = 1 << 18
"""Bytes that are verified, and so passed on, at once: the unit of every offset."""

STATES = ("waiting", "receiving", "verifying", "done", "failed")
LOSSES = ("reset", "refused", "corrupt", "ended", "moved")
"""`ended` and `moved` are refusals of a node that is there, but has this image no longer."""

ORIGIN = "origin"

MAX_TEXT = 4096
MAX_BODY = 1 << 16
"""Characters that a whole message has at most."""
MAX_NAME = 255
MAX_PHASE = 40
MAX_COUNT = 1 << 32
MAX_SECONDS = 1e12

_HEX = frozenset("0123456789abcdef")


class Malformed(ValueError):
    """A message that no member of this version would send."""


@dataclass(frozen=True, slots=True)
class Version:
    """What the origin says of the image that is being staged; `size` in bytes, None while unknown."""

    etag: str
    modified: str
    size: int | None
    origin: str
    private: bool

    def same(self, other: Version) -> bool:
        """Whether both may be the same bytes: equal validators, and no two different sizes."""
        sizes = {self.size, other.size} - {None}
        return (self.etag, self.modified) == (other.etag, other.modified) and len(sizes) < 2

    def shown(self) -> dict[str, object]:
        """As on the wire."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it goes around: exit code, message and hint of a StageImageError."""

    code: int
    message: str
    hint: str

    def shown(self) -> dict[str, object]:
        """As on the wire."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Doing:
    """What the head does before its first byte: a phase in a word, and how far it is of `total` (0: unknown)."""

    phase: str
    done: int
    total: int

    def shown(self) -> dict[str, object]:
        """As on the wire."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """A member comes in, for the first time or again.

    `upstream` is whom it has been pulling from, if anybody; `digest` and `root` are what an earlier coordinator said;
    `expects` is the only digest that will do, if it knows.
    """

    node: str
    host: str
    address: str
    order: int | None
    scope: str
    offset: int
    generation: int | None
    version: Version | None
    since: float
    upstream: str | None
    state: str
    digest: str | None
    root: str | None
    expects: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a member is: `offset` verified bytes, `silence` seconds without a byte while it waits for some.

    `trouble`: what keeps the head's bytes from coming, in words; `doing`: what it does meanwhile. `fresh`: whether the
    origin still has the image, from a member that was told to ask.
    """

    node: str
    generation: int
    offset: int
    silence: float
    upstream: str | None
    lost: str | None
    state: str
    downstream: int
    version: Version | None
    digest: str | None
    root: str | None
    error: Failure | None
    fresh: bool | None
    trouble: str | None
    doing: Doing | None = None


def joining(message: Mapping[str, object]) -> Joining:
    """Return what a join says; Malformed if it is none."""
    return Joining(
        node=node(message),
        host=_text(message, "host", MAX_NAME),
        address=_address(message),
        order=_maybe(message, "order", _count),
        scope=_text(message, "scope", MAX_NAME),
        offset=_size(message, "offset"),
        generation=_maybe(message, "generation", _generation),
        version=_version(message.get("version")),
        since=_seconds(message, "since"),
        upstream=_maybe(message, "upstream", _name),
        state=_maybe(message, "state", lambda m, k: _one_of(m, k, STATES)) or "waiting",
        digest=_maybe(message, "digest", _sha256),
        root=_maybe(message, "root", _sha256),
        expects=_maybe(message, "expects", _sha256),
    )


def report(message: Mapping[str, object]) -> Report:
    """Return what a report says; Malformed if it is none."""
    return Report(
        node=node(message),
        generation=_generation(message, "generation"),
        offset=_size(message, "offset"),
        silence=_seconds(message, "silence"),
        upstream=_maybe(message, "upstream", _name),
        lost=_maybe(message, "lost", lambda m, k: _one_of(m, k, LOSSES)),
        state=_one_of(message, "state", STATES),
        downstream=_count(message, "downstream"),
        version=_version(message.get("version")),
        digest=_maybe(message, "digest", _sha256),
        root=_maybe(message, "root", _sha256),
        error=_failure(message.get("error")),
        fresh=_maybe(message, "fresh", _truth),
        trouble=_maybe(message, "trouble", lambda m, k: _text(m, k, MAX_TEXT)),
        doing=_doing(message.get("doing")),
    )


def node(message: Mapping[str, object]) -> str:
    """Return the sender's name; Malformed if there is none. `origin` is nobody's name."""
    name = _name(message, "node")
    if name == ORIGIN:
        raise Malformed("a member calls itself the origin")
    return name


def _maybe(message: Mapping[str, object], key: str, read: Callable[[Mapping[str, object], str], T]) -> T | None:
    return None if message.get(key) is None else read(message, key)


def _text(message: Mapping[str, object], key: str, limit: int) -> str:
    value = message.get(key)
    if not isinstance(value, str) or len(value) > limit:
        raise Malformed(f"{key} is no text of at most {limit} characters")
    return value


def _name(message: Mapping[str, object], key: str) -> str:
    value = _text(message, key, MAX_NAME)
    if not value or not value.isprintable():
        raise Malformed(f"{key} is not a name")
    return value


def _address(message: Mapping[str, object]) -> str:
    value = _text(message, "address", MAX_NAME)
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise Malformed("address is not ip:port")
    if not value.isascii() or not value.isprintable() or " " in value or "/" in value:
        raise Malformed("address is not ip:port")
    return value


def _one_of(message: Mapping[str, object], key: str, words: tuple[str, ...]) -> str:
    value = message.get(key)
    if not isinstance(value, str) or value not in words:
        raise Malformed(f"{key} is none of {', '.join(words)}")
    return value


def _integer(message: Mapping[str, object], key: str, low: int, high: int) -> int:
    value = message.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Malformed(f"{key} is no number from {low} to {high}")
    return value


def _count(message: Mapping[str, object], key: str) -> int:
    return _integer(message, key, 0, MAX_COUNT)


def _generation(message: Mapping[str, object], key: str) -> int:
    return _integer(message, key, 1, MAX_COUNT)


def _size(message: Mapping[str, object], key: str) -> int:
    return _integer(message, key, 0, MAX_SIZE)


def _seconds(message: Mapping[str, object], key: str) -> float:
    value = message.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise Malformed(f"{key} is no number")
    # The order matters: an int of a thousand digits can be compared, but not turned into a float.
    if not 0 <= value <= MAX_SECONDS or not isfinite(value):
        raise Malformed(f"{key} is no time")
    return float(value)


def _truth(message: Mapping[str, object], key: str) -> bool:
    value = message.get(key)
    if not isinstance(value, bool):
        raise Malformed(f"{key} is neither true nor false")
    return value


def _sha256(message: Mapping[str, object], key: str) -> str:
    value = _text(message, key, 64)
    if len(value) != 64 or not _HEX.issuperset(value):
        raise Malformed(f"{key} is not 64 hexadecimal digits")
    return value


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise Malformed(f"{what} is no object")
    return value


def _version(value: object) -> Version | None:
    if value is None:
        return None
    said = _object(value, "version")
    private = said.get("private")
    if not isinstance(private, bool):
        raise Malformed("private is neither true nor false")
    return Version(
        etag=_text(said, "etag", MAX_TEXT),
        modified=_text(said, "modified", MAX_TEXT),
        size=_maybe(said, "size", _size),
        origin=_text(said, "origin", MAX_TEXT),
        private=private,
    )


def _failure(value: object) -> Failure | None:
    if value is None:
        return None
    said = _object(value, "error")
    return Failure(
        code=_integer(said, "code", 1, 255),
        message=_text(said, "message", MAX_BODY)[:MAX_TEXT],
        hint=_text(said, "hint", MAX_BODY)[:MAX_TEXT],
    )


def _doing(value: object) -> Doing | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise Malformed("doing is no object")
    phase = _text(value, "phase", MAX_PHASE)
    if not phase.isprintable():
        raise Malformed("phase is no word")
    return Doing(phase, _size(value, "done"), _size(value, "total"))
