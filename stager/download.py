"""From an origin into a partial copy, over as many breaks and connections as it takes.

One stream is the rule. More are opened when the origin serves ranges and they pay: at least PAYS_BYTES and
PAYS_SECONDS are left for the one there is. They stop being added as soon as another brought no gain, since then the
link or the origin is the limit and more connections only take from others.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from stager.errors import OriginUnavailable, StageImageError
from stager.retry import RetryPolicy, retrying
from stager.store.segments import UNKNOWN_END
from stager.store.syncing import Syncing

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.clock import Clock
    from stager.interfaces import Source, Stream, Validators
    from stager.store.images import StagedImage
    from stager.store.partial import Partial
    from stager.store.segments import Segment
    from stager.transfer import Hook, ResolvedHook, RoomHook

T = TypeVar("T")

PAYS_BYTES = 1 << 30
PAYS_SECONDS = 20.0
SHARE_BYTES = 64 << 20
"""What another stream has left is shared with a stream that is done, down to here."""
JUDGE_SECONDS = 3.0
"""Between two decisions about another stream: TCP needs a moment to come up to speed."""
GAIN = 1.15
"""A stream that was added must have made the whole this much faster, or it was the last."""
LOOK_BYTES = 64 << 10
"""The headers of every image format lie in the first 64 KiB, but for a SIF's inner file system."""
ROOM_BYTES = 1 << 20
"""What room is asked for at a time where the origin does not say how much will come."""


