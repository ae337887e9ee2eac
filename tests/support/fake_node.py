"""A node whose processes live, die and reboot inside the test's own process, and stage into a real store."""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Self

from stager import download, leading, process, waiting
from stager.clock import SystemClock
from stager.download import Download
from stager.election.file_lock import FileLockElection
from stager.images import recognise
from stager.lease import Lease
from stager.reference import Digest, parse
from stager.retry import RetryPolicy
from stager.stage import Policy, Staging
from stager.store import folder, images
from tests.support.fake_clock import FakeClock
from tests.support.image_factory import minimal_squashfs
from tests.support.scripted_source import ScriptedSource, Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from stager.interfaces import Election, Source, Teller
    from stager.layout import Layout
    from stager.process import ProcessIdentity
    from stager.store.images import StagedImage
    from stager.store.partial import Partial

POINTS = ("locked", "fetching", "fetched", "verified", "synced", "published", "seen", "pinned", "leased")
"""Where a staging may die, in order."""


class Death(BaseException):
    """A process was killed. Not an Exception: nothing may swallow it."""


class Processes:
    """Identities that live until they are killed; `current` is the one that the calling thread plays."""

    def __init__(self) -> None:
        self.boot = "b0000000"
        self.living: set[ProcessIdentity] = set()
        self._started = 1000
        self._mine = threading.local()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Take the place of /proc until `patch` is undone."""
        patch.setattr(process, "current", self.current)
        patch.setattr(leading, "current", self.current)
        patch.setattr(process.ProcessIdentity, "alive", property(lambda identity: identity in self.living))
        patch.setattr(process, "_boot", self.boot)

    def current(self) -> ProcessIdentity:
        identity: ProcessIdentity | None = getattr(self._mine, "identity", None)
        if identity is None:
            identity = self._mine.identity = self.start()
        return identity

    def start(self) -> ProcessIdentity:
        """Return a new living process, which no thread plays yet."""
        self._started += 1
        identity = process.ProcessIdentity(self._started, self._started * 7, self.boot)
        self.living.add(identity)
        return identity

    @contextmanager
    def playing(self, identity: ProcessIdentity) -> Iterator[None]:
        """Let the calling thread be another process for a while."""
        before = getattr(self._mine, "identity", None)
        self._mine.identity = identity
        try:
            yield
        finally:
            self._mine.identity = before

    @contextmanager
    def victim(self) -> Iterator[ProcessIdentity]:
        """Let the calling thread be a new process, which is dead afterwards, however it ends."""
        identity = self.start()
        try:
            with self.playing(identity):
                yield identity
        finally:
            self.kill(identity)

    def kill(self, identity: ProcessIdentity) -> None:
        self.living.discard(identity)

    def reboot(self, patch: pytest.MonkeyPatch) -> None:
        """Everybody is dead, and what follows is another boot."""
        self.living.clear()
        self._mine = threading.local()
        self.boot = f"b{int(self.boot[1:]) + 1:07}"
        patch.setattr(process, "_boot", self.boot)


class Kill:
    """A trace that kills at a point: the store goes out of reach for the rest of the context.

    So it is for a process after SIGKILL: what the interpreter does on the way out (context managers, finally) touches
    nothing that others see. The context swallows what comes of it.
    """

    def __init__(self, root: str, point: str) -> None:
        self.point = point
        self.happened = False
        self._root = root

    def __call__(self, point: str) -> None:
        if point == self.point and not self.happened:
            self.happened = True
            os.rename(self._root, f"{self._root}.beyond")
            raise Death(point)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Put the store back as the dead left it; whatever the dead still had to say is not heard."""
        if self.happened:
            shutil.rmtree(self._root, ignore_errors=True)
            os.rename(f"{self._root}.beyond", self._root)
        return self.happened


def ticking(clock: FakeClock) -> Callable[[], float]:
    """Return what may take the place of `clock.now`: each look takes a moment."""
    look = clock.now

    def now() -> float:
        clock.advance(0.001)
        return look()

    return now


