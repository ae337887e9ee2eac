"""A staging of the whole cluster, as one node's leader takes part in it: one story, told by several nodes.

    prepare ──▶ is the job pinned on another node? ──▶ join ──▶ bytes come ──▶ published ──▶ linger ──▶ gone

Without ZooKeeper, and by policy, the node goes on alone, with one warning.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from stager.errors import ClusterUnavailable, TooFewNodes
from stager.load import Load
from stager.member import Member
from stager.offering import Offering
from stager.reference import Digest
from stager.store import copies, files, images, memory, repair
from stager.store.partial import Partial
from stager.together import Fetching

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.clock import Clock
    from stager.interfaces import ImageInfo, Message, Peers, Rendezvous, Teller
    from stager.known import Known
    from stager.seat import Seat
    from stager.shared import SharedStore
    from stager.store.images import StagedImage
    from stager.task import Task
    from stager.transfer import Transfer

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
    member: Member | None = None
    _seat: Seat | None = None
    _peers: Peers | None = None
    _version: Message | None = None
    _verified: bool = False
    _agreed: dict[str, Digest] = field(default_factory=dict)

    def prepare(self, known: Known) -> None:
        """Meet the others, and take over what they have pinned the job to. Raises ClusterUnavailable."""
        rendezvous = self.meet()
        try:
            rendezvous.connect()
            pinned = rendezvous.pin(self.terms.scope, known.reference.cluster_key) if self._pins(known) else None
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
                pinned = self._met().set_pin(self.terms.scope, known.reference.cluster_key, digest.hex)
            except ClusterUnavailable:
                if not self.terms.alone:
                    raise
                return digest
            self._agreed[known.key] = Digest(f"sha256:{pinned}")
        return self._agreed[known.key]

    def fetching(
        self,
        fetch: Callable[[Partial], Transfer],
        known: Known,
        recognise: Callable[[int, int], ImageInfo],
        *,
        held: Callable[[], StagedImage | None],
    ) -> Callable[[Partial], Fetching]:
        """Return what makes downloads that come from the cluster; `held` gives the image that was current last time."""
        return lambda copy: Fetching(self, copy, fetch, known, recognise, held)

    def await_nodes(self, known: Known, image: StagedImage, patience: float) -> None:
        """Wait until as many nodes have the image as were asked for. Raises TooFewNodes."""
        if self.terms.min_nodes <= 1 or self.has_enough(known):
            return
        member = self.member or self._attend(known, image)
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
        files.write_text(self._enough(known), f"{member.ready}\n", 0o600)

    @property
    def readiness(self) -> tuple[int, int]:
        """Return how many nodes have the image, and how many are wanted."""
        return self.member.ready if self.member is not None else 0, self.terms.min_nodes

    def has_enough(self, known: Known) -> bool:
        """Whether it is known that as many of the job's nodes have the image as are asked for."""
        return files.whole_number((files.read_text(self._enough(known)) or "").strip()) >= self.terms.min_nodes

    def _enough(self, known: Known) -> str:
        return f"{known.layout.pin(known.scope, known.key)}.nodes"

    def _attend(self, known: Known, image: StagedImage) -> Member:
        """Tell the others that the image is here already."""
        if self._rendezvous is None:
            raise TooFewNodes(f"ZooKeeper cannot be asked who has the image; {self.terms.min_nodes} nodes are wanted")
        copy = Partial(copies.own_folder(known.layout.partials(known.key)))
        fetching = Fetching(self, copy, _nothing, known, _nothing, lambda: image)
        member = self.join(fetching.task(None, image), here=image)
        copy.discard()
        member.outcome(self.terms.patience)
        return member

    def linger(self, known: Known, recognise: Callable[[int, int], ImageInfo]) -> None:
        """Serve the others for as long as they need it, and go."""
        member = self.member
        if member is not None:
            member.state = "done"
            self._make_known(known)
            until = self.clock.now() + self.terms.lifetime
            while member.active and not self._is_over() and self.clock.now() < until:
                self.clock.sleep(0.2)
                self._look_after(member, known, recognise)
            self.dismiss_others()
        self.close()

    def close(self) -> None:
        """Leave: the others get their bytes elsewhere."""
        if self.member is not None:
            self.member.stop()
        if self._seat is not None:
            with suppress(ClusterUnavailable):
                self._seat.leave()
        if self._peers is not None:
            self._peers.close()
        if self._rendezvous is not None:
            self._rendezvous.close()

    def recall_conversion(self, name: str) -> Digest | None:
        """Return what came of a conversion on any of the nodes, as far as anybody remembers."""
        found = None
        with suppress(ClusterUnavailable):
            found = self._rendezvous.conversion(name) if self._rendezvous is not None else None
        return Digest(f"sha256:{found}") if found is not None else None

    def remember_conversion(self, name: str, digest: Digest) -> None:
        """Let the other nodes know what came of a conversion."""
        with suppress(ClusterUnavailable):
            if self._rendezvous is not None:
                self._rendezvous.set_conversion(name, digest.hex)

    @property
    def alone(self) -> bool:
        """Whether this node is on its own."""
        return self._rendezvous is None

    @property
    def version(self) -> Message | None:
        """Of which version the image is, as other nodes have said in this call."""
        return self._version or (self.member.load.version if self.member is not None else None)

    def join(self, task: Task, here: StagedImage | None = None) -> Member:
        """Take part with the bytes of `task`; `here`: the image, if this node only has to say that it has it."""
        if self._rendezvous is None:
            raise ClusterUnavailable("there is no session with ZooKeeper")
        wanted = here.digest if here is not None else task.expects
        self._seat, self._peers = self.sit(self._rendezvous, wanted.hex if wanted else "")
        load = Load(task, Offering(self._peers, self.terms.sealed), image=here, complete=here is not None)
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
        self.member = member
        member.start()
        return member

    def leave(self, error: ClusterUnavailable) -> None:
        """Go on without the others, if that is allowed; raises `error` if not."""
        self._version = self.version
        self.close()
        self.member = self._seat = self._peers = self._rendezvous = None
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

    def dismiss_others(self, *, failed: bool = False) -> None:
        """Let those who are to go, or to fail as we did, hear of it: they would look for another coordinator."""
        until = self.clock.now() + GOODBYE_SECONDS
        while self._seat is not None and not self._seat.deserted and self.clock.now() < until:
            if failed and self._seat.over:
                break
            self.clock.sleep(0.05)

    def _look_after(self, member: Member, known: Known, recognise: Callable[[int, int], ImageInfo]) -> None:
        """Verify the image once another node got bytes from here that were not what they had been."""
        final = member.load.final
        if member.doubted and final is not None and not self._verified:
            self._verified = True
            repair.verify(known.layout, Digest(f"sha256:{final[0]}"), recognise)

    def _make_known(self, known: Known) -> None:
        layout = known.layout
        used = sorted(images.digests(layout), key=lambda digest: -images.last_used(layout, digest))
        newest = [digest.hex for digest in used[:NODE_RECORD_MAX]]
        with suppress(ClusterUnavailable):
            if self._rendezvous is not None:
                self._rendezvous.write_node(str(self.who["host"]), "\n".join(newest).encode())
                if self._seat is not None and self._seat.taken:
                    self._rendezvous.sweep()


def _nothing(*_: object) -> NoReturn:
    raise ClusterUnavailable("the image is here, and nothing is fetched")
