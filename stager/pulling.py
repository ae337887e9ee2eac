"""The layers of one image on their way into the cache of blobs, several at a time, each read while it arrives."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stager.errors import DigestMismatch, OriginUnavailable, StageImageError
from stager.retry import retrying
from stager.store.blob_reading import Restarted
from stager.store.blobs import Blob
from stager.store.syncing import Syncing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from stager.clock import Clock
    from stager.interfaces import Stream
    from stager.oci import ContainerOrigin, Descriptor
    from stager.reference import Digest
    from stager.retry import RetryPolicy
    from stager.store.blob_hold import Hold
    from stager.store.blob_partial import BlobPartial
    from stager.store.blob_reading import Growing
    from stager.store.blobs import Blobs

PIECE = 1 << 20
LOOK_SECONDS = 0.1
"""Between two looks at a blob that another process fetches, and at what our own threads do."""

AGAIN_SECONDS = 2.0
"""Between two lines that say the same: several layers wait for one registry."""

READERS = min(4, len(os.sched_getaffinity(0)))
"""Layers that are read at a time. Decompression lets go of the interpreter's lock, and uses a whole core."""

MISMATCHES = 2
"""So often a blob may come wrong before its origin is not believed any more, unless it began as a dead process's."""


@dataclass(slots=True)
class Pulling:
    """Bring `layers` from `origin` into `blobs`, at most `streams` at a time.

    `read` is called for each layer, in a thread, with what opens it as it arrives, and makes of it what is wanted.
    `patience`: seconds without a byte after which a process that fetches the same blob is passed over.
    """

    origin: ContainerOrigin
    blobs: Blobs
    layers: Sequence[Descriptor]
    read: Callable[[Descriptor, Growing], object]
    policy: RetryPolicy
    clock: Clock
    streams: int
    patience: float
    on_wait: Callable[[StageImageError, float], None] | None = None
    _holds: dict[str, Hold] = field(default_factory=dict)
    _arriving: dict[str, BlobPartial] = field(default_factory=dict)
    _streams: dict[str, Stream] = field(default_factory=dict)
    _cached: set[str] = field(default_factory=set)
    _told: dict[str, float] = field(default_factory=dict)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def progress(self) -> tuple[int, int]:
        """Return bytes that are here, and in all."""
        arriving = dict(self._arriving)
        here = [self._held(layer, arriving) for layer in self._distinct]
        return sum(here), sum(layer.size for layer in self._distinct)

    @property
    def layers_here(self) -> tuple[int, int]:
        """Return how many layers are whole, and how many there are."""
        return len(self._holds), len(self._distinct)

    @property
    def missing(self) -> int:
        """Bytes that have to be fetched, as far as is known now."""
        done, total = self.progress
        return total - done

    def hold_what_is_here(self) -> None:
        """Keep the layers that are in the cache already from eviction."""
        for layer in self._distinct:
            hold = self.blobs.hold(layer.digest, layer.size)
            if hold is not None:
                self._holds[layer.digest.hex] = hold
                self._cached.add(layer.digest.hex)

    def run(self) -> list[object]:
        """Return what `read` made of each layer. Raises StageImageError, OSError; what came stays in the cache."""
        made: dict[str, Future[object]] = {}
        with ThreadPoolExecutor(self.streams, "layer") as pullers, ThreadPoolExecutor(READERS, "reader") as readers:

            def bring(layer: Descriptor) -> object:
                return self._bring(layer, lambda follow: _put(made, layer, readers.submit(self._read, layer, follow)))

            try:
                self._await([pullers.submit(bring, layer) for layer in self._distinct], made)
            except BaseException:
                pullers.shutdown(wait=False, cancel_futures=True)
                self.cancel()
                raise
        return [made[layer.digest.hex].result() for layer in self.layers]

    def open(self, index: int) -> BinaryIO:
        """Return a file of a layer that is here, by its number."""
        return self._holds[self.layers[index].digest.hex].open()

    def cancel(self) -> None:
        """End `run`, in another thread, by OSError (ECANCELED)."""
        self._cancelled.set()
        for stream in list(self._streams.values()):
            stream.close()
        for partial in list(self._arriving.values()):
            partial.fail(cancellation())

    def close(self) -> None:
        """Let go of the layers."""
        for hold in self._holds.values():
            hold.close()
        self._holds.clear()

    @property
    def _distinct(self) -> list[Descriptor]:
        return list({layer.digest.hex: layer for layer in self.layers}.values())

    def _held(self, layer: Descriptor, arriving: dict[str, BlobPartial]) -> int:
        if layer.digest.hex in self._holds:
            return layer.size
        partial = arriving.get(layer.digest.hex)
        # Of what another process fetches, too: whoever waits for that moves with it.
        return partial.held if partial is not None else min(layer.size, self.blobs.arrived(layer.digest))

    def _await(self, pulled: list[Future[object]], made: dict[str, Future[object]]) -> None:
        """Wait for all, and raise the first thing that goes wrong in any of them."""
        while True:
            futures = [*pulled, *made.copy().values()]
            done, left = wait(futures, LOOK_SECONDS, FIRST_EXCEPTION)
            self._check()
            for future in done:
                future.result()
            if not left and len(made) == len(pulled):
                return

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise cancellation()

    def _tell(self, error: StageImageError, seconds: float) -> None:
        # What hanging up did to a stream is no news of the origin's, and nothing is tried again.
        now = self.clock.now()
        again = now - self._told.get(error.message, -AGAIN_SECONDS) < AGAIN_SECONDS
        if self.on_wait is not None and not again and not self._cancelled.is_set():
            self._told[error.message] = now
            self.on_wait(error, seconds)

    def _bring(self, layer: Descriptor, read: Callable[[Callable[[], Growing]], object]) -> object:
        self._check()
        partial = self._claimed(layer) if layer.digest.hex not in self._holds else None
        if partial is None:
            return read(self._holds[layer.digest.hex].follow)
        with partial:
            self._arriving[layer.digest.hex] = partial
            reading = read(partial.follow)
            try:
                self._holds[layer.digest.hex] = self._filled(layer, partial)
            except BaseException as error:
                partial.fail(error)
                raise
            return reading

    def _claimed(self, layer: Descriptor) -> BlobPartial | None:
        """Return the copy in flight that is ours to fill; None once the blob is here, by somebody else's doing."""
        there, until = -1, 0.0
        while True:
            if (arrived := self.blobs.arrived(layer.digest)) != there:
                there, until = arrived, self.clock.now() + self.patience
            hold = self.blobs.hold(layer.digest, layer.size)
            if hold is not None:
                self._holds[layer.digest.hex] = hold
                return None
            partial = self.blobs.claim(layer.digest, layer.size, aside=self.clock.now() > until)
            if partial is not None:
                return partial
            self._check()
            self.clock.sleep(LOOK_SECONDS)

    def _filled(self, layer: Descriptor, partial: BlobPartial) -> Hold:
        wrong = 0
        while True:
            resumed = partial.resumed
            try:
                with Syncing(partial):
                    retrying(
                        lambda: self._fill(layer, partial),
                        policy=self.policy,
                        clock=Restless(self.clock, self._check),
                        progressed=lambda: partial.held,
                        on_wait=self._tell,
                    )
                return partial.commit()
            except DigestMismatch as error:
                wrong += not resumed
                if wrong == MISMATCHES:
                    raise _disbelieved(self.origin.name, error) from None
                partial.restart()

    def _fill(self, layer: Descriptor, partial: BlobPartial) -> None:
        self._check()
        if partial.complete:
            return
        stream = self.origin.blob(layer, partial.held)
        self._streams[layer.digest.hex] = stream
        try:
            if stream.offset != partial.held:
                partial.restart()
            self._check()
            for chunk in stream.chunks():
                partial.append(chunk)
                self._check()
        finally:
            stream.close()
        if not partial.complete:
            raise OriginUnavailable(f"{self.origin.name} ended {layer.size - partial.held} bytes of a layer early")

    def _read(self, layer: Descriptor, follow: Callable[[], Growing]) -> object:
        while True:
            try:
                with follow() as file:
                    return self._made_of(layer, file)
            except Restarted:
                self._check()
            except StageImageError:
                if not self._is_rotten(layer):
                    raise
                follow = self._brought_again(layer).follow

    def _made_of(self, layer: Descriptor, file: Growing) -> object:
        try:
            return self.read(layer, file)
        except StageImageError:
            # What is wrong with a layer counts once its bytes are the right ones: else they are begun anew before the
            # end, which raises Restarted, or the origin's error.
            while file.read(PIECE):
                self._check()
            raise

    def _is_rotten(self, layer: Descriptor) -> bool:
        """Whether a layer that was in the cache is not what it was; then it is there no longer."""
        hold = self._holds.pop(layer.digest.hex, None) if layer.digest.hex in self._cached else None
        self._cached.discard(layer.digest.hex)
        if hold is None:
            return False
        hold.close()
        return bool(self.blobs.verify(Blob(layer.digest, layer.size, 0.0)))

    def _brought_again(self, layer: Descriptor) -> Hold:
        partial = self._claimed(layer)
        if partial is not None:
            with partial:
                self._arriving[layer.digest.hex] = partial
                self._holds[layer.digest.hex] = self._filled(layer, partial)
        return self._holds[layer.digest.hex]