@dataclass(slots=True)
class Download:
    """One image on its way: what is needed to fetch it and how it is going.

    `room` is called with the bytes that will come before the first of them, and every ROOM_BYTES where the origin does
    not say how many; it raises NoSpace. `look` sees the first bytes, to give up early on what is no image. `on_begin`
    is called when the copy has been made ready for the origin's version, `before_bytes` before each connection and each
    write; what it raises is tried again if it may be. `on_resolved` is not called here. `streams` limits the
    connections at a time. `on_wait` is told each error and the seconds until the next try. `pinned`: the digest is
    known, so that any bytes may be gone on with. `whence`: for people, where that is no matter of course. `image`, of
    `version`, is what was found to be here already, by whoever can tell.
    """

    source: Source
    partial: Partial
    policy: RetryPolicy
    clock: Clock
    room: RoomHook = field(default=lambda _size: None)
    on_wait: Callable[[StageImageError, float], None] | None = None
    look: Callable[[Partial], None] = lambda _partial: None
    on_begin: Callable[[], None] | None = None
    before_bytes: Hook = field(default=lambda: None)
    on_resolved: ResolvedHook = field(default=lambda _private: None)
    streams: int = 1
    image: StagedImage | None = None
    version: Validators | None = None
    pinned: bool = False
    whence: str = ""
    _furthest: int = 0
    _looked: bool = False
    _roomed: int = 0
    _extra: list[threading.Thread] = field(default_factory=list)
    _streams: list[Stream] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _first: Stream | None = None
    _cancelled: bool = False
    _rate: float = 0.0
    _judged: tuple[float, int] = (0.0, 0)

    @property
    def progress(self) -> tuple[int, int]:
        """Return bytes done and in all (0: unknown)."""
        return self.partial.held, self.partial.size or 0

    @property
    def phase(self) -> str:
        """As Transfer.phase."""
        return "pulling"

    def run(self, unless: Validators | None = None) -> bool:
        """Fetch until complete; False, with nothing fetched, if the origin still has the version `unless`.

        Raises what the source raises when retries are used up, NoSpace, OSError. What was fetched stays in the partial.
        """
        self._forget_what_cannot_go_on()
        if self.partial.complete and self._may_be_published():
            return True
        if self.partial.held and self.partial.size is not None:
            self.room(self.partial.size - self.partial.held)
        try:
            with Syncing(self.partial):
                return self._fetch(unless)
        finally:
            self._end_extra_streams()

    def cancel(self) -> None:
        """End `run`, in another thread, by OSError (ECANCELED): at once, or when its pause before a retry is over."""
        self._cancelled = True
        self._stop.set()
        for stream in (self._first, *self._streams):
            if stream is not None:
                stream.close()

    def hang_up(self) -> bool:
        """In `before_bytes`: end the connections, if there is one and another can go on where it ends; whether."""
        if self._first is None or not self._first.ranges or not (self.partial.validators or self.pinned):
            return False
        self._end_extra_streams()
        self._first.close()
        return True

    def _fetch(self, unless: Validators | None) -> bool:
        first = self._next_segment()
        if first is not None and not self._retry(lambda: self._open_and_fill(first, unless)):
            return False
        while (segment := self._next_segment()) is not None:
            self._retry(lambda segment=segment: self._open_and_fill(segment, None))  # type: ignore[misc]
        return True

    def _forget_what_cannot_go_on(self) -> None:
        # Without a validator nothing says that the rest is of the same version (RFC 9110, 13.1.5), but a pin will.
        resumable = self.partial.segments and (self.partial.validators or self.pinned)
        if not resumable:
            self.partial.begin(self.partial.validators, None, self.source.name, private=False)

    def _may_be_published(self) -> bool:
        # All bytes are there, only the publishing was cut off. A pin needs nobody's word; else the origin is asked.
        if self.pinned or self.is_current(self.partial.validators):
            return True
        self.partial.begin(self.partial.validators, None, self.source.name, private=False)
        return False

    def is_current(self, version: Validators) -> bool:
        """Ask whether the origin still has a version. Raises what the source raises when retries are used up."""
        stream = self._retry(lambda: self.source.open(unless=version))
        if stream is not None:
            stream.close()
        return stream is None

    def _open_and_fill(self, segment: Segment, unless: Validators | None) -> bool:
        self.before_bytes()
        self._check_cancelled()
        self._forget_what_cannot_go_on()
        segment = segment if segment in self.partial.segments else self.partial.segments[0]
        held = self.partial.held
        end = None if self._is_last(segment) else segment.end
        version = self.partial.validators if held else None
        stream = self.source.open(segment.position, end, if_range=version, unless=None if held else unless)
        if stream is None:
            return False
        self._first = stream
        try:
            self._check_cancelled()
            self._drain(stream, self._place(stream, segment), whole=end is None)
        finally:
            stream.close()
            self._first = None
        return True

    def _check_cancelled(self) -> None:
        if self._cancelled:
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))

    def _is_last(self, segment: Segment) -> bool:
        return segment.end >= (UNKNOWN_END if self.partial.size is None else self.partial.size)

    def _place(self, stream: Stream, segment: Segment) -> Segment:
        """Return the segment that the stream fills: all of it anew when the origin starts over."""
        same = segment.position > 0 or stream.validators == self.partial.validators
        if self.partial.held and stream.offset == segment.position and same:
            return segment
        if stream.offset != 0:
            raise OriginUnavailable(f"{self.source.name} sent bytes from {stream.offset}, not from {segment.position}")
        self._end_extra_streams()
        self.partial.begin(stream.validators, stream.size, self.source.name, private=stream.private)
        self._looked, self._roomed = False, ROOM_BYTES
        if self.on_begin is not None:
            self.on_begin()
        self.room(ROOM_BYTES if stream.size is None else stream.size)
        return self.partial.segments[0]

    def _drain(self, stream: Stream, segment: Segment, *, whole: bool) -> None:
        for chunk in stream.chunks():
            self.before_bytes()
            self._check_cancelled()
            kept = self.partial.write(segment, chunk)
            self._furthest = max(self._furthest, self.partial.held)
            if kept < len(chunk) or self._stop.is_set():
                return
            self._look_at_what_came()
            if self.streams > 1 and stream.ranges:
                self._consider_another_stream()
        if segment.end == UNKNOWN_END:
            # Asked for a part, an origin that has another version by now begins that, and still stops where the part
            # ended: then this is not where an image of unknown size ends.
            if whole:
                self.partial.finish()
        elif segment.missing:
            raise OriginUnavailable(f"{self.source.name} ended {segment.missing} bytes early")

    def _look_at_what_came(self) -> None:
        position = self.partial.position
        if not self._looked and position >= LOOK_BYTES:
            self._looked = True
            self.look(self.partial)
        if self.partial.size is None and position >= self._roomed:
            self._roomed = position + ROOM_BYTES
            self.room(ROOM_BYTES)

    def _next_segment(self) -> Segment | None:
        open_ends = [s for s in self.partial.segments if s.missing > 0]
        if not open_ends or all(not thread.is_alive() for thread in self._extra):
            return open_ends[0] if open_ends else None
        if self._largest().missing >= SHARE_BYTES:
            return self.partial.split(self._largest())
        for thread in self._extra:
            thread.join()
        return self._next_segment()

    def _largest(self) -> Segment:
        return max(self.partial.segments, key=lambda segment: segment.missing)

    def _consider_another_stream(self) -> None:
        now, held = self.clock.now(), self.partial.held
        since, before = self._judged
        if not since:
            self._judged = (now, held)
        elif now - since >= JUDGE_SECONDS:
            rate = (held - before) / (now - since)
            self._judged = (now, held)
            if self._pays(rate):
                self._rate = rate
                self._add_stream(self.partial.split(self._largest()))
            else:
                self.streams = 1

    def _pays(self, rate: float) -> bool:
        missing = sum(segment.missing for segment in self.partial.segments)
        enough = missing >= PAYS_BYTES and missing >= rate * PAYS_SECONDS
        return enough and rate >= self._rate * GAIN and len(self._extra) + 1 < self.streams

    def _add_stream(self, segment: Segment) -> None:
        def fill() -> None:
            # An origin that refuses a second connection (429, 503) is left alone: the first one gets there in the end.
            try:
                stream = self.source.open(segment.position, segment.end, if_range=self.partial.validators)
                if stream is not None and stream.offset == segment.position:
                    self._streams.append(stream)
                    self._drain_extra(stream, segment)
            except (StageImageError, OSError):
                return  # a full disk is met by the first stream as well, which can tell of it

        thread = threading.Thread(target=fill, name=f"range-{segment.start}", daemon=True)
        self._extra.append(thread)
        thread.start()

    def _drain_extra(self, stream: Stream, segment: Segment) -> None:
        try:
            for chunk in stream.chunks():
                if self.partial.write(segment, chunk) < len(chunk) or self._stop.is_set():
                    break
        finally:
            stream.close()

    def _end_extra_streams(self) -> None:
        if not self._extra:
            return
        self._stop.set()
        for stream in self._streams:
            stream.close()
        for thread in self._extra:
            thread.join()
        self._extra.clear()
        self._streams.clear()
        self._stop.clear()
        self.streams = 1

    def _retry(self, action: Callable[[], T]) -> T:
        return retrying(
            action, policy=self.policy, clock=self.clock, progressed=lambda: self._furthest, on_wait=self.on_wait
        )
