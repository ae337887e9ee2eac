"""The bytes of one node in a staging of the cluster: where they come from now, how many are here, what they are.

Bytes come from the origin (`Head`: this node is the head), or from another member; either way they go into the
node's partial copy, and from there on to whoever asks. Which of them it is, the coordinator decides.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stager import versions
from stager.errors import ConverterMissing, DigestMismatch, OriginUnavailable
from stager.freshness import Freshness
from stager.head import Head
from stager.reference import Digest
from stager.store.trouble import storage_errors

if TYPE_CHECKING:
    from stager.interfaces import Message, Peers, Upstream
    from stager.offering import Offering
    from stager.orders import Orders
    from stager.store.images import StagedImage
    from stager.task import Task

REFUSALS = 5
"""So often in a row is a node asked again that says it has nothing of the image, before that is told."""

SILENT_SECONDS = 1.0
"""Without a byte that should come: told at once, since among a thousand nodes the next report may be seconds away."""

OWN_FAULT = "try again; if it happens twice, suspect this node's disk or memory: the bytes were right when they came"


@dataclass(slots=True)
class Load:
    """See the module. `wake` is set when there is something to tell the coordinator at once."""

    task: Task
    offering: Offering
    wake: threading.Event = field(default_factory=threading.Event)
    image: StagedImage | None = None
    """The image, if it was here all the time, or lies where all nodes can open it."""
    version: Message | None = None
    """What the others say of the image's version."""
    final: tuple[str, str] | None = None
    """The image's digest and root, of the present generation."""
    confirmed: float = 0.0
    """When, by time.monotonic(), a coordinator beyond doubt last said that this node is the head."""
    complete: bool = False
    head: Head | None = None
    _upstream: Upstream | None = None
    _upstream_name: str | None = None
    _refusals: int = 0
    _refused_at: int = -1
    _furthest: int = 0
    _asking: Freshness | None = None
    _served: bool = False
    _doing: tuple[str, int, int] | None = None

    @property
    def peers(self) -> Peers:
        """The other members."""
        return self.offering.peers

    @property
    def offset(self) -> int:
        """Bytes from the start on that others can have, or that lie where they will have them."""
        if self.task.shared is not None and self.head is not None:
            return self.task.copy.position
        return self.offering.verified

    @property
    def progress(self) -> tuple[int, int]:
        """Return bytes done and in all (0: unknown), of the phase, as this node's tasks see it."""
        if self.doing is not None:
            return self.doing[1:]
        size = self.version.get("size") if self.version else None
        return max(self.offset, self._furthest if self.task.shared else 0), size or self.task.copy.size or 0

    @property
    def doing(self) -> tuple[str, int, int] | None:
        """What the head does before the first byte of the image, here or elsewhere: phase, done and in all."""
        if self.image is not None or self.complete or self.offset:
            return None
        return self.head.doing if self.head is not None else self._doing

    @property
    def phase(self) -> str:
        """What is being done, in a word."""
        if self.doing is not None:
            return self.doing[0]
        return "relaying" if self.head is None and self._upstream is not None else "pulling"

    @property
    def feeds_others(self) -> bool:
        """Whether another node gets bytes from here now."""
        return self.peers.downstream > 0

    @property
    def serves(self) -> bool:
        """Whether others may come for the bytes: not where the image was here all the time, and is elsewhere too."""
        return self.task.shared is None and (self.image is None or self.head is not None)

    @property
    def busy(self) -> bool:
        """Whether bytes are to come from somebody."""
        return self._upstream is not None or self.fetches_from_origin

    @property
    def moving(self) -> bool:
        """Whether bytes come even now; those of the origin have bounds of their own."""
        upstream = self._upstream
        return self.fetches_from_origin or (upstream is not None and not upstream.lost and upstream.silence < 1.0)

    @property
    def has_news(self) -> bool:
        """Whether something happened that the coordinator should know at once."""
        upstream = self._upstream
        if upstream is None:
            return False
        return bool(self._lost) or upstream.error is not None or upstream.silence > SILENT_SECONDS

    @property
    def fetches_from_origin(self) -> bool:
        """Whether this node is the head, and not done with it."""
        return self.head is not None and not self.head.ended

    @property
    def _lost(self) -> str:
        # A node that does not know the image yet, or has gone on to the next generation, is asked again; not for ever.
        lost = self._upstream.lost if self._upstream is not None else ""
        return "" if lost == "ended" and self._refusals < REFUSALS else lost

    def introduction(self) -> Message:
        """Return what the coordinator is to know when we join."""
        known = self.offering.holding is not None
        return {
            "address": self.peers.address,
            "offset": self.offset,
            "generation": self.offering.generation if known else None,
            "version": self._own_version() if known else None,
            "upstream": self._upstream_name,
            "digest": self.final[0] if self.final else None,
            "root": (self.final[1] or None) if self.final else None,
            "expects": self.task.expects.hex if self.task.expects else None,
        }

    def _own_version(self) -> Message | None:
        if self.image is None:
            return versions.of_copy(self.task.copy)
        return self.head.report().get("version") if self.head is not None else None

    def report(self) -> Message:
        """Return how far we are."""
        message: Message = {
            "generation": self.offering.generation,
            "offset": self.offset,
            "silence": self._upstream.silence if self._upstream else 0.0,
            "upstream": self._upstream_name,
            "lost": self._lost or None,
            "downstream": self.peers.downstream,
            "fresh": self._asking.fresh if self._asking else None,
        }
        return {**message, **self.head.report()} if self.head else message

    def follow(self, orders: Orders) -> None:
        """Do what the coordinator says. Raises StageImageError."""
        with storage_errors(self.task.copy.folder):
            self._raise_what_went_wrong()
            self._furthest, self._doing = orders.furthest, orders.doing
            self.version = orders.version or self.version
            if self.offering.holding is None:
                self.offering.generation = orders.generation
            self._take_in_the_end(orders)
            if self.image is None and not self.complete:
                self._get(orders)
                self._check(orders)
            if self.image is not None and self.serves and not self._served:
                self._served = True
                self.offering.offer_image(self.image, self.task.copy.folder, orders.generation)

    def renew(self) -> None:
        """The staging's secret is another one now: what came is offered again as far as new records say it is right.

        The head vouches for it once more. For nodes that have not all yet; those that have leave such a staging.
        """
        if self.offering.holding is not None:
            with storage_errors(self.task.copy.folder):
                self._stop_pulling()
                copy = self.task.copy
                self.offering.offer(copy, self.offering.generation)
                if self.head is not None:
                    self.offering.vouch(lambda: copy.position)
                    if self.head.has_all:
                        self.offering.finish()

    def forget(self) -> None:
        """Be ready for another staging than the one that was joined, and from which nothing came."""
        self._asking = None

    def halt(self) -> None:
        """End all transfers; what is here stays here, and is not served any more once the peers are closed."""
        self._stop_pulling()
        if self.head is not None:
            self.head.stop()
        self.offering.stop_vouching()

    def _raise_what_went_wrong(self) -> None:
        error = self._upstream.error if self._upstream is not None else None
        if error is not None or self.offering.error is not None:
            raise error or self.offering.error or OSError()
        if self._asking is not None and self._asking.error is not None:
            raise self._asking.error
        # Once the coordinator knows why our download failed, another node may try, unless the reason is our disk.
        if self.head is not None and self.head.told and self.head.error is not None:
            if not isinstance(self.head.error, (OriginUnavailable, ConverterMissing)):
                raise self.head.error
            self._be_no_head_any_more()

    def _take_in_the_end(self, orders: Orders) -> None:
        if orders.generation == self.offering.generation or self.offering.holding is None:
            self.final = (orders.digest, orders.root or "") if orders.digest else None
        if self.final is None or self.image is not None or self.complete:
            return
        if self.head is None or self.head.found is None:
            self.image = self.task.lookup(Digest(f"sha256:{self.final[0]}"))
        if self.image is not None:
            self.complete = True
            self._stop_pulling()

    def _get(self, orders: Orders) -> None:
        if orders.kind == "check" and self._asking is None:
            self._asking = Freshness(self.task, orders.asked, self.wake)
            self._asking.start()
        elif orders.kind == "origin":
            self._lead(orders.generation)
        elif orders.kind == "node" and self.head is not None and not self.head.has_all:
            self._be_no_head_any_more()
        if self.task.shared is not None:
            return
        if self.head is not None:
            self._keep_up_with(orders.generation)
        elif orders.version is not None:
            self._prepare(orders.generation, orders.version)
        if orders.kind == "node" and self.offering.holding is not None and self.head is None:
            self._pull(orders.node, orders.address)
        elif orders.kind == "wait":
            self._stop_pulling()

    def _keep_up_with(self, generation: int) -> None:
        """Offer what comes from the origin as the generation that the coordinator has made of it."""
        if self.head is not None and self.offering.holding is not None and generation > self.offering.generation:
            copy = self.task.copy
            self.offering.offer(copy, generation)
            self.offering.vouch(lambda: copy.position)
            if self.head.has_all:
                self.offering.finish()

    def _be_no_head_any_more(self) -> None:
        """Another node asks the origin now. What came from there and is not vouched for yet, its records will be."""
        if self.head is not None:
            self.head.stop()
            self.head = None
            self._upstream_name = None
        self.offering.stop_vouching()
        if self.offering.holding is not None and self.task.copy.segments:
            self.task.copy.keep_beginning()
            self.offering.holding.own = self.task.copy.position

    def _prepare(self, generation: int, version: Message) -> None:
        """Make the copy one of this version, keeping what it holds of it."""
        copy, wanted = self.task.copy, versions.validators_of(version)
        holding = self.offering.holding
        here = holding is not None and generation == self.offering.generation and versions.same(copy, wanted)
        if here and holding is not None:
            if copy.size is None and wanted.size is not None:
                copy.settle_size(wanted.size)
                holding.size = wanted.size
            return
        self._stop_pulling()
        if copy.segments and wanted and versions.same(copy, wanted):
            copy.keep_beginning()
        else:
            copy.begin(wanted, wanted.size, str(version["origin"]), private=bool(version["private"]))
        if copy.size is not None:
            self.task.download(copy).room(copy.size - copy.held)
        self.offering.offer(copy, generation)

    def _pull(self, name: str, address: str) -> None:
        holding = self.offering.holding
        if holding is None or holding.complete:
            return
        same = self._upstream is not None and self._upstream_name == name
        if same and self._upstream is not None and not self._upstream.lost:
            return
        still = same and holding.verified == self._refused_at
        self._refusals, self._refused_at = self._refusals + 1 if still else 0, holding.verified
        self._stop_pulling()
        self._upstream_name = name
        self._upstream = self.peers.pull(address, holding, self._advance)
        self._upstream.start()

    def _advance(self, verified: int) -> None:
        self.task.copy.advance(verified)
        if self.task.copy.size == verified:
            self.wake.set()

    def _stop_pulling(self) -> None:
        if self._upstream is not None:
            self._upstream.stop()
            self._upstream = None
        if self.head is None:
            self._upstream_name = None

    def _lead(self, generation: int) -> None:
        if self.head is None:
            self._stop_pulling()
            self._upstream_name = "origin"
            self.head = Head(self, generation)
            self.head.start()

    def _check(self, orders: Orders) -> None:
        head = self.head
        if head is not None and head.kept:
            self.image = head.image
            self.complete = True
        elif self.final is not None and self.final[1] and self.offering.whole:
            self._check_root(*self.final, doubted=orders.doubted)

    def _check_root(self, digest: str, root: str, *, doubted: bool) -> None:
        copy = self.task.copy
        self._stop_pulling()
        if self.offering.root() != root:
            raise DigestMismatch(
                "the bytes that came from other nodes are not those of the node that asked the origin", hint=OWN_FAULT
            )
        copy.finish()
        # Another node got bytes from here that were not what they had been when they were verified.
        if doubted and copy.reread().hex != digest:
            raise DigestMismatch("bytes have changed on this node's disk since they were verified", hint=OWN_FAULT)
        copy.vouch(Digest(f"sha256:{digest}"))
        self.complete = True