class SilentTeller:
    """Fulfils `stager.interfaces.Teller`; `said` and `waited_for` are what came in."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.waited_for: list[int] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def waiting(self, pid: int, since: float) -> None:
        self.waited_for.append(pid)

    def progress(self, phase: str, done: int, total: int) -> None:
        """Nobody looks."""

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class FakeNode:
    """A store, a clock and processes; `stage` is what a task does. Make it by `fake_node`."""

    layout: Layout
    processes: Processes
    clock: FakeClock = field(default_factory=FakeClock)
    real_time: bool = False
    tell: SilentTeller = field(default_factory=SilentTeller)
    locks: bool = True

    @property
    def election(self) -> FileLockElection:
        return FileLockElection(self.layout.lock, locks=self.locks)

    def staging(
        self,
        source: Source,
        *,
        url: str = "https://origin/x.sqsh",
        scope: str = "job-1",
        holder: ProcessIdentity | None = None,
        policy: Policy | None = None,
        trace: Callable[[str], None] = lambda _point: None,
        election: Election | None = None,
        before_release: Callable[[StagedImage], None] = lambda _image: None,
        room: Callable[[int], None] = lambda _size: None,
        tiers: tuple[Layout, ...] = (),
    ) -> Staging:
        """Return a task's wish; `trace` is also told of "fetching", `room` of sizes, as the command line does it."""
        reference = parse(url)
        clock = SystemClock() if self.real_time else self.clock

        def begin(copy: Partial, _tell: Teller) -> Download:
            return Download(
                source=source,
                partial=copy,
                policy=RetryPolicy(deadline=20, attempts=5),
                clock=clock,
                room=room,
                look=lambda _copy: trace("fetching"),
                pinned=reference.digest is not None,
            )

        return Staging(
            layout=self.layout,
            reference=reference,
            lease=Lease(scope, holder or self.processes.current()),
            session=scope.startswith("session-"),
            policy=policy or Policy(),
            clock=clock,
            election=election or self.election,
            download=begin,
            recognise=recognise,
            tell=self.tell,
            tiers=tiers,
            before_release=before_release,
            trace=trace,
        )

    def dies_at(
        self,
        point: str,
        source: Source,
        *,
        url: str = "https://origin/x.sqsh",
        scope: str = "job-1",
        policy: Policy | None = None,
    ) -> bool:
        """Let a new process stage and be killed at `point`; tell whether it got there."""
        with Kill(self.layout.root, point) as kill, self.processes.victim():
            self.staging(source, url=url, scope=scope, policy=policy, trace=kill).run()
        return kill.happened


@contextmanager
def fake_node(root: str, patch: pytest.MonkeyPatch, *, real_time: bool = False) -> Iterator[FakeNode]:
    """Yield a node with an empty store at `root`, whose disk is quick.

    Time passes by sleeping and hearts do not beat, unless in `real_time`, which threads need.
    """
    node = FakeNode(folder.open_store(root), Processes(), real_time=real_time)
    node.processes.install(patch)
    patch.setattr(os, "fsync", lambda _fd: None)
    patch.setattr(os, "fdatasync", lambda _fd: None)
    patch.setattr(download, "LOOK_BYTES", 16)
    if not real_time:
        patch.setattr(leading, "BEAT_SECONDS", 3600.0)
        # A follower that polls a FIFO waits in real time; without one it sleeps by the clock.
        patch.setattr(waiting.Wake, "listen", lambda _wake: None)
    yield node


def version(number: int, size: int = 0) -> Version:
    """Return the content of an origin, a squashfs that the number tells from others, with an ETag of its own."""
    payload = f"version {number} ".encode().ljust(max(size, 16), b".")
    return Version(minimal_squashfs(payload), etag=f'"{number}"')


def digest_of(found: Version) -> Digest:
    return Digest(sha256(found.content).hexdigest())


def origin(number: int = 1) -> ScriptedSource:
    """Return a healthy origin of `version(number)` that sends in small pieces."""
    return ScriptedSource(version(number), piece=32)


def bad_images(layout: Layout) -> list[str]:
    """Return the published images, as lookups give them, whose bytes are not those that their names promise."""
    found = (images.lookup(layout, digest) for digest in images.digests(layout))
    return [image.path for image in found if image is not None and _hash(image.path) != image.digest.hex]


def _hash(path: str) -> str:
    with open(path, "rb") as file:
        return sha256(file.read()).hexdigest()
