"""An origin in memory that misbehaves as scripted."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stager.errors import OriginUnavailable
from stager.interfaces import Validators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stager.errors import StageImageError

TRUE_SIZE = -1
UNKNOWN_SIZE = -2


@dataclass(frozen=True)
class Version:
    """One content of an origin; without `etag` and `modified` nothing tells it from another."""

    content: bytes
    etag: str = ""
    modified: str = ""

    @property
    def validators(self) -> Validators:
        return Validators(self.etag, self.modified, len(self.content))


class Gate:
    """Holds a stream back once `at` bytes of it are out; `reached` is set then, and `go` lets it through."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.reached = threading.Event()
        self.go = threading.Event()

    def hold(self) -> None:
        self.reached.set()
        self.go.wait()


def _broken() -> OriginUnavailable:
    return OriginUnavailable("the fake origin broke off")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with one `open` or with the stream that it gives; positions count from the stream's start."""

    refuse: Callable[[], StageImageError] | None = None
    """Raised by `open`."""
    break_at: int | None = None
    """After so many bytes `breaks` is raised."""
    breaks: Callable[[], StageImageError] = _broken
    ranges: bool = True
    """Otherwise everything is sent from 0 on."""
    silent: bool = False
    """Nothing is said of the version, and If-Range is not understood."""
    size: int = TRUE_SIZE
    """Said instead of the truth; a smaller one ends the stream there, as Content-Length does."""
    elsewhere: int = 0
    """The stream begins so many bytes off what was asked for."""
    move: Version | None = None
    """From this `open` on, the origin has another version."""
    gate: Gate | None = None


HEALTHY = Fault()


@dataclass(frozen=True)
class Asked:
    """The arguments of one `open`."""

    start: int
    end: int | None
    if_range: Validators | None
    unless: Validators | None


class ScriptedSource:
    """Fulfils `stager.interfaces.Source`. The nth `open` meets the nth of `faults`, later ones `then`.

    `asked` lists what was asked for; `served` counts the bytes that went out, `closed` the streams let go of.
    """

    def __init__(
        self,
        version: Version,
        faults: Iterable[Fault] = (),
        *,
        then: Fault = HEALTHY,
        piece: int = 1 << 20,
        private: bool = False,
    ) -> None:
        self.name = "fake-origin"
        self.version = version
        self.private = private
        self.piece = piece
        self.asked: list[Asked] = []
        self.served = 0
        self.closed = 0
        self._script = iter(faults)
        self._then = then
        self._lock = threading.Lock()

    def open(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        if_range: Validators | None = None,
        unless: Validators | None = None,
    ) -> ScriptedStream | None:
        with self._lock:
            self.asked.append(Asked(start, end, if_range, unless))
            fault = next(self._script, self._then)
            self.version = fault.move or self.version
            version = self.version
        if fault.refuse is not None:
            raise fault.refuse()
        size = {TRUE_SIZE: len(version.content), UNKNOWN_SIZE: None}.get(fault.size, fault.size)
        said = Validators(size=size) if fault.silent else replace(version.validators, size=size)
        if _is_same(unless, said):
            return None
        going_on = fault.ranges and _is_range(start, end, len(version.content))
        if not going_on or (if_range and not _is_same(if_range, said)):
            start = 0
        return ScriptedStream(self, version.content, fault, said, (start + fault.elsewhere, end))

    def count(self, sent: int = 0, closed: int = 0) -> None:
        with self._lock:
            self.served += sent
            self.closed += closed


def _is_range(start: int, end: int | None, size: int) -> bool:
    # `bytes=7-6` is no valid range, and what is invalid is ignored (RFC 9110, 14.1.1 and 14.2).
    return start <= size and (end is None or end > start)


def _is_same(ours: Validators | None, theirs: Validators) -> bool:
    if not ours or (None not in (ours.size, theirs.size) and ours.size != theirs.size):
        return False
    return (ours.etag, ours.modified) == (theirs.etag, theirs.modified)


class ScriptedStream:
    """Fulfils `stager.interfaces.Stream`: bytes of one version, which a later move of the origin does not change."""

    def __init__(
        self, source: ScriptedSource, content: bytes, fault: Fault, said: Validators, span: tuple[int, int | None]
    ) -> None:
        self.offset, end = span
        self.validators = said
        self.private = source.private
        self.ranges = fault.ranges and not fault.silent and said.size is not None
        self.size = said.size
        self._source = source
        self._fault = fault
        self._promised = min((stop for stop in (end, self.size) if stop is not None), default=len(content))
        self._content = content[self.offset : self._promised]
        self._closed = threading.Event()

    def chunks(self) -> Iterator[bytes]:
        position = 0
        for mark, event in self._events():
            while position < mark:
                chunk = self._content[position : min(position + self._source.piece, mark)]
                position += len(chunk)
                self._source.count(sent=len(chunk))
                yield chunk
                if self._closed.is_set():
                    raise OriginUnavailable("the transfer was given up")
            event()
        if self.offset + position < self._promised:
            raise _broken()

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._source.count(closed=1)
        if self._fault.gate is not None:
            self._fault.gate.go.set()

    def _events(self) -> Iterator[tuple[int, Callable[[], object]]]:
        """Yield, in order, after how many bytes something happens, and what."""
        length = len(self._content)
        events: list[tuple[int, Callable[[], object]]] = [(length, lambda: None)]
        if self._fault.gate is not None:
            events.append((min(self._fault.gate.at, length), self._hold))
        if self._fault.break_at is not None and self._fault.break_at < length:
            events.append((self._fault.break_at, self._break))
        yield from sorted(events, key=lambda event: event[0])

    def _hold(self) -> None:
        if self._fault.gate is not None:
            self._fault.gate.hold()
        if self._closed.is_set():
            raise OriginUnavailable("the transfer was given up")

    def _break(self) -> None:
        raise self._fault.breaks()
