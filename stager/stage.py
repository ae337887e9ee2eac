"""The story: known? else follow or lead; lease."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from stager import lease
from stager.errors import LeaderLost, PinLost, StageImageError, TooFewNodes
from stager.fetch import Fetch
from stager.known import Known
from stager.leading import Leadership, claimed
from stager.reference import Digest
from stager.store import files, memory
from stager.store.trouble import storage_errors
from stager.waiting import BEAT_LOST, Follower

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.clock import Clock
    from stager.cluster import ClusterStaging
    from stager.deputy import Principal
    from stager.interfaces import Election, ImageInfo, Teller
    from stager.layout import Layout
    from stager.lease import Lease
    from stager.reference import Reference
    from stager.store.images import StagedImage
    from stager.store.partial import Partial
    from stager.together import Fetching
    from stager.transfer import Transfer

ROUNDS = 5
"""How often an image may vanish between staging and leasing it: evicted once is bad luck, more is a broken store."""


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


@dataclass(frozen=True)
class Staging:
    """One task's wish for one image, with all that is needed to fulfil it.

    The lease's scope is the job, or the login session when `session` is set. `download` makes a download into a partial
    copy. `cluster`: the staging is the whole cluster's; then a process of its own leads, which `acts` says of itself.
    `tiers` are stores of root's which we only read. `before_release` is what a leader does while the others still
    wait for it. `trace` is called at named points, where tests let processes die.
    """

    layout: Layout
    reference: Reference
    lease: Lease
    session: bool
    policy: Policy
    clock: Clock
    election: Election
    download: Callable[[Partial, Teller], Transfer]
    recognise: Callable[[int, int], ImageInfo]
    tell: Teller
    cluster: ClusterStaging | None = None
    acts: bool = False
    tiers: tuple[Layout, ...] = ()
    before_release: Callable[[StagedImage], None] = lambda _image: None
    trace: Callable[[str], None] = lambda _point: None

    def run(self) -> StagedImage:
        """Return the image: published, verified and leased. Raises StageImageError."""
        begun = self.clock.now()
        with storage_errors(self.layout.root):
            for _ in range(ROUNDS):
                image = self._obtain_or_recall(begun)
                self._take_lease(image)
                # Looked up again: whoever evicts looks at leases last, so one of the two sees the other.
                if self._known.lookup(image.digest) is not None:
                    return image
        raise LeaderLost(
            f"the image was staged {ROUNDS} times and not found each time",
            hint="something removes or touches the store's files: see `stage-image verify` and `stage-image doctor`",
        )

    @cached_property
    def _known(self) -> Known:
        known = Known(
            layout=self.layout,
            tiers=self.tiers,
            reference=self.reference,
            scope=self.lease.scope,
            session=self.session,
            freshness=self.policy.freshness,
            clock=self.clock,
            trace=self.trace,
        )
        return known if self.cluster is None else replace(known, agree=self.cluster.agree, may_pin=self.acts)

    @cached_property
    def _fetch(self) -> Fetch:
        def plain(copy: Partial) -> Transfer:
            return self.download(copy, self.tell)

        download: Callable[[Partial], Transfer | Fetching] = plain
        if self.cluster is not None:
            download = self.cluster.fetching(
                plain, self._known, self.recognise, held=lambda: self._fetch.held(self._known.seen())
            )
        return Fetch(
            known=self._known,
            download=download,
            recognise=self.recognise,
            tell=self.tell,
            offline=self.policy.offline,
            trace=self.trace,
        )

    @property
    def note(self) -> str:
        """Where the leader tells of itself."""
        return self.layout.leader(self.reference.key)

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
            image = self._fetch.held(self._known.seen()) if error.errno == errno.EROFS else None
            if image is None:
                raise
            self.tell.say(f"the store {self.layout.root} is read-only; using what it holds, unasked whether it is new")
            return image

    def _obtain(self, begun: float) -> StagedImage:
        follower = Follower(self.note, self.clock, self.tell, self.policy.patience)
        refused = _Refusals(self.clock, self.tell)
        while True:
            if (image := follower.follow(lambda: self._settled(begun))) is not None:
                return image
            if follower.has_met_a_leader():
                refused.forget()
            turn = max(self._turn(follower), refused.turn)
            with claimed(self.note, self.clock, turn) as ours:
                if ours and (image := self._contend(turn, begun)) is not None:
                    return image
            refused.count(turn)
            # The lock is held, but its holder's note is not there yet, or ours has just covered it.
            self.clock.sleep(0.05)

    def _contend(self, turn: int, begun: float) -> StagedImage | None:
        """Try to lead, and do the work if we do; None if somebody else holds the lock."""
        key = self.reference.key
        with self.election.lead(key if turn == 0 else f"{key}.{turn}") as leads:
            return (self._settled(begun) or self._lead(turn)) if leads else None

    def _turn(self, follower: Follower) -> int:
        note = memory.read_leader(self.note)
        if note is None or not note.holder.alive:
            return note.turn if note else 0
        if not follower.stalled(note):
            return note.turn
        self.tell.say(f"the leader, pid {note.holder.pid}, has stopped moving; taking over from it")
        return note.turn + 1

    def _settled(self, begun: float) -> StagedImage | None:
        """Return the image if it is known and there, raise the failure that stands, or return None."""
        image = self._known.image(begun)
        if self.cluster is not None and self.cluster.terms.min_nodes > 1:
            self._check_nodes(begun)
            image = image if self.cluster.has_enough(self._known) else None
        if image is None:
            failure = self._known.failure(begun, retry=self.policy.retry)
            if failure is not None:
                raise failure
        return image

    def _check_nodes(self, begun: float) -> None:
        # The image may be here; for those who want it on more nodes that is not enough.
        failure = self._known.failure(begun, retry=self.policy.retry)
        if isinstance(failure, TooFewNodes):
            raise failure

    def _lead(self, turn: int) -> StagedImage | None:
        self.trace("locked")
        if self.cluster is not None:
            return self._have_led(turn)
        with Leadership(self.note, self.clock, turn, self.tell) as leadership:
            image = self._fetched(leadership)
            leadership.phase = "mounting"
            self.before_release(image)
        return image

    def _fetched(self, leadership: Leadership) -> StagedImage:
        try:
            with storage_errors(self.layout.root):
                if self.cluster is not None:
                    self.cluster.prepare(self._known)
                image = self._fetch.run(leadership)
                if self.cluster is not None:
                    cluster = self.cluster
                    leadership.phase, leadership.measure = "waiting for other nodes", lambda: cluster.readiness
                    self.cluster.await_nodes(self._known, image, self.policy.patience)
        except StageImageError as error:
            whole_node = not isinstance(error, (PinLost, LeaderLost, TooFewNodes))
            raise self._known.fail(error, self.policy.failure_backoff, whole_node=whole_node) from error
        files.discard(self.layout.failure(self.reference.key))
        return image

    def _have_led(self, turn: int) -> StagedImage | None:
        """Let a process of its own lead, and do what is the task's business while the others still wait.

        None if the process got stuck and was passed over.
        """
        from stager import deputy

        watch = Follower(self.note, self.clock, self.tell, self.policy.patience)
        for _ in range(ROUNDS):
            with deputy.begin(lambda principal: self._act(principal, turn), self.tell) as process:
                try:
                    digest = process.outcome(lambda: self._look_after(watch, turn))
                except _PassedOverError:
                    return None
                image = self._known.lookup(Digest(digest)) if digest else None
                if image is not None:
                    self.before_release(image)
                    return image
            self.tell.say("the process that fetched it has died; starting another one")
        raise LeaderLost(f"{ROUNDS} processes that fetched it died one after the other")

    def _act(self, principal: Principal, turn: int) -> None:
        cluster = self.cluster
        if cluster is not None:
            cluster.tell = principal
            replace(self, tell=principal, acts=True).lead_for(principal, cluster, turn)

    def lead_for(self, principal: Principal, cluster: ClusterStaging, turn: int) -> None:
        """Lead, in a process of its own, for the task that waits at the other end of the line."""
        try:
            with Leadership(self.note, self.clock, turn, principal) as leadership:
                cluster.wanted = lambda: not principal.gone or leadership.followed
                image = self._fetched(leadership)
                principal.staged(str(image.digest))
                leadership.phase = "mounting"
                principal.wait(BEAT_LOST)
            principal.hang_up()
            cluster.linger(self._known, self.recognise)
        except StageImageError as error:
            principal.failed(error)
            principal.hang_up()
            cluster.dismiss_others(failed=True)
        except Exception as error:
            principal.failed(StageImageError(f"a bug in the relay: {type(error).__name__}: {error}"))
            raise
        finally:
            cluster.close()

    def _look_after(self, watch: Follower, turn: int) -> None:
        """See how far the process is that leads for us. Raises _PassedOverError if it is stuck."""
        note = memory.read_leader(self.note)
        if note is None:
            return
        self.tell.progress(note.phase, note.done, note.total)
        if note.turn > turn or watch.stalled(note):
            self.tell.say("the process that fetches it has stopped moving; going on without it")
            raise _PassedOverError


class _PassedOverError(Exception):
    """The process that was to lead for us lives, and does nothing."""


class _Refusals:
    """Counts how long a lock is refused that nobody owns up to: its holder was stopped after its note had gone."""

    def __init__(self, clock: Clock, tell: Teller) -> None:
        self._clock = clock
        self._tell = tell
        self._since: float | None = None
        self.turn = 0

    def forget(self) -> None:
        """Start over: somebody really leads."""
        self._since = None

    def count(self, turn: int) -> None:
        """Take in one vain attempt at the lock of `turn`; after BEAT_LOST seconds of them, go on to the next one.

        An attempt that another contender's claim kept us from counts as well: it is not leading either.
        """
        if self._since is None:
            self._since = self._clock.now()
        elif self._clock.now() - self._since > BEAT_LOST:
            self._tell.say("the lock is held by a process that shows no sign of life; going on without it")
            self.turn, self._since = turn + 1, None
