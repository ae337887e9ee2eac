"""What a leader does: go on where somebody stopped, download, verify, publish, remember, pin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager import versions
from stager.errors import DamagedImage, DigestMismatch, LeaderLost, NotAnImage, OriginUnavailable, PinLost
from stager.interfaces import Validators
from stager.retry import RetryPolicy
from stager.store import copies, images, repair
from stager.store.partial import Partial
from stager.store.room import show_bytes
from stager.store.trouble import FULL

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.interfaces import ImageInfo, Teller
    from stager.known import Known
    from stager.leading import Leadership
    from stager.reference import Digest
    from stager.store.images import StagedImage
    from stager.store.memory import Seen
    from stager.together import Fetching
    from stager.transfer import Transfer

BRIEF_SECONDS = 10.0
BRIEF_ATTEMPTS = 2
"""How long to ask an origin that does not answer whether an image is current that is here already."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """One leader's work.

    `download` makes a download into a partial copy; `offline`: a known image will do if the origin cannot be asked.
    """

    known: Known
    download: Callable[[Partial], Fetching | Transfer]
    recognise: Callable[[int, int], ImageInfo]
    tell: Teller
    offline: bool
    trace: Callable[[str], None]

    def run(self, leadership: Leadership) -> StagedImage:
        """Return the image, published and pinned. Raises StageImageError, OSError."""
        seen = self.known.seen()
        held = self.held(seen)
        if held is not None and held.digest == self.known.expected():
            return held
        if held is None and seen is not None:
            held = self._mended(seen.digest)  # no use to a job pinned to another, but not to be downloaded again either
        root = self.known.layout.partials(self.known.key)
        copy = copies.adopt(root) or Partial(copies.own_folder(root))
        try:
            if copy.held == 0:
                copies.borrow(root, copy)
            leadership.phase = "pulling"
            return self._settle(self._fetch(copy, leadership, seen if held else None, held))
        except (NotAnImage, DamagedImage, DigestMismatch):
            copy.discard()
            raise
        except OSError as error:
            if error.errno in FULL and copy.size is None:
                copy.discard()  # nobody knows how much more would have come, and the disk is full of it
            raise
        finally:
            copy.leave()

    def held(self, seen: Seen | None) -> StagedImage | None:
        """Return the image the job is pinned to, or else what the reference meant last time; mended where needed."""
        digest = self.known.expected() or (seen.digest if seen else None)
        return self._mended(digest) if digest else None

    def _mended(self, digest: Digest) -> StagedImage | None:
        image = self.known.lookup(digest)
        if image is None and images.image_files(self.known.layout, digest):
            image, found = repair.verify(self.known.layout, digest, self.recognise)
            self.tell.say(f"image {digest.hex[:12]} was not as published: {found}")
        return image

    def _fetch(self, copy: Partial, leadership: Leadership, seen: Seen | None, held: StagedImage | None) -> StagedImage:
        asked = self.known.clock.now()
        download = self.download(copy)
        leadership.measure, leadership.activity = lambda: download.progress, lambda: download.phase
        current = self._current(download, seen, held)
        leadership.activity = None
        if current is not None:
            copy.leave()
            return current
        leadership.phase = "verifying"
        image, version = self._publish(copy)
        seconds = self.known.clock.now() - asked
        rate = f", {show_bytes(image.size / seconds)}/s" if seconds > 0 else ""
        whence = f", {download.whence}" if download.whence else ""
        self.tell.say(f"staged {self.known.reference.name}: {show_bytes(image.size)} in {seconds:.1f} s{rate}{whence}")
        self.known.remember(image.digest, version, asked)
        copy.discard()  # not before: a published image that no reference is known to mean would be downloaded again
        return image

    def _current(
        self, download: Fetching | Transfer, seen: Seen | None, held: StagedImage | None
    ) -> StagedImage | None:
        """Return the image that is here and current, as far as anybody can say; None: another is in the copy now."""
        asked = self.known.clock.now()
        version = Validators(seen.etag, seen.modified, seen.size) if seen else None
        fallback = held is not None and self.offline
        if fallback:
            download.policy = RetryPolicy(attempts=BRIEF_ATTEMPTS, deadline=BRIEF_SECONDS)
        try:
            changed = download.run(unless=version)
            held, version = download.image or held, download.version or version
        except OriginUnavailable as error:
            if not fallback:
                raise
            self.tell.say(f"{error.message}; using the image known from before")
            # Those who came meanwhile shall not find out for themselves, one after the other, that nobody answers.
            changed, asked = False, self.known.clock.now()
        if not changed and held is not None and version is not None:
            self.known.remember(held.digest, version, asked)
        return None if changed else held

    def _publish(self, copy: Partial) -> tuple[StagedImage, Validators]:
        self.trace("fetched")
        digest = copy.digest()
        pin = self.known.reference.digest
        if pin is not None and digest != pin:
            copy.discard()
            raise DigestMismatch(f"{copy.origin} sent {digest}, but the reference's pin is {pin}")
        if self.known.reference.is_by_digest:
            versions.compare(copy, digest)
        info = self.recognise(copy.fileno(), copy.size or 0)
        self.trace("verified")
        copy.promise(digest)
        copy.sync()
        self.trace("synced")
        image = images.publish(
            self.known.layout, copy.path, digest, info, origin=self.known.reference.shown, private=copy.private
        )
        self.trace("published")
        return image, copy.validators

    def _settle(self, image: StagedImage) -> StagedImage:
        """Return the image the job is pinned to: this one, unless another came first. Raises PinLost."""
        digest = self.known.expected()
        if digest is None or digest == image.digest:
            pinned = self.known.pinned(image)
            if pinned is not None:
                return pinned
            digest = self.known.expected()
        other = self.known.lookup(digest) if digest else None
        if other is not None:
            return other
        if digest is None:
            raise LeaderLost("the pin of this job vanished while it was being written")
        raise PinLost(f"{self.known.scope} is pinned to {digest}, which is gone, and the origin has {image.digest} now")
