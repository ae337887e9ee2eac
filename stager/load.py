"""The bytes of one node in a staging of the cluster: where they come from now, how many are here, what they are.

Bytes come from the origin (`Head`: this node is the head), or from another member; either way they go into the
node's partial copy, and from there on to whoever asks. Which of them it is, the coordinator decides.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stager import versions
from stager.errors import DigestMismatch, OriginUnavailable
from stager.freshness import Freshness
from stager.head import Head
from stager.reference import Digest
from stager.store.trouble import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.download import Download
    from stager.interfaces import Hashing, Holding, ImageInfo, Message, Peers, Upstream, Validators
    from stager.shared import SharedStore
    from stager.store.images import StagedImage
    from stager.store.partial import Partial


@dataclass(slots=True)
class Task:
    """What one node wants to hold in the end, and what it may use for it.

    `download` makes a download from the origin; `unless`: the version of `held`, which need not come again if the
    origin still has it; `pin`: the only digest that will do, by the reference, `expects`: by the job, too; `offline`:
    whether an image will do about which the origin cannot be asked; `settle` pins the job, on all nodes, and returns
    what it is pinned to; `lookup` finds an image that is staged here. `shared`: where the head puts the image for all,
    instead of passing it on.
    """

    copy: Partial
    download: Callable[[Partial], Download]
    recognise: Callable[[int, int], ImageInfo]
    settle: Callable[[Digest], Digest]
    lookup: Callable[[Digest], StagedImage | None]
    unless: Validators | None = None
    held: StagedImage | None = None
    pin: Digest | None = None
    expects: Digest | None = None
    shared: SharedStore | None = None
    offline: bool = True


@dataclass(slots=True)
class Load:
    """See the module.

    `sealed`: strangers cannot read the staging's secret, so that private images may be relayed. `wake` is set when
    there is something to tell the coordinator at once.
    """

    task: Task
    peers: Peers
    sealed: bool = True
    wake: threading.Event = field(default_factory=threading.Event)
    image: StagedImage | None = None
    """The image, if it was here all the time."""
    version: Validators | None = None
    """What the others say of the image's version."""
    complete: bool = False
    _generation: int = 0
    _holding: Holding | None = None
    _upstream: Upstream | None = None
    _upstream_name: str | None = None
    _origin: Head | None = None
    _hashing: Hashing | None = None
    _final: tuple[str, str] | None = None
    _labelled: Message = field(default_factory=dict)
    _served: int = -1
    _asking: Freshness | None = None

    @property
    def offset(self) -> int:
        """Verified bytes from the start on."""
        return self._holding.verified if self._holding else 0

    @property
    def feeds_others(self) -> bool:
        """Whether another node gets bytes from here now."""
        return self.peers.downstream > 0

    @property
    def whole(self) -> bool:
        """Whether all bytes can be served."""
        return self._holding is not None and self._holding.complete

    @property
    def serves(self) -> bool:
        """Whether others may come for the bytes: not where the image was here all the time, and is elsewhere too."""
        return self.task.shared is None and (self.image is None or self._origin is not None)

    @property
    def busy(self) -> bool:
        """Whether bytes are to come from somebody."""
        return self._upstream is not None or self._origin is not None

    @property
    def moving(self) -> bool:
        """Whether bytes come even now."""
        return self._upstream is not None and not self._upstream.lost and self._upstream.silence < 1.0

    @property
    def has_news(self) -> bool:
        """Whether something happened that the coordinator should know at once."""
        return bool(self._lost) or (self._upstream is not None and self._upstream.error is not None)

    @property
    def _lost(self) -> str:
        # A node that does not know the image yet, or has gone on to the next generation, is asked again.
        lost = self._upstream.lost if self._upstream is not None else ""
        return "" if lost == "ended" else lost

    @property
    def fetches_from_origin(self) -> bool:
        """Whether this node is the head."""
        return self._origin is not None and not self._origin.ended

    def introduction(self) -> Message:
        """Return what the coordinator is to know when we join."""
        known = self._holding is not None
        return {
            "address": self.peers.address,
            "offset": self.offset,
            "generation": self._generation if known else None,
            "version": versions.of_copy(self.task.copy) if known else None,
            "upstream": self._upstream_name,
            "digest": self._final[0] if self._final else None,
            "root": (self._final[1] or None) if self._final else None,
            "expects": self.task.expects.hex if self.task.expects else None,
        }

    def report(self) -> Message:
        """Return how far we are."""
        message: Message = {
            "generation": self._generation,
            "offset": self.offset,
            "silence": self._upstream.silence if self._upstream else 0.0,
            "upstream": self._upstream_name,
            "lost": self._lost or None,
            "downstream": self.peers.downstream,
            "fresh": self._asking.fresh if self._asking else None,
        }
        return {**message, **self._origin.report(self)} if self._origin else message

    def follow(self, answer: Message) -> None:
        """Do what the coordinator says. Raises StageImageError."""
        if self._holding is None:
            self._generation = int(answer.get("generation") or 1)
        if self._upstream is not None and self._upstream.error is not None:
            with storage_errors(self.task.copy.folder):
                raise self._upstream.error
        generation, version = int(answer.get("generation") or 0), answer.get("version")
        self.version = versions.validators_of(version) if isinstance(version, dict) else self.version
        if answer.get("digest"):
            self._final = (str(answer["digest"]), str(answer.get("root") or ""))
            self._recall(Digest(f"sha256:{self._final[0]}"))
        self._part_from_failed_head()
        if self._asking is not None and self._asking.error is not None:
            raise self._asking.error
        if self.image is None and not self.complete:
            upstream = answer.get("upstream") or {}
            self._get(upstream, generation, version if isinstance(version, dict) else None)
            self._check()
        if self.image is not None and self.serves and self._origin is not None:
            self._serve_image(generation)

    def forget(self) -> None:
        """Be ready for another staging than the one that was joined, and from which nothing came."""
        self._asking = None

    def halt(self) -> None:
        """End all transfers; what is here stays here, and is not served any more once the peers are closed."""
        self._stop_pulling()
        if self._origin is not None:
            self._origin.stop()
        if self._hashing is not None:
            self._hashing.stop()

    def label(self, generation: int) -> None:
        """Offer the copy's file, whatever it holds now, as this generation's."""
        if self.task.shared is not None:
            return
        if self._hashing is not None:
            self._hashing.stop()
        copy = self.task.copy
        self._generation, self._labelled = generation, versions.of_copy(copy)
        self._holding = self.peers.hold(copy.fileno(), copy.folder, generation, size=copy.size, own=copy.position)

    def begin_anew(self) -> None:
        """The origin sends another version than the copy held, or the first one.

        What others know by this generation is not what they would get now. The coordinator makes it the next one as
        soon as it is told of the version.
        """
        generation = max(self._generation, 1)
        version = versions.of_copy(self.task.copy)
        same = version == self._labelled and bool(versions.validators_of(version))
        self.label(generation if self._holding is None or same else generation + 1)
        self._generation = generation
        self.hash_own()
        self.wake.set()

    def hash_own(self) -> None:
        """Vouch for what comes from the origin."""
        copy = self.task.copy
        if self._holding is not None:
            self._hashing = self.peers.hash(self._holding, lambda: copy.position)

    def finish_hashing(self) -> None:
        """The origin has sent all there is."""
        if self._hashing is not None:
            self._hashing.finish()

    def root(self) -> str | None:
        """Return what binds all bytes, when all are verified."""
        return self._holding.root() if self._holding is not None and self._holding.complete else None

    def _get(self, upstream: Message, generation: int, version: Message | None) -> None:
        kind = upstream.get("kind")
        if kind == "check" and self._asking is None:
            self._asking = Freshness(self.task, upstream.get("version") or {}, self.wake)
            self._asking.start()
        if kind == "origin":
            self._lead(generation)
        elif kind == "node" and self._origin is not None and not self._origin.has_all:
            self._be_no_head_any_more()
        if self._origin is not None and generation != self._generation:
            self.label(generation)
            self.hash_own()
            if self._origin.has_all:
                self.finish_hashing()
        elif self._origin is None and version is not None and self.task.shared is None:
            self._prepare(generation, version)
        if kind == "node" and self._holding is not None:
            self._pull(str(upstream.get("node")), str(upstream.get("address")))
        elif kind == "wait":
            self._stop_pulling()

    def _be_no_head_any_more(self) -> None:
        """Another node asks the origin now. What came from there and is not vouched for yet, its records will be."""
        if self._origin is not None:
            self._origin.stop()
            self._origin = None
            self._upstream_name = None
        if self._hashing is not None:
            self._hashing.stop()
            self._hashing = None
        if self._holding is not None and self.task.copy.segments:
            self.task.copy.keep_beginning()
            self._holding.own = self.task.copy.position

    def _part_from_failed_head(self) -> None:
        """Once the coordinator knows why our download failed: another node may try, unless the reason is ours."""
        origin = self._origin
        if origin is not None and origin.told and origin.error is not None:
            if not isinstance(origin.error, OriginUnavailable):
                raise origin.error
            self._be_no_head_any_more()

    def _prepare(self, generation: int, version: Message) -> None:
        """Make the copy one of this version, keeping what it holds of it."""
        copy, wanted = self.task.copy, versions.validators_of(version)
        if self._holding is not None and generation == self._generation:
            if copy.size is None and wanted.size is not None:
                copy.settle_size(wanted.size)
                self._holding.size = wanted.size
            return
        self._stop_pulling()
        with storage_errors(copy.folder):
            if copy.segments and wanted and versions.same(copy, wanted):
                copy.keep_beginning()
            else:
                copy.begin(wanted, wanted.size, str(version.get("origin", "")), private=bool(version.get("private")))
            if copy.size is not None:
                self.task.download(copy).room(copy.size - copy.held)
            self.label(generation)

    def _pull(self, name: str, address: str) -> None:
        holding = self._holding
        if holding is None or holding.complete:
            return
        if self._upstream is not None and self._upstream_name == name and not self._upstream.lost:
            return
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
        self._upstream_name = None

    def _lead(self, generation: int) -> None:
        if self._origin is None:
            self._stop_pulling()
            self._upstream_name = "origin"
            self._origin = Head(self, generation)
            self._origin.start()

    def _check(self) -> None:
        origin = self._origin
        if origin is not None and origin.kept:
            self.image = origin.image
            self.complete = True
        elif self._final is not None and self._final[1] and self._holding is not None and self._holding.complete:
            self._check_root(*self._final)

    def _check_root(self, digest: str, root: str) -> None:
        if self.root() == root:
            copy = self.task.copy
            self._stop_pulling()
            copy.finish()
            copy.vouch(Digest(f"sha256:{digest}"))
            self.complete = True
            return
        raise DigestMismatch("the bytes that came from other nodes are not those of the node that asked the origin")

    def _recall(self, digest: Digest) -> None:
        if self.image is None and not self.complete and (self._origin is None or self._origin.found is None):
            self.image = self.task.lookup(digest)
            if self.image is not None:
                self.complete = True
                self._stop_pulling()

    def _serve_image(self, generation: int) -> None:
        """Offer the staged image to those who lack it; hashing it once more is for their sake only."""
        image = self.image
        if image is None or self._served == generation:
            return
        self._served = generation
        with suppress(OSError), open(image.path, "rb") as file:
            folder = self.task.copy.folder
            self._holding = self.peers.hold(file.fileno(), folder, generation, size=image.size, own=0)
            self._generation = generation
            self._hashing = self.peers.hash(self._holding, lambda: image.size)
            self._hashing.finish()
