"""Several nodes of one staging in this process: real members, coordinators, copies; a made-up network and ZooKeeper.

Nothing goes on by itself but a head's download, and that only from one turn of the origin to the next: what happens,
and in which order, is the test's choice.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Self

from stager import head as head_module
from stager import seat as seat_module
from stager.coordinator import Coordinator
from stager.download import Download
from stager.errors import ClusterUnavailable, OriginUnavailable, StageImageError
from stager.images import recognise
from stager.interfaces import ImageInfo, Partition, PeerLost
from stager.load import Load
from stager.member import Member
from stager.offering import Offering
from stager.reference import Digest
from stager.relay.secret import Secret
from stager.retry import RetryPolicy
from stager.seat import Seat
from stager.store.images import StagedImage
from stager.store.partial import Partial
from stager.task import Task
from tests.support.fake_clock import FakeClock
from tests.support.fake_peers import FakePeers, Network
from tests.support.fake_rendezvous import FakeRendezvous, Town
from tests.support.scripted_source import TRUE_SIZE, Fault, ScriptedSource, ScriptedStream, Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

    from stager.interfaces import Message, Validators

PATIENCE = 20.0
"""Real seconds: a bound for a hanging test."""


class Turnstile:
    """Where the threads of downloads wait before each piece, until the test lets them on."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: set[threading.Thread] = set()
        self._open = False

    def wait(self, over: threading.Event) -> None:
        """Return when it is our turn, or it is over."""
        me = threading.current_thread()
        with self._changed:
            self._waiting.add(me)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open or over.is_set() or me not in self._waiting, PATIENCE)
            self._waiting.discard(me)

    def turn(self) -> None:
        """Let each of those who wait have one piece."""
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()

    def open(self) -> None:
        """Hold nobody back any more."""
        self._open = True
        self.call()

    def call(self) -> None:
        """Have everybody look again whether it is over."""
        with self._changed:
            self._changed.notify_all()

    def settle(self, thread: threading.Thread) -> None:
        """Return when a thread waits here, or has ended."""
        until = time.monotonic() + PATIENCE
        with self._changed:
            while thread.is_alive() and not (thread in self._waiting or self._open):
                self._changed.wait(0.001)
                if time.monotonic() > until:
                    raise TimeoutError(f"{thread.name} neither waits nor ends")


class SteppedSource(ScriptedSource):
    """A scripted origin that sends a piece at each turn; `broken` counts how often all its streams were broken off."""

    turnstile: Turnstile
    broken = 0

    def script(self, *errors: StageImageError, size: int = TRUE_SIZE) -> None:
        """Refuse the next requests with these, and say another size from then on."""
        self._script = iter([Fault(refuse=lambda error=error: error) for error in errors])  # type: ignore[misc]
        self._then = Fault(size=size)

    def open(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        if_range: Validators | None = None,
        unless: Validators | None = None,
    ) -> ScriptedStream | None:
        stream = super().open(start, end, if_range=if_range, unless=unless)
        return None if stream is None else _Stepped(stream, self)  # type: ignore[return-value]


class _Stepped:
    def __init__(self, stream: ScriptedStream, source: SteppedSource) -> None:
        self._stream = stream
        self._source = source
        self._broken = source.broken
        self._over = threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def chunks(self) -> Iterator[bytes]:
        for chunk in self._stream.chunks():
            self._source.turnstile.wait(self._over)
            if self._source.broken > self._broken:
                raise OriginUnavailable("the origin broke off")
            yield chunk

    def close(self) -> None:
        self._stream.close()
        self._over.set()
        self._source.turnstile.call()


@dataclass(eq=False, kw_only=True)
class Node:
    """One node's member and what it is made of; `digest` or `error` is how it ended."""

    name: str
    copy: Partial
    peers: FakePeers
    rendezvous: FakeRendezvous
    seat: Seat
    load: Load
    member: Member
    digest: str = ""
    image: StagedImage | None = None
    error: StageImageError | None = None
    gone: bool = False
    said: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether it has an outcome, or is gone."""
        return self.gone or bool(self.digest) or self.error is not None

    def step(self) -> None:
        """Let the member talk once with its coordinator, as its thread would, and publish what is complete."""
        member = self.member
        if self.gone or self.peers.stopped or self.error is not None or member.dismissed:
            return
        if self.seat.taken:
            with suppress(ClusterUnavailable):
                self.seat._keep_claims()
        try:
            member._step()
        except StageImageError as error:
            self.error = error
            self.leave()
            return
        if member._settled.is_set() and not self.digest:
            self.digest = self._publish()
            member.state = "done"

    def leave(self) -> None:
        """End in good order, as a member's thread and its process do."""
        self.load.halt()
        with suppress(PeerLost, ClusterUnavailable):
            self.seat.ask("leave", {"node": self.name})
        with suppress(ClusterUnavailable):
            self.seat.leave()
        self.die()
        self.rendezvous.close()

    def die(self) -> None:
        """End as by SIGKILL: whoever is connected sees it, ZooKeeper does not yet."""
        self.gone = True
        self.seat._end.set()
        self.load.halt()
        self.peers.close()
        self.copy.close()

    def _publish(self) -> str:
        """As stager/fetch.py: what is published has a place of its own, and the copy is let go of."""
        if self.load.image is not None:
            self.image = self.load.image
            return str(self.image.digest)
        digest, size = self.copy.digest(), self.copy.size or 0
        path = f"{self.copy.folder}.image"
        os.link(self.copy.path, path)
        with open(path, "rb") as file:
            found = sha256(file.read()).hexdigest()
        assert digest.hex == found, f"{self.name} publishes what it has not got"
        self.image = staged(path, digest, size, private=self.copy.private)
        self.copy.discard()
        return str(digest)


