"""The promises, held against whatever may happen to a store: deaths, moving origins, two leaders, rot, eviction."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stager import collect, lease
from stager.errors import PinLost
from stager.images import recognise
from stager.lease import Lease
from stager.process import ProcessIdentity
from stager.reference import Digest
from stager.stage import Policy
from stager.store import images, repair, room
from tests.support.effort import effort
from tests.support.fake_mounter import FakeMounter
from tests.support.fake_node import POINTS, FakeNode, bad_images, digest_of, fake_node, version
from tests.support.scripted_source import ScriptedSource

URLS = ("https://origin/a.sqsh", "https://origin/b.sqsh")
RETRY = Policy(retry=True)
"""Failures are believed for the length of one call: what follows one is what is tested here, not the waiting."""

urls = st.sampled_from(URLS)
points = st.sampled_from(POINTS)
jobs = st.sampled_from(["job-1", "job-2", "job-3"])


@dataclass
class Job:
    """A job as its user sees it: what its references meant, and which process stands for it."""

    holder: ProcessIdentity
    means: dict[str, Digest] = field(default_factory=dict)


class Store(RuleBasedStateMachine):
    """Every rule is something that a user, an origin or fate may do; the invariants are the promises."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.folder = tempfile.mkdtemp()
        self.made = fake_node(f"{self.folder}/store", self.patch)
        self.node: FakeNode = self.made.__enter__()
        self.sources: dict[str, ScriptedSource] = {}
        self.jobs: dict[str, Job] = {}
        self.rotten: set[Digest] = set()
        self._lost: set[Digest] = set()
        self.number = 0

    @initialize()
    def origins(self) -> None:
        for url in URLS:
            self.number += 1
            self.sources[url] = ScriptedSource(version(self.number), piece=32)

    def teardown(self) -> None:
        self.made.__exit__(None, None, None)
        self.patch.undo()
        shutil.rmtree(self.folder)

    # What happens

    @rule(url=urls, name=jobs)
    def stage(self, url: str, name: str) -> None:
        self._stage(url, name)

    @rule(url=urls, name=jobs)
    def stage_pinned(self, url: str, name: str) -> None:
        wanted = digest_of(self.sources[url].version)
        image = self._run(f"{url}@{wanted}", name, self.sources[url])
        assert image is not None
        assert image == wanted

    @rule(url=urls, name=jobs, point=points)
    def stage_and_die(self, url: str, name: str, point: str) -> None:
        """A death costs no byte that was there: the next call fetches what was missing, and no more."""
        source, begun = self.sources[url], self.sources[url].served
        self._tick()
        known = images.lookup(self.node.layout, digest_of(source.version)) is not None
        if self._dies(url, name, point) and self._blocked(url, name):
            # What the origin has now may have to be fetched to see that it is another image than the pinned one.
            assert point == "locked" or (not known and point not in ("pinned", "leased"))
        if not self._blocked(url, name):
            self._stage(url, name)
            assert source.served - begun <= len(source.version.content)

    @rule(url=urls, first=jobs, second=jobs, point=points, moves=st.booleans())
    def two_leaders(self, url: str, first: str, second: str, point: str, *, moves: bool) -> None:
        """A leader stops at a point; its successor does all the work; then the first one goes on."""
        if self._blocked(url, first) or self._blocked(url, second):
            return
        again: list[bool] = []

        def overtake(reached: str) -> None:
            if reached != point or again:
                return
            again.append(True)
            if moves:
                self.move(url)
            if not self._blocked(url, second):
                with self.node.processes.playing(self.node.processes.start()):
                    self._stage(url, second)

        self.node.locks = False
        source = self.sources[url]
        self._tick()
        try:
            image = self.node.staging(source, url=url, scope=first, holder=self._job(first).holder, policy=RETRY,
                                      trace=overtake).run()  # fmt: skip
        except PinLost:
            assert self._blocked(url, first), "the pinned image is here, so there is no reason to fail"
        else:
            self._learn(url, first, image.digest)
        finally:
            self.node.locks = True
            self._forget_mended()

    @rule(url=urls)
    def move(self, url: str) -> None:
        self.number += 1
        self.sources[url].version = version(self.number)

    @rule(data=st.data())
    @precondition(lambda self: self._published())
    def rot(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(self._published()))
        path = images.image_files(self.node.layout, digest)[0]
        before = os.stat(path)
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"!")
        os.utime(path, ns=(before.st_mtime_ns + 1, before.st_mtime_ns + 1))
        self.rotten.add(digest)

    @rule(data=st.data())
    @precondition(lambda self: self._published())
    def lose_sidecar(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(self._published()))
        os.unlink(self.node.layout.sidecar(digest))

    @rule()
    def prune(self) -> None:
        for idle in room.evictable(self.node.layout):
            collect.evict(self.node.layout, idle.digest)

    @rule()
    def verify(self) -> None:
        for digest in list(images.digests(self.node.layout)):
            image, found = repair.verify(self.node.layout, digest, recognise)
            assert (image is None) == (digest in self.rotten), found
        self._lost |= self.rotten
        self.rotten.clear()

    @rule(name=jobs)
    def end_job(self, name: str) -> None:
        job = self.jobs.pop(name, None)
        if job is not None:
            self.node.processes.kill(job.holder)
            shutil.rmtree(f"{self.node.layout.root}/pins/{name}", ignore_errors=True)

    @rule(name=jobs)
    def release(self, name: str) -> None:
        for digest in list(images.digests(self.node.layout)):
            lease.release(self.node.layout.leases(digest), name)
        if name in self.jobs:
            self.jobs[name].means.clear()
            shutil.rmtree(f"{self.node.layout.root}/pins/{name}", ignore_errors=True)

    @rule()
    def collect(self) -> None:
        mounter = FakeMounter()
        collect.Collector(self.node.layout, self.node.election, lambda _kind: mounter).run()
        assert self._of_the_dead() == []

    # What holds

    @invariant()
    def published_images_are_whole(self) -> None:
        assert bad_images(self.node.layout) == []

    @invariant()
    def rot_is_seen(self) -> None:
        assert [d for d in self.rotten if images.lookup(self.node.layout, d) is not None] == []

    @invariant()
    def leased_images_stay(self) -> None:
        for digest in self._leased():
            assert images.image_files(self.node.layout, digest) != [], "a leased image is gone"

    # How it is done

    def _stage(self, url: str, name: str) -> None:
        digest = self._run(url, name, self.sources[url])
        if digest is None:
            assert self._blocked(url, name)
        else:
            self._learn(url, name, digest)

    def _run(self, url: str, name: str, source: ScriptedSource) -> Digest | None:
        self._tick()
        try:
            image = self.node.staging(source, url=url, scope=name, holder=self._job(name).holder, policy=RETRY).run()
        except PinLost:
            self._forget_mended()  # by the same look at the origin that showed another image there
            return None
        self._found(image.digest)
        assert images.lookup(self.node.layout, image.digest) is not None
        return image.digest

    def _dies(self, url: str, name: str, point: str) -> bool:
        """Let a task of the job die at `point` of a staging; what it learnt before counts for the job."""
        try:
            happened = self.node.dies_at(point, self.sources[url], url=url, scope=name, policy=RETRY)
        except PinLost:
            happened = False
        self._forget_mended()
        return happened

    def _found(self, digest: Digest) -> None:
        self.rotten.discard(digest)
        self._lost.discard(digest)

    def _forget_mended(self) -> None:
        # A rotten image that had to be read again is in quarantine, and perhaps a whole one in its place.
        self._lost |= {digest for digest in self.rotten if not images.image_files(self.node.layout, digest)}
        self.rotten = {digest for digest in self.rotten if images.lookup(self.node.layout, digest) is None}

    def _learn(self, url: str, name: str, digest: Digest) -> None:
        self._found(digest)
        assert self._job(name).means.setdefault(url, digest) == digest, "one job, two digests"

    def _blocked(self, url: str, name: str) -> bool:
        """Whether the job's pin names an image that is neither here nor at the origin any more."""
        pin = self._pin(url, name)
        gone = pin is not None and pin != digest_of(self.sources[url].version)
        return pin is not None and gone and (images.lookup(self.node.layout, pin) is None or pin in self.rotten)

    def _pin(self, url: str, name: str) -> Digest | None:
        from stager.reference import parse
        from stager.store.memory import read_pin

        return read_pin(self.node.layout.pin(name, parse(url).key), self.node.clock.now())

    def _job(self, name: str) -> Job:
        return self.jobs.setdefault(name, Job(self.node.processes.start()))

    def _tick(self) -> None:
        self.node.clock.advance(1)

    def _published(self) -> list[Digest]:
        found = images.digests(self.node.layout)
        return sorted((d for d in found if images.lookup(self.node.layout, d) is not None), key=str)

    def _leased(self) -> set[Digest]:
        living = {job.holder for job in self.jobs.values()}
        found = (Digest(name) for name in os.listdir(f"{self.node.layout.root}/leases"))
        return {
            digest
            for digest in found
            if digest not in self.rotten | self._lost
            and any(
                (held := Lease.parse(name)) is not None and held.holder in living
                for name in os.listdir(self.node.layout.leases(digest))
            )
        }

    def _of_the_dead(self) -> list[str]:
        """Return what a collection must not leave: leases and unfinished images whose owners are dead."""
        root, left = self.node.layout.root, []
        for folder, _, names in os.walk(f"{root}/leases"):
            left += [f"{folder}/{name}" for name in names if (x := Lease.parse(name)) is None or not x.holder.alive]
        for parent in os.listdir(f"{root}/images/sha256"):
            left += [name for name in os.listdir(f"{root}/images/sha256/{parent}") if name.startswith(".")]
        return left


Store.TestCase.settings = effort(5, steps=14)
TestStore = Store.TestCase
