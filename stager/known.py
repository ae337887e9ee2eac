"""What is known of a reference without asking anybody: the job's pin, what it meant when last seen, what is held."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager import report
from stager.store import images, memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.clock import Clock
    from stager.errors import StageImageError
    from stager.interfaces import Validators
    from stager.layout import Layout
    from stager.reference import Digest, Reference
    from stager.store.images import StagedImage
    from stager.store.memory import Seen


@dataclass(frozen=True, slots=True)
class Known:
    """One reference, as one scope on this node knows it.

    `scope` is the job, or the login session when `session` is set. `freshness`: always | job | never. `tiers` are
    stores of root's which we only read.
    """

    layout: Layout
    tiers: tuple[Layout, ...]
    reference: Reference
    scope: str
    session: bool
    freshness: str
    clock: Clock
    trace: Callable[[str], None]
    agree: Callable[[Known, Digest], Digest] = lambda _known, digest: digest
    """Pin the job on the cluster's other nodes, too; returns what it is pinned to there."""
    may_pin: bool = True
    """Whether this process may pin the job: in a cluster only the node's leader, who can ask the others, may."""

    @property
    def key(self) -> str:
        """The reference's name in the store."""
        return self.reference.key

    def lookup(self, digest: Digest) -> StagedImage | None:
        """Return the image, from our store or root's."""
        found = (images.lookup(layout, digest) for layout in (self.layout, *self.tiers))
        return next((image for image in found if image is not None), None)

    def image(self, begun: float) -> StagedImage | None:
        """Return the image if nobody need be asked which it is, and it is there.

        That is so by a pin, or when the origin has been asked since `begun` (seconds since boot).
        """
        digest = self.expected()
        if digest is not None:
            return self.lookup(digest)
        seen = self.seen()
        if seen is None or not (self.freshness == "never" or seen.since(begun)):
            return None
        if not self.may_pin and not self.session and self.freshness != "always":
            return None
        image = self.lookup(seen.digest)
        return self.pinned(image) if image else None

    def expected(self) -> Digest | None:
        """Return the only digest that will do, by the reference's pin or the job's."""
        if self.reference.digest is not None:
            return self.reference.digest
        if self.freshness == "always":
            return None
        return memory.read_pin(self.layout.pin(self.scope, self.key), self.clock.now())

    def pinned(self, image: StagedImage) -> StagedImage | None:
        """Pin the job to the image; None if it is already pinned to another one."""
        if self.reference.digest is not None or self.freshness == "always":
            return image
        agreed = self.agree(self, image.digest)
        now = self.clock.now()
        until = now + memory.SESSION_PIN if self.session else None
        try:
            digest = memory.write_pin(self.layout.pin(self.scope, self.key), agreed, until=until, now=now)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            return image  # what cannot be written cannot change either
        self.trace("pinned")
        return image if digest == image.digest else None

    def seen(self) -> Seen | None:
        """Return what the reference meant when its origin was last asked."""
        paths = [layout.reference_record(self.key) for layout in (self.layout, *self.tiers)]
        paths += [layout.reference_record(self.reference.cluster_key) for layout in self.tiers if self.reference.usual]
        records = (memory.read_seen(path) for path in paths)
        return next((seen for seen in records if seen is not None), None)

    def remember(self, digest: Digest, validators: Validators, asked: float) -> None:
        """Remember what the origin, asked at `asked`, has."""
        record = self.layout.reference_record(self.key)
        memory.write_seen(record, self.reference.shown, digest, validators=validators, at=asked)
        self.trace("seen")
        report.note(self.layout, digest, self.reference.shown)

    def failure(self, begun: float, *, retry: bool) -> StageImageError | None:
        """Return the failure that stands for a call from `begun`; with `retry`, only one from after that moment."""
        since, now = begun if retry else 0.0, self.clock.now()
        for path in (self.layout.failure(self.key), self.layout.failure(f"{self.key}.{self.scope}")):
            failure = memory.read_failure(path, now, begun=begun, since=since)
            if failure is not None:
                return failure
        return None

    def fail(self, error: StageImageError, backoff: float, *, whole_node: bool) -> StageImageError:
        """Record a failure, for this scope or the whole node; return it in the very words that others will read."""
        path = self.layout.failure(self.key if whole_node else f"{self.key}.{self.scope}")
        try:
            memory.write_failure(path, error, self.clock, backoff)
        except OSError:
            return error  # a store that cannot be written is often the failure itself
        return memory.read_failure(path, self.clock.now(), begun=0.0) or error