def staged(path: str, digest: Digest, size: int, *, private: bool = False) -> StagedImage:
    """Return an image that lies at `path`."""
    info = ImageInfo("squashfs", size, "gzip", Partition(0, size, "squashfs"))
    return StagedImage(digest, path, info, "origin", 0.0, 0, 0, private)


class Scene:
    """A staging, as a context manager. `origin` is asked by heads; `source` may give a node another one."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, origin: SteppedSource, *, linger: float = 5.0) -> None:
        patch.setattr(seat_module, "WATCH_SECONDS", 3600.0)
        patch.setattr(head_module, "SILENCE_SECONDS", 3600.0, raising=False)  # of real time, which is none of ours
        self.folder = folder
        self.clock = FakeClock()
        self.town = Town()
        self.network = Network(self.clock)
        self.origin = origin
        self.turnstile = Turnstile()
        origin.turnstile = self.turnstile
        self.linger = linger
        self.nodes: list[Node] = []
        self.stall = 60.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.turnstile.open()
        for node in self.nodes:
            node.die()

    def node(self, *, copy: Partial | None = None, scope: str = "job", sealed: bool = True, **task: object) -> Node:
        """Return another node that wants the image."""
        name = f"n{len(self.nodes)}"
        peers = self.network.join()
        rendezvous = self.town.visitor(peers.address)
        partial = copy or Partial(str(self.folder / f"{name}.{len(self.nodes)}"))

        def settle(digest: Digest) -> Digest:
            return Digest(f"sha256:{rendezvous.set_pin(scope, 'key', digest.hex)}") if scope else digest

        def lookup(digest: Digest) -> StagedImage | None:
            return made.image if made.image is not None and made.image.digest == digest else None

        wish = Task(
            copy=partial,
            download=self.download,
            recognise=self.recognise,
            settle=settle,
            lookup=lookup,
        )
        wish = replace(wish, **task)  # type: ignore[arg-type]
        expects = wish.expects.hex if wish.expects else ""
        seat = Seat(
            places=tuple(dict.fromkeys((place_of(expects), place_of("")))),
            also=place_of,
            rendezvous=rendezvous,
            peers=peers,
            clock=self.clock,
            fresh_secret=lambda: Secret.new().hex,
            appoint=lambda staging: Coordinator(staging, "https://origin/tool.sif", own=name, linger=self.linger),
            about={"host": name},
        )
        load = Load(wish, Offering(peers, sealed))
        who: Message = {"node": name, "host": name, "order": len(self.nodes), "scope": scope, "since": 0.0}
        said: list[str] = []
        member = Member(seat, load, who, clock=self.clock, say=said.append, patience=25.0, stall=self.stall)
        made = Node(
            name=name,
            copy=partial,
            peers=peers,
            rendezvous=rendezvous,
            seat=seat,
            load=load,
            member=member,
            said=said,
        )
        self.nodes.append(made)
        return made

    def download(self, copy: Partial) -> Download:
        return Download(
            source=self.origin,
            partial=copy,
            policy=RetryPolicy(attempts=2, base=0.0, cap=0.0),
            clock=FakeClock(),
        )

    def recognise(self, fd: int, size: int) -> ImageInfo:
        return recognise(fd, size)

    # What happens.

    def step(self) -> None:
        """Let each member talk once, and the origin and each stream move one piece."""
        for node in self.nodes:
            node.step()
            self.settle()
        self.move()
        self.clock.advance(0.1)

    def move(self) -> None:
        """Let the origin send a piece, and every node hash and receive."""
        self.turnstile.turn()
        self.settle()
        self.network.flow()

    def settle(self) -> None:
        """Return when no thread is at work."""
        for thread in threading.enumerate():
            if thread.name in {"origin", "freshness"}:
                self.turnstile.settle(thread)

    def until(self, done: Callable[[], bool], seconds: float = 60.0) -> None:
        """Go on until something is so; that long at most, by the members' clock."""
        end = self.clock.now() + seconds
        while not done():
            assert self.clock.now() < end, f"not within {seconds:g} s: {self.state()}"
            self.step()

    def finish(self, seconds: float = 60.0) -> None:
        """Go on until everybody has an outcome."""
        self.until(lambda: all(node.ended for node in self.nodes), seconds)

    def state(self) -> list[str]:
        """Return how everybody is, for people."""
        return [
            f"{node.name}: {node.digest[:14] or node.error or 'gone' * node.gone or 'waits'} {node.load.offset} "
            f"of {node.copy.size} from {said['upstream']} in generation {said['generation']}"
            for node, said in ((node, node.load.report()) for node in self.nodes)
        ]

    def coordinator(self) -> Coordinator:
        """Return the one there is."""
        (found,) = [node.seat._mine for node in self.nodes if node.seat._mine is not None and not node.gone]
        return found


def place_of(digest: str) -> str:
    """Return what a staging is called, as stager/cli/clustering.py does."""
    return sha256(f"key\n{digest}".encode()).hexdigest()[:32]


def origin(content: bytes, *, etag: str = '"1"', piece: int = 1 << 18, **more: object) -> SteppedSource:
    """Return an origin that has `content`."""
    return SteppedSource(Version(content, etag), piece=piece, **more)  # type: ignore[arg-type]
