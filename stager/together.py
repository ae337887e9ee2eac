"""A download that comes from the cluster: from other nodes, or, as one of them, from the origin; or else alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager import versions
from stager.deputy import Ended
from stager.errors import ClusterUnavailable, PinLost
from stager.store.syncing import Syncing
from stager.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.cluster import ClusterStaging
    from stager.interfaces import ImageInfo, Validators
    from stager.known import Known
    from stager.retry import RetryPolicy
    from stager.store.images import StagedImage
    from stager.store.partial import Partial
    from stager.transfer import Transfer

JITTER_SECONDS = 3.0
"""Nodes that go on alone begin within so many seconds of each other, so that their origin survives them."""

UNWANTED_SECONDS = 5.0
"""For which a staging goes on that nobody waits for any more: a task that takes over needs a moment to come."""


@dataclass(slots=True)
class Fetching:
    """One image on its way, from wherever the cluster has it; stands for a Download.

    `fetch` makes a download from the origin, `held` gives the image that was current last time.
    """

    cluster: ClusterStaging
    copy: Partial
    fetch: Callable[[Partial], Transfer]
    known: Known
    recognise: Callable[[int, int], ImageInfo]
    held: Callable[[], StagedImage | None]
    policy: RetryPolicy | None = None
    image: StagedImage | None = None
    version: Validators | None = None
    _transfer: Transfer | None = None

    @property
    def progress(self) -> tuple[int, int]:
        """Return bytes done and in all (0: unknown)."""
        member = self.cluster.member
        if member is not None:
            return member.load.progress
        return self._transfer.progress if self._transfer is not None else (self.copy.held, self.copy.size or 0)

    @property
    def phase(self) -> str:
        """As Transfer.phase."""
        member = self.cluster.member
        if member is None or self.cluster.alone:
            return self._transfer.phase if self._transfer is not None else "resolving"
        return member.load.phase

    @property
    def whence(self) -> str:
        """As Download.whence: whether this node was the one that asked the origin."""
        member = self.cluster.member
        if member is None or self.cluster.alone:
            return ""
        return "from its origin, for all nodes" if member.load.head is not None else "from other nodes"

    def run(self, unless: Validators | None = None) -> bool:
        """As Download.run."""
        if not self.cluster.alone:
            try:
                return self._together(unless)
            except ClusterUnavailable as error:
                self.cluster.leave(error)
        return self._alone(unless)

    def _together(self, unless: Validators | None) -> bool:
        held = self.held() if unless is not None else None
        task = self.task(unless, held)
        member = self.cluster.join(task)
        try:
            with Syncing(self.copy):
                self._wait()
        except BaseException:
            member.stop()  # before the copy's descriptors are let go of, and may become others'
            raise
        load = member.load
        self.image = load.image
        self.version = versions.validators_of(load.version) if load.version else None
        return self.image is None

    def task(self, unless: Validators | None, held: StagedImage | None) -> Task:
        """Return what this node wants."""
        return Task(
            copy=self.copy,
            download=self._download,
            recognise=self.recognise,
            settle=lambda digest: self.cluster.agree(self.known, digest),
            lookup=self.known.lookup,
            unless=unless,
            held=held,
            pin=self.known.reference.digest,
            expects=self.known.expected(),
            shared=self.cluster.shared,
            offline=self.cluster.terms.offline,
            by_digest=self.known.reference.is_by_digest,
        )

    def _wait(self) -> None:
        cluster, member = self.cluster, self.cluster.member
        unwanted = cluster.clock.now()
        while member is not None and not member.outcome(0.5):
            if cluster.wanted() or member.load.feeds_others:
                unwanted = cluster.clock.now()
            elif cluster.clock.now() - unwanted > UNWANTED_SECONDS:
                raise Ended

    def _download(self, copy: Partial) -> Transfer:
        self._transfer = download = self.fetch(copy)
        if self.policy is not None:
            download.policy = self.policy
        return download

    def _alone(self, unless: Validators | None) -> bool:
        self.cluster.clock.sleep(random.uniform(0, JITTER_SECONDS))  # noqa: S311 - no secret
        download = self._download(self.copy)
        download.on_begin = self._refuse_another_version
        changed = download.run(unless=None if self.copy.held else unless)
        self.image, self.version = download.image, download.version
        return changed

    def _refuse_another_version(self) -> None:
        # Others of the job may have the version that they told us of, and run it.
        version = self.cluster.version
        if version is not None and not versions.same(self.copy, versions.validators_of(version)):
            raise PinLost("the image changed at the origin after other nodes of the job had begun with the old one")
