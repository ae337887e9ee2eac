"""A staging of the whole cluster, as one node's leader takes part in it: one story, told by several nodes.

    prepare ──▶ is the job pinned on another node? ──▶ join ──▶ bytes come ──▶ published ──▶ linger ──▶ gone

Without ZooKeeper, and by policy, the node goes on alone, with one warning.
"""

from __future__ import annotations

import os
import random
from contextlib import suppress
from typing import TYPE_CHECKING

from stager.deputy import Ended
from stager.errors import ClusterUnavailable, PinLost, TooFewNodes
from stager.load import Load, Task
from stager.member import Member
from stager.plain import dataclass, field
from stager.reference import Digest
from stager.store import images, memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.clock import Clock
    from stager.download import Download
    from stager.interfaces import ImageInfo, Message, Peers, Rendezvous, Teller, Validators
    from stager.known import Known
    from stager.retry import RetryPolicy
    from stager.seat import Seat
    from stager.shared import SharedStore
    from stager.store.images import StagedImage
    from stager.store.partial import Partial

JITTER_SECONDS = 3.0
"""Nodes that go on alone begin within so many seconds of each other, so that their origin survives them."""

UNWANTED_SECONDS = 5.0
"""For which a staging goes on that nobody waits for any more: a task that takes over needs a moment to come."""

GOODBYE_SECONDS = 3.0
"""For members to come once more and hear that nobody needs them; they come several times a second."""

NODE_RECORD_MAX = 500
"""Images that a node makes known; what was used longest ago is left out. ZooKeeper keeps all of it in memory."""


def member_name() -> str:
    """Return what the others call this process: a node may have several, one after the other."""
    return f"{os.uname().nodename}/{os.getpid()}"


@dataclass(slots=True, kw_only=True)
class Terms:
    """What a site and a call want of the cluster; times in seconds.

    `scope`: the job, empty outside of jobs. `alone`: whether a node may go on without the cluster. `patience`: without
    a coordinator, `stall`: without a byte from other nodes. `sealed`: strangers cannot read the staging's secret.
    `offline`: whether an image will do about which its origin cannot be asked.
    """

    scope: str
    alone: bool
    patience: float
    stall: float
    lifetime: float
    min_nodes: int
    offline: bool
    sealed: bool


