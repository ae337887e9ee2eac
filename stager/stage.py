"""The story: known? else lead or follow; fetch, verify, publish, pin; lease."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager import lease
from stager.errors import DigestMismatch, LeaderLost, NoSpace, OriginUnavailable, StageImageError, StoreUnusable
from stager.leading import Leadership, claimed
from stager.store import files, images, memory, partial, repair, room
from stager.waiting import Follower

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stager.clock import Clock
    from stager.download import Download
    from stager.interfaces import Election, ImageInfo, Teller, Validators
    from stager.layout import Layout
    from stager.lease import Lease
    from stager.reference import Digest, Reference
    from stager.store.images import StagedImage
    from stager.store.memory import Seen
    from stager.store.partial import Partial


@dataclass(frozen=True, slots=True)
class Policy:
    """How to stage; times in seconds.

    `freshness`: always | job | never. `offline`: whether a known image may be used when its origin cannot be asked.
    `patience`: without a byte before a follower passes over its leader. `failure_backoff`: for which a failure stands.
    `retry`: do not believe failures from before this call.
    """

    freshness: str = "job"
    offline: bool = True
    patience: float = 420.0
    failure_backoff: float = 10.0
    retry: bool = False


@dataclass(frozen=True, slots=True)
class Staging:
    """One task's wish for one image, with all that is needed to fulfil it.

    The lease's scope is the job, or the login session when `session` is set. `download` makes a download into a partial
    copy. `tiers` are stores of root's which we only read. `before_release` is what a leader does while the others still
    wait for it. `trace` is called at named points, where tests let processes die.
    """

    layout: Layout
    reference: Reference
    lease: Lease
    session: bool
    policy: Policy
    clock: Clock
    election: Election
    download: Callable[[Partial], Download]
    recognise: Callable[[int, int], ImageInfo]
    tell: Teller
    tiers: tuple[Layout, ...] = ()
    before_release: Callable[[StagedImage], None] = lambda _image: None
    trace: Callable[[str], None] = lambda _point: None

    def run(self) -> StagedImage:
        """Return the image: published, verified and leased. Raises StageImageError."""
        begun = self.clock.now()
        with _storage_errors(self.layout):
            while True:
                image = self._obtain_or_recall(begun)
                self._take_lease(image)
                # Looked up again: whoever evicts looks at leases last, so one of the two sees the other.
                if self._lookup(image.digest) is not None:
                    return image

    def _lookup(self, digest: Digest) -> StagedImage | None:
        found = (images.lookup(layout, digest) for layout in (self.layout, *self.tiers))
        return next((image for image in found if image is not None), None)

    def _take_lease(self, image: StagedImage) -> None:
        # A hit in a read-only store (an image baked into a node's root, a snapshot) is still a hit.
        try:
            lease.acquire(image.leases, self.lease)
            self.trace("leased")
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            self.tell.say(f"no lease can be written to {image.leases}: nothing protects the image from eviction")

    def _obtain_or_recall(self, begun: float) -> StagedImage:
        # A store that cannot be written (in a node's root image, a snapshot) has no locks and learns nothing new: what
        # it holds is what there is.
        try:
            return self._obtain(begun)
        except OSError as error:
            image = self._held(self._seen()) if error.errno == errno.EROFS else None
            if image is None:
                raise
            self.tell.say(
                f"the store {self.layout.root} is read-only; using the image it holds, unasked whether newest"
            )
            return image

    def _obtain(self, begun: float) -> StagedImage:
        follower = Follower(self.layout.leader(self._key), self.clock, self.tell, self.policy.patience)
        while True:
            if (image := follower.follow(lambda: self._settled(begun))) is not None:
                return image
            turn = self._turn(follower)
            with claimed(self.layout.leader(self._key), self.clock, turn) as ours:
                if ours and (image := self._contend(turn, begun)) is not None:
                    return image
            # The lock is held, but its holder's note is not there yet, or ours has just covered it.
            self.clock.sleep(0.05)

    def _contend(self, turn: int, begun: float) -> StagedImage | None:
        """Try to lead, and do the work if we do; None if somebody else holds the lock."""
        with self.election.lead(self._key if turn == 0 else f"{self._key}.{turn}") as leads:
            return (self._settled(begun) or self._lead(turn)) if leads else None

    @property
    def _key(self) -> str:
        return self.reference.key

    def _turn(self, follower: Follower) -> int:
        note = memory.read_leader(self.layout.leader(self._key))
        if note is None or not note.holder.alive:
            return note.turn if note else 0
        if not follower.stalled(note):
            return note.turn
        self.tell.say(f"the leader, pid {note.holder.pid}, has stopped moving; taking over from it")
        return note.turn + 1

    def _settled(self, begun: float) -> StagedImage | None:
        """Return the image if it is there, raise the failure that stands, or return None."""
        image = self._known(begun)
        if image is None:
            since = begun if self.policy.retry else 0.0
            failure = memory.read_failure(self.layout.failure(self._key), self.clock.now(), begun=begun, since=since)
            if failure is not None:
                raise failure
        return image

    def _known(self, begun: float) -> StagedImage | None:
        """Return the image if the pin, or what was seen of the reference, says which it is and it is there."""
        digest = self._expected()
        if digest is not None:
            return self._lookup(digest)
        seen = self._seen()
        if seen is None or not (self.policy.freshness == "never" or seen.since(begun)):
            return None
        image = self._lookup(seen.digest)
        return self._pinned(image) if image else None

    def _seen(self) -> Seen | None:
        records = (memory.read_seen(layout.reference_record(self._key)) for layout in (self.layout, *self.tiers))
        return next((seen for seen in records if seen is not None), None)

    def _expected(self) -> Digest | None:
        if self.reference.digest is not None:
            return self.reference.digest
        if self.policy.freshness == "always":
            return None
        return memory.read_pin(self.layout.pin(self.lease.scope, self._key), self.clock.now())

    def _pinned(self, image: StagedImage) -> StagedImage | None:
        """Pin the job to the image; None if it is already pinned to another one."""
        if self.reference.digest is not None or self.policy.freshness == "always":
            return image
        now = self.clock.now()
        until = now + memory.SESSION_PIN if self.session else None
        path = self.layout.pin(self.lease.scope, self._key)
        digest = memory.write_pin(path, image.digest, until=until, now=now)
        self.trace("pinned")
        return image if digest == image.digest else None

    def _lead(self, turn: int) -> StagedImage:
        self.trace("locked")
        with Leadership(self.layout.leader(self._key), self.clock, turn, self.tell) as leadership:
            try:
                with _storage_errors(self.layout):
                    image = self._fetch(leadership)
            except StageImageError as error:
                raise self._failed(error) from error
            files.discard(self.layout.failure(self._key))
            leadership.phase = "mounting"
            self.before_release(image)
        return image

    def _failed(self, error: StageImageError) -> StageImageError:
        """Record a failure for the followers; return it in the very words they will read."""
        path = self.layout.failure(self._key)
        try:
            memory.write_failure(path, error, self.clock, self.policy.failure_backoff)
        except OSError:
            return error  # a store that cannot be written is often the failure itself
        return memory.read_failure(path, self.clock.now(), begun=0.0) or error

    def _fetch(self, leadership: Leadership) -> StagedImage:
        seen = self._seen()
        held = self._held(seen)
        if held is not None and held.digest == self._expected():
            return held
        root = self.layout.partials(self._key)
        copy = partial.adopt(root) or partial.Partial(partial.own_folder(root))
        try:
            if copy.held == 0:
                partial.borrow(root, copy)
            return self._fetch_into(copy, leadership, seen if held else None, held)
        finally:
            copy.leave()

    def _held(self, seen: Seen | None) -> StagedImage | None:
        """Return the image that the reference meant last time, mended when only its sidecar was bad."""
        digest = self._expected() or (seen.digest if seen else None)
        if digest is None:
            return None
        image = self._lookup(digest)
        if image is None and images.image_files(self.layout, digest):
            image, found = repair.verify(self.layout, digest, self.recognise)
            self.tell.say(f"image {digest.hex[:12]} was not as published: {found}")
        return image

    def _fetch_into(
        self, copy: Partial, leadership: Leadership, seen: Seen | None, held: StagedImage | None
    ) -> StagedImage:
        download = self.download(copy)
        leadership.phase, leadership.measure = "pulling", lambda: (copy.held, copy.size or 0)
        asked = self.clock.now()
        if self._has_changed(download, seen, held) or held is None:
            leadership.phase = "verifying"
            image = self._publish(copy)
            self._tell_staged(image, self.clock.now() - asked)
            self._remember(image.digest, copy.validators, asked)
        else:
            copy.discard()
            image = held
        return self._settle(image)

    def _has_changed(self, download: Download, seen: Seen | None, held: StagedImage | None) -> bool:
        """Download unless the origin still has the image that is held, or cannot be asked about it."""
        asked, known = self.clock.now(), _validators(seen)
        try:
            changed = download.run(unless=known)
        except OriginUnavailable as error:
            if held is None or not self.policy.offline:
                raise
            self.tell.say(f"{error.message}; using the image known from before")
            return False
        if not changed and held is not None and known is not None:
            self._remember(held.digest, known, asked)
        return changed

    def _remember(self, digest: Digest, validators: Validators, asked: float) -> None:
        record = self.layout.reference_record(self._key)
        memory.write_seen(record, self.reference.shown, digest, validators=validators, at=asked)
        self.trace("seen")

    def _settle(self, image: StagedImage) -> StagedImage:
        pinned = self._pinned(image)
        if pinned is not None:
            return pinned
        digest = self._expected()
        other = self._lookup(digest) if digest else None
        if other is None:
            raise LeaderLost("this job was pinned meanwhile to an image which is no longer there")
        return other

    def _publish(self, copy: Partial) -> StagedImage:
        self.trace("fetched")
        digest, expected = copy.digest(), self._expected()
        try:
            if expected is not None and digest != expected:
                raise DigestMismatch(f"{copy.origin} sent {digest}, but {self._whose_pin()} is {expected}")
            info = self.recognise(copy.fileno(), copy.size or 0)
        except StageImageError:
            copy.discard()
            raise
        self.trace("verified")
        copy.sync()
        self.trace("synced")
        image = images.publish(self.layout, copy.path, digest, info, origin=self.reference.shown, private=copy.private)
        self.trace("published")
        copy.discard()
        return image

    def _tell_staged(self, image: StagedImage, seconds: float) -> None:
        rate = room.show_bytes(image.size / seconds) if seconds > 0 else "-"
        size = room.show_bytes(image.size)
        self.tell.say(f"staged {self.reference.name}: {size} in {seconds:.1f} s ({rate}/s), {image.digest.hex[:12]}")

    def _whose_pin(self) -> str:
        return "the reference's pin" if self.reference.digest else f"the pin of {self.lease.scope}"


def _validators(seen: Seen | None) -> Validators | None:
    from stager.interfaces import Validators

    return Validators(seen.etag, seen.modified, seen.size) if seen else None


@contextmanager
def _storage_errors(layout: Layout) -> Iterator[None]:
    """Turn the operating system's refusals to write into errors of ours."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free = room.show_bytes(room.free_bytes(layout.root))
            raise NoSpace(f"the store {layout.root} is full: {reason}; {free} are free") from error
        raise StoreUnusable(f"the store {layout.root} cannot be written: {reason}") from error
