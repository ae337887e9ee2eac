"""From the layers of a container image to one squashfs: what stands for a Download where an image has to be made.

    which manifest? ──▶ made before? ──▶ layers into the cache, each read while it arrives ──▶ one squashfs ──▶ the copy

What comes of the same layers with the same parameters is remembered, on this node and in the cluster, so that another
name of the same image, or the next job, finds it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol, TypeVar

from stager.errors import NotAnImage, NotFound
from stager.interfaces import Validators
from stager.oci import CONFIG_MAX, CONFIGS, ContainerConfig, Platform, read_config
from stager.pulling import Pulling, Restless, blob_bytes, cancellation
from stager.retry import RetryPolicy, retrying

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from stager.clock import Clock
    from stager.errors import StageImageError
    from stager.oci import ContainerOrigin, Descriptor, Manifest
    from stager.reference import Digest
    from stager.store.blob_reading import Growing
    from stager.store.blobs import Blobs
    from stager.store.images import StagedImage
    from stager.store.partial import Partial
    from stager.transfer import Hook, ResolvedHook, RoomHook


T = TypeVar("T")


class Converter(Protocol):
    """Makes one file system of layers."""

    @property
    def parameters(self) -> str:
        """All that the bytes depend on besides the layers, in a line."""

    def index(self, layer: Descriptor, file: Growing, diff_id: str) -> object:
        """Return what is in a layer, read once from its start. Raises DamagedImage, ImageRefused, NotAnImage."""

    def write(
        self,
        indexes: Sequence[object],
        open_layer: Callable[[int], BinaryIO],
        dest: str,
        *,
        config: ContainerConfig,
        progress: Callable[[int, int], None],
        check: Callable[[], None],
    ) -> None:
        """Write the image to `dest`; `check` raises to end that. Raises StageImageError, OSError."""


class Memory(Protocol):
    """What came of conversions, by their names: 64 hex digits."""

    def recall(self, name: str) -> StagedImage | None:
        """Return what came of one, if it is still staged where this node sees it."""

    def remember(self, name: str, digest: Digest, manifest: Manifest) -> None:
        """Keep what came of one, and of which manifest. Failing to do so is no failure."""

    def pinned(self) -> Digest | None:
        """Return what the reference meant, an index or a manifest, when the job was pinned; None if nobody knows."""


@dataclass(slots=True)
class Assembly:
    """One image on its way; see the module, and Transfer for what is not told here.

    `platform`: what the image has to run on, if it says that itself. `at` gives the origin of exactly one index or
    manifest: a job whose tag has moved meanwhile still gets its image, as registries keep what a tag has meant.
    `streams` limits the connections at a time, `patience` is the seconds for which another process may hold a layer
    without a byte. `allow_unsafe`: convert on a network file system, too.
    """

    origin: ContainerOrigin
    at: Callable[[Digest], ContainerOrigin]
    partial: Partial
    policy: RetryPolicy
    clock: Clock
    blobs: Blobs
    converter: Converter
    memory: Memory
    platform: Platform
    streams: int = 4
    patience: float = 420.0
    allow_unsafe: bool = False
    room: RoomHook = field(default=lambda _size: None)
    on_wait: Callable[[StageImageError, float], None] | None = None
    on_begin: Callable[[], None] | None = None
    before_bytes: Hook = field(default=lambda: None)
    on_resolved: ResolvedHook = field(default=lambda _private: None)
    trace: Callable[[str], None] = field(default=lambda _point: None)
    image: StagedImage | None = None
    version: Validators | None = None
    whence: str = ""
    _phase: str = "resolving"
    _pulling: Pulling | None = None
    _fed: tuple[int, int] = (0, 0)
    _made: str = ""
    _taking: bool = False
    _cancelled: bool = False

    @property
    def phase(self) -> str:
        """As Transfer.phase; with how many of the layers are here, while they come: `pulling 3/8 layers of`."""
        if self._phase != "pulling" or self._pulling is None:
            return self._phase
        here, total = self._pulling.layers_here
        return f"pulling {here}/{total} layers of"

    @property
    def progress(self) -> tuple[int, int]:
        """As Transfer.progress."""
        if self._phase == "converting":
            return self._converted
        return self._pulling.progress if self._pulling is not None else (0, 0)

    def run(self, unless: Validators | None = None) -> bool:
        """As Transfer.run; also raises ConverterMissing, ImageRefused."""
        pinned = self.memory.pinned()
        if pinned is not None:
            manifest = self._of_the_past(pinned, unless)
        else:
            manifest = self._retry(lambda: self.origin.manifest(unless.etag if unless is not None else ""))
        top = str(manifest.top) if manifest is not None else unless.etag if unless is not None else ""
        made = self.partial.complete and self.partial.validators.etag == top
        if manifest is None:
            return made  # then all of it is made, and only the publishing was cut off
        # With the platform: what is known was checked for the one that was wanted then, see _config.
        name = sha256(f"{manifest.digest}\n{self.converter.parameters}\n{self.platform}".encode()).hexdigest()
        if made:
            self.memory.remember(name, self.partial.digest(), manifest)
            return True
        if self._is_here(name, manifest):
            return False
        self.on_resolved(self.origin.private)
        self._check()
        self._make(manifest)
        if self.on_begin is not None:
            self.on_begin()
            self._check()
        self.memory.remember(name, self.partial.digest(), manifest)
        return True

    def _of_the_past(self, pinned: Digest, unless: Validators | None) -> Manifest | None:
        """Return what the tag meant when the job was pinned, or, if that is there no longer, what it means now."""
        known, now = unless.etag if unless is not None else "", self.origin
        self.origin = self.at(pinned)
        try:
            return self._retry(lambda: self.origin.manifest(known))
        except NotFound:
            self.origin = now
            return self._retry(lambda: self.origin.manifest(known))

    def is_current(self, version: Validators) -> bool:
        """As Transfer.is_current."""
        return self._retry(lambda: self.origin.manifest(version.etag)) is None

    def cancel(self) -> None:
        """As Transfer.cancel."""
        self._cancelled = True
        if self._pulling is not None:
            self._pulling.cancel()

    def hang_up(self) -> bool:
        """As Transfer.hang_up; layers go on into the cache whoever leads."""
        return False

    def _is_here(self, name: str, manifest: Manifest) -> bool:
        self.image = self.memory.recall(name)
        if self.image is None:
            return False
        self.version = Validators(str(manifest.top), size=self.image.size)
        self.memory.remember(name, self.image.digest, manifest)
        self.whence = "converted before"
        return True

    def _make(self, manifest: Manifest) -> None:
        config = self._config(manifest)
        by_layer = dict(zip(manifest.layers, config.diff_ids, strict=False))
        pulling = Pulling(
            origin=self.origin,
            blobs=self.blobs,
            layers=manifest.layers,
            read=lambda layer, file: self.converter.index(layer, file, by_layer.get(layer, "")),
            policy=self.policy,
            clock=self.clock,
            streams=self.streams,
            patience=self.patience,
            on_wait=self.on_wait,
        )
        self._pulling, self._phase = pulling, "pulling"
        self._check()  # behind that: whoever cancels ends the pulling that there is, or is seen here
        try:
            pulling.hold_what_is_here()
            # The result is hardly larger than the layers: both are compressed, and what upper layers cover is left out.
            self.room(pulling.missing + manifest.size)
            indexes = pulling.run()
            self.trace("pulled")
            self._convert(indexes, pulling, config, manifest)
        finally:
            pulling.close()

    def _convert(self, indexes: list[object], pulling: Pulling, config: ContainerConfig, manifest: Manifest) -> None:
        self._check()
        self._phase = "converting"

        def feed(done: int, total: int) -> None:
            self._fed = (done, total)

        with self.blobs.work_folder(allow_unsafe=self.allow_unsafe) as folder:
            self._made = made = f"{folder}/image"
            self.converter.write(indexes, pulling.open, made, config=config, progress=feed, check=self._check)
            self.trace("converted")
            self._check()
            version = Validators(str(manifest.top))
            self._taking = True
            self.partial.take(made, version, self.origin.name, private=self.origin.private, check=self._check)
            self._taking = False

    @property
    def _converted(self) -> tuple[int, int]:
        """Return bytes read and written, and in all.

        What has been read may be in memory: xz took 8 s for the last 28 MiB, at which nobody should lose patience.
        """
        (fed, total), made = self._fed, 0
        with suppress(OSError):
            made = os.stat(self._made).st_size
        taken = (self.partial.held, made) if self._taking else (0, 0)
        return fed + made + taken[0], total + (made * total // fed if fed else made) + taken[1]

    def _config(self, manifest: Manifest) -> ContainerConfig:
        if manifest.config.media_type and manifest.config.media_type not in CONFIGS:
            raise NotAnImage(f"{self.origin.name} has an artifact of the type {manifest.config.media_type[:80]!a}")
        config = read_config(self._retry(lambda: blob_bytes(self.origin, manifest.config, CONFIG_MAX)))
        said = config.platform.split("/", 2)
        if len(said) > 1 and not Platform(*said).serves(self.platform):
            there = ascii(config.platform[:80])[1:-1]
            hint = f"to stage it all the same, say --platform={there}"
            raise NotFound(f"the image is one for {there}, and {self.platform} is wanted", hint=hint)
        if config.diff_ids and len(config.diff_ids) != len(manifest.layers):
            raise NotAnImage(
                f"the image has {len(manifest.layers)} layers, and its configuration knows {len(config.diff_ids)}"
            )
        return config

    def _check(self) -> None:
        if self._cancelled:
            raise cancellation()

    def _retry(self, action: Callable[[], T]) -> T:
        def act() -> T:
            self._check()
            return action()

        return retrying(act, policy=self.policy, clock=Restless(self.clock, self._check), on_wait=self.on_wait)