@dataclass(slots=True)
class ClusterStaging:
    """See the module. `meet` makes the session with ZooKeeper, `sit` what is asked and asks through it.

    `shared`: the image is not passed on but put where all nodes can open it. `wanted`: whether anybody on this node
    waits for the image.
    """

    terms: Terms
    who: Message
    clock: Clock
    tell: Teller
    meet: Callable[[], Rendezvous]
    sit: Callable[[Rendezvous, str], tuple[Seat, Peers]]
    shared: SharedStore | None = None
    wanted: Callable[[], bool] = lambda: True
    _rendezvous: Rendezvous | None = None
    _member: Member | None = None
    _seat: Seat | None = None
    _peers: Peers | None = None
    _agreed: dict[str, Digest] = field(default_factory=dict)

    def prepare(self, known: Known) -> None:
        """Meet the others, and take over what they have pinned the job to. Raises ClusterUnavailable."""
        rendezvous = self.meet()
        try:
            rendezvous.connect()
            pinned = rendezvous.pin(self.terms.scope, known.key) if self._pins(known) else None
        except ClusterUnavailable as error:
            rendezvous.close()
            self._go_on_alone(error)
            return
        self._rendezvous = rendezvous
        if pinned is not None:
            self._agreed[known.key] = Digest(f"sha256:{pinned}")
            path = known.layout.pin(known.scope, known.key)
            memory.write_pin(path, self._agreed[known.key], until=None, now=self.clock.now())

    def agree(self, known: Known, digest: Digest) -> Digest:
        """Pin the job on all its nodes; return what it is pinned to."""
        if not self._pins(known):
            return digest
        if known.key not in self._agreed:
            try:
                pinned = self._met().set_pin(self.terms.scope, known.key, digest.hex)
            except ClusterUnavailable:
                if not self.terms.alone:
                    raise
                return digest
            self._agreed[known.key] = Digest(f"sha256:{pinned}")
        return self._agreed[known.key]

    def fetching(
        self,
        fetch: Callable[[Partial], Download],
        known: Known,
        recognise: Callable[[int, int], ImageInfo],
        *,
        held: Callable[[], StagedImage | None],
    ) -> Callable[[Partial], Fetching]:
        """Return what makes downloads that come from the cluster; `held` gives the image that was current last time."""
        return lambda copy: Fetching(self, copy, fetch, known, recognise, held)

    def await_nodes(self, patience: float) -> None:
        """Wait until as many nodes have the image as were asked for. Raises TooFewNodes."""
        member = self._member
        if member is None:
            return
        member.awaits_others = True
        member.state = "done"
        best, since = -1, self.clock.now()
        while member.ready < self.terms.min_nodes:
            if member.ready > best:
                best, since = member.ready, self.clock.now()
            if self.clock.now() - since > patience or not member.active:
                raise TooFewNodes(f"{best} of {member.nodes} nodes have the image; {self.terms.min_nodes} are wanted")
            self.clock.sleep(0.1)
        member.awaits_others = False

    def linger(self, known: Known) -> None:
        """Serve the others for as long as they need it, and go."""
        member = self._member
        if member is not None:
            member.state = "done"
            self._make_known(known)
            until = self.clock.now() + self.terms.lifetime
            while member.active and not self._is_over() and self.clock.now() < until:
                self.clock.sleep(0.2)
            self._dismiss_others()
        self.close()

    def close(self) -> None:
        """Leave: the others get their bytes elsewhere."""
        if self._member is not None:
            self._member.stop()
        if self._seat is not None:
            with suppress(ClusterUnavailable):
                self._seat.leave()
        if self._peers is not None:
            self._peers.close()
        if self._rendezvous is not None:
            self._rendezvous.close()

    @property
    def alone(self) -> bool:
        """Whether this node is on its own."""
        return self._rendezvous is None

    def join(self, task: Task, expected: Digest | None) -> Member:
        """Take part with the bytes of `task`; `expected`: the only digest that will do, if there is one."""
        if self._rendezvous is None:
            raise ClusterUnavailable("there is no session with ZooKeeper")
        self._seat, self._peers = self.sit(self._rendezvous, expected.hex if expected else "")
        load = Load(task, self._peers, sealed=self.terms.sealed)
        who = {**self.who, "node": member_name()}
        terms = self.terms
        member = Member(
            self._seat,
            load,
            who,
            clock=self.clock,
            say=lambda text: self.tell.say(text),  # noqa: PLW0108 - who tells changes when we are forked
            patience=terms.patience,
            stall=terms.stall,
        )
        self._member = member
        member.start()
        return member

    def leave(self, error: ClusterUnavailable) -> None:
        """Go on without the others, if that is allowed; raises `error` if not."""
        self.close()
        self._member = self._seat = self._peers = self._rendezvous = None
        self._go_on_alone(error)

    def _go_on_alone(self, error: ClusterUnavailable) -> None:
        if not self.terms.alone:
            raise error
        self.tell.say(f"warning: {error.message}; this node goes on alone")

    def _met(self) -> Rendezvous:
        if self._rendezvous is None:
            rendezvous = self.meet()
            try:
                rendezvous.connect()
            except ClusterUnavailable:
                rendezvous.close()
                raise
            self._rendezvous = rendezvous
        return self._rendezvous

    def _pins(self, known: Known) -> bool:
        return bool(self.terms.scope) and known.reference.digest is None and known.freshness != "always"

    def _is_over(self) -> bool:
        return self._seat is not None and self._seat.over

    def _dismiss_others(self) -> None:
        """Let those who are asked to go hear of it: they would look for another coordinator."""
        until = self.clock.now() + GOODBYE_SECONDS
        while self._seat is not None and not self._seat.deserted and self.clock.now() < until:
            self.clock.sleep(0.05)

    def _make_known(self, known: Known) -> None:
        layout = known.layout
        used = sorted(images.digests(layout), key=lambda digest: -images.last_used(layout, digest))
        newest = [digest.hex for digest in used[:NODE_RECORD_MAX]]
        with suppress(ClusterUnavailable):
            if self._rendezvous is not None:
                self._rendezvous.write_node(str(self.who["host"]), "\n".join(newest).encode())
                if self._seat is not None and self._seat.taken:
                    self._rendezvous.sweep()


@dataclass(slots=True)
class Fetching:
    """One image on its way, from wherever the cluster has it; stands for a Download."""

    cluster: ClusterStaging
    copy: Partial
    fetch: Callable[[Partial], Download]
    known: Known
    recognise: Callable[[int, int], ImageInfo]
    held: Callable[[], StagedImage | None]
    policy: RetryPolicy | None = None
    image: StagedImage | None = None
    version: Validators | None = None

    def run(self, unless: Validators | None = None) -> bool:
        """As Download.run."""
        if not self.cluster.alone:
            try:
                return self._together(unless)
            except ClusterUnavailable as error:
                self.cluster.leave(error)
        return self._alone(unless)

    def _together(self, unless: Validators | None) -> bool:
        task = Task(
            copy=self.copy,
            download=self._download,
            recognise=self.recognise,
            settle=lambda digest: self.cluster.agree(self.known, digest),
            lookup=self.known.lookup,
            unless=unless,
            held=self.held() if unless is not None else None,
            pin=self.known.reference.digest,
            expects=self.known.expected(),
            shared=self.cluster.shared,
            offline=self.cluster.terms.offline,
        )
        member = self.cluster.join(task, self.known.expected())
        unwanted = self.cluster.clock.now()
        while not member.outcome(0.5):
            if self.cluster.wanted() or member.feeds_others:
                unwanted = self.cluster.clock.now()
            elif self.cluster.clock.now() - unwanted > UNWANTED_SECONDS:
                raise Ended
        self.image, self.version = member.image, member.version
        return self.image is None

    def _download(self, copy: Partial) -> Download:
        download = self.fetch(copy)
        if self.policy is not None:
            download.policy = self.policy
        return download

    def _alone(self, unless: Validators | None) -> bool:
        self.cluster.clock.sleep(random.uniform(0, JITTER_SECONDS))  # noqa: S311 - no secret
        before = self.copy.validators if self.copy.held else None
        changed = self._download(self.copy).run(unless=None if before else unless)
        if before and self.copy.validators != before:
            raise PinLost("the image changed at the origin after other nodes of the job had begun with the old one")
        return changed
