"""Several sources of one image: each is asked in turn, and a version counts only at the source that named it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from stager.errors import NotFound, StageImageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stager.clock import Clock
    from stager.interfaces import Source, Stream, Validators

FORGET_AFTER = 300.0
"""Seconds. A mirror that is down costs its connect_timeout at every try: long enough to spare a whole download."""


class FailureMemory(Protocol):
    """Which mirrors failed of late, by name."""

    def failed(self, name: str) -> bool: ...

    def remember(self, name: str) -> None: ...


class RecentFailures:
    """Remembers in this process, for FORGET_AFTER seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def failed(self, name: str) -> bool:
        return self._clock.now() < self._until.get(name, 0.0)

    def remember(self, name: str) -> None:
        self._until[name] = self._clock.now() + FORGET_AFTER


class MirroredSource:
    """Sources of the same image, in the order of preference; the last is the origin.

    ETags of two servers may agree by chance (nginx makes them of time and size), so bytes of one are never joined to
    those of another. To know whose they are, after a crash too, the validators of a mirror end in its name; nothing
    that an HTTP header or a file's time holds looks like that, so the origin by itself takes them for unknown.
    """

    def __init__(self, sources: Sequence[Source], memory: FailureMemory) -> None:
        """Take at least one source."""
        *mirrors, origin = sources
        self._sources = [*((f" at {mirror.name}", mirror) for mirror in mirrors), ("", origin)]
        self._memory = memory
        self.name = origin.name

    def open(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        if_range: Validators | None = None,
        unless: Validators | None = None,
    ) -> Stream | None:
        """As Source.open. If all fail, the error is that of the first which knows more than NotFound."""
        held, known = self._owner(if_range), self._owner(unless)
        errors: list[StageImageError] = []
        for mark, source in self._in_order(known if held is None else held):
            try:
                stream = source.open(
                    start if held in (mark, None) else 0,
                    end,
                    if_range=_renamed(if_range, mark, "") if held == mark else None,
                    unless=_renamed(unless, mark, "") if known == mark else None,
                )
            except StageImageError as error:
                if not isinstance(error, NotFound):
                    self._memory.remember(source.name)
                errors.append(error)
            else:
                return stream and MirrorStream(stream, source.name, mark, self._memory)
        raise _most_telling(errors)

    def _owner(self, version: Validators | None) -> str | None:
        """Return the mark of the source that sent a version, None if the version says nothing."""
        if not version:
            return None
        marks = [mark for mark, _ in self._sources if (version.etag or version.modified).endswith(mark)]
        return max(marks, key=len)

    def _in_order(self, owner: str | None) -> list[tuple[str, Source]]:
        """Whoever sent the version goes first, whoever failed of late goes last."""
        return sorted(self._sources, key=lambda entry: (self._memory.failed(entry[1].name), entry[0] != owner))


def _renamed(version: Validators | None, old: str, new: str) -> Validators | None:
    if version is None:
        return None
    etag, modified = (text and text.removesuffix(old) + new for text in (version.etag, version.modified))
    return replace(version, etag=etag, modified=modified)


def _most_telling(errors: list[StageImageError]) -> StageImageError:
    chosen = next((error for error in errors if not isinstance(error, NotFound)), errors[0])
    others = [error.message for error in errors if error is not chosen]
    chosen.message = "; ".join([chosen.message, *others])
    chosen.args = (chosen.message,)
    hopeful = [error for error in errors if error.retryable]
    chosen.retryable = bool(hopeful)
    chosen.retry_after = min((error.retry_after or 0.0 for error in hopeful), default=None)
    return chosen


class MirrorStream:
    """A mirror's stream: its version is the mirror's, by its `mark`, and if it breaks, the mirror is remembered."""

    def __init__(self, stream: Stream, name: str, mark: str, memory: FailureMemory) -> None:
        self._stream = stream
        self._name = name
        self._memory = memory
        self._closed = False
        self.offset = stream.offset
        self.size = stream.size
        self.validators = _renamed(stream.validators, "", mark) or stream.validators
        self.ranges = stream.ranges
        self.private = stream.private

    def chunks(self) -> Iterator[bytes]:
        try:
            yield from self._stream.chunks()
        except StageImageError:
            if not self._closed:
                self._memory.remember(self._name)
            raise

    def close(self) -> None:
        self._closed = True
        self._stream.close()
