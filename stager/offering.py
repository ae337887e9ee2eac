"""What one node offers to the others of a staging: a file, as far as its bytes are verified or vouched for."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager import versions
from stager.errors import ClusterUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.interfaces import Hashing, Holding, Message, Peers
    from stager.store.images import StagedImage
    from stager.store.partial import Partial


@dataclass(slots=True)
class Offering:
    """One file at a time, as one generation of the staging's image.

    `sealed`: strangers cannot read the staging's secret, so that private images may be offered.
    """

    peers: Peers
    sealed: bool
    holding: Holding | None = None
    generation: int = 1
    _hashing: Hashing | None = None
    _version: Message | None = None

    @property
    def verified(self) -> int:
        """Bytes from the start on that others may have."""
        return self.holding.verified if self.holding else 0

    @property
    def whole(self) -> bool:
        """Whether others may have all of it."""
        return self.holding is not None and self.holding.complete

    @property
    def error(self) -> OSError | None:
        """What this node's own disk said while bytes were read to vouch for them."""
        return self._hashing.error if self._hashing is not None else None

    def root(self) -> str | None:
        """Return what binds all bytes, when others may have all of them."""
        return self.holding.root() if self.holding is not None and self.holding.complete else None

    def offer(self, copy: Partial, generation: int) -> Holding:
        """Offer a copy's file from now on. Raises ClusterUnavailable for a private one, OSError."""
        self.check(private=copy.private)
        self.stop_vouching()
        self.generation, self._version = generation, versions.of_copy(copy)
        self.holding = self.peers.hold(copy.fileno(), copy.folder, generation, size=copy.size, own=copy.position)
        return self.holding

    def offer_anew(self, copy: Partial) -> None:
        """Offer a copy that was begun anew: as the next generation, unless nobody can have had other bytes of it."""
        # Without validators nobody knows whether the others hold bytes of the same image.
        same = bool(copy.validators) and versions.of_copy(copy) == self._version
        unheard = bool(copy.validators) and self.verified == 0
        fresh = self.holding is None or same or unheard
        self.offer(copy, self.generation if fresh else self.generation + 1)

    def offer_image(self, image: StagedImage, folder: str, generation: int) -> None:
        """Offer a staged image, and vouch for it. Raises ClusterUnavailable for a private one."""
        self.check(private=image.private)
        with suppress(OSError), open(image.path, "rb") as file:
            self.stop_vouching()
            self.generation = generation
            self.holding = self.peers.hold(file.fileno(), folder, generation, size=image.size, own=0)
            self.vouch(lambda: image.size)
            self.finish()

    def check(self, *, private: bool) -> None:
        """Raise ClusterUnavailable if it must not be offered."""
        if private and not self.sealed:
            error = ClusterUnavailable(
                "the image is private, and without cluster.credentials_file others could read it from the relay",
                hint="set cluster.credentials_file, or stage with STAGE_IMAGE_SCOPE=node",
            )
            error.retryable = False
            raise error

    def vouch(self, position: Callable[[], int]) -> None:
        """Vouch for the file's bytes up to `position`, as they come: they are from the origin."""
        self.stop_vouching()
        if self.holding is not None:
            self._hashing = self.peers.hash(self.holding, position)

    def finish(self) -> None:
        """All the bytes that are vouched for are there."""
        if self._hashing is not None:
            self._hashing.finish()

    def stop_vouching(self) -> None:
        """Vouch for no more bytes. Two at one list of records would make a wrong root."""
        if self._hashing is not None:
            self._hashing.stop()
            self._hashing = None