class Restless:
    """A clock whose sleep ends soon once it is no use any more: a pause may be as long as a registry asks for."""

    def __init__(self, clock: Clock, check: Callable[[], None]) -> None:
        self._clock, self._check = clock, check
        self.now, self.wall = clock.now, clock.wall

    def sleep(self, seconds: float) -> None:
        """As Clock.sleep; raises what `check` raises."""
        until = self._clock.now() + seconds
        while (left := until - self._clock.now()) > 0:
            self._check()
            self._clock.sleep(min(left, LOOK_SECONDS))


def _put(made: dict[str, Future[object]], layer: Descriptor, future: Future[object]) -> None:
    made[layer.digest.hex] = future


def cancellation() -> OSError:
    """Return what ends work that was given up."""
    return OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


def _disbelieved(name: str, error: DigestMismatch) -> DigestMismatch:
    hint = "the registry, or a mirror or proxy on the way, is broken or lies: tell its administrator"
    return DigestMismatch(f"{name} sent wrong bytes {MISMATCHES} times: {error.message}", hint=hint)


def blob_bytes(origin: ContainerOrigin, blob: Descriptor, most: int) -> bytes:
    """Return a small blob's bytes, verified. Raises DigestMismatch, and what the origin raises."""
    from hashlib import sha256

    found = bytearray()
    stream = origin.blob(blob)
    try:
        for chunk in stream.chunks():
            found += chunk
            if len(found) > min(most, blob.size):
                break
    finally:
        stream.close()
    if len(found) > most or sha256(found).hexdigest() != blob.digest.hex:
        raise DigestMismatch(f"{origin.name} sent something else than the blob {_short(blob.digest)}")
    return bytes(found)


def _short(digest: Digest) -> str:
    return f"{digest}"[:19]
