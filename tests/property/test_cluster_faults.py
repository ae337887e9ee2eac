"""Whatever happens to the nodes of a staging, in whatever order: each ends with the image or an error, all with one."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stager.errors import ClusterUnavailable, DigestMismatch, OriginUnavailable, PinLost
from stager.interfaces import Validators
from stager.relay.wire import CHUNK
from stager.store.partial import Partial
from tests.support.effort import effort
from tests.support.scripted_source import HEALTHY, UNKNOWN_SIZE, Fault, Version
from tests.support.staging_scene import Scene, SteppedSource
from tests.support.tasks import image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.staging_scene import Node

CONTENTS = [image(size, seed=seed) for seed, size in enumerate((5 * CHUNK, 5 * CHUNK, 3 * CHUNK))]
DIGESTS = [f"sha256:{sha256(content).hexdigest()}" for content in CONTENTS]

ORIGINS = [HEALTHY, Fault(ranges=False), Fault(size=UNKNOWN_SIZE, ranges=False), Fault(size=UNKNOWN_SIZE)]

WHO = st.integers(0, 4)
CALM = st.one_of(
    st.tuples(st.just("join"), st.integers(0, 5), st.integers(0, 2)),
    st.tuples(st.just("step"), WHO),
    st.tuples(st.just("round"), st.integers(1, 4)),
    st.tuples(st.just("origin"), st.integers(1, 3)),
    st.tuples(st.just("flow"), st.integers(1, 3)),
)
FAULTS = st.one_of(
    st.tuples(st.just("kill"), WHO),
    st.tuples(st.just("lapse"), WHO),
    st.tuples(st.just("stop"), WHO),
    st.tuples(st.just("go"), WHO),
    st.tuples(st.just("cut"), WHO, WHO),
    st.tuples(st.just("heal")),
    st.tuples(st.just("away"), st.booleans()),
    st.tuples(st.just("change"), st.integers(0, 2)),
    st.tuples(st.just("break")),
    st.tuples(st.just("suspend"), st.sampled_from([2.0, 40.0])),
)
STORIES = st.lists(st.one_of(CALM, CALM, FAULTS), max_size=40)


class Story:
    """A scene in which things happen."""

    def __init__(self, scene: Scene, folder: Path, *, validated: bool) -> None:
        self.scene = scene
        self.folder = folder
        self.validated = validated

    def tell(self, story: Sequence[tuple[object, ...]]) -> None:
        for word, *how in story:
            getattr(self, f"do_{word}")(*how)
        self.end()

    def node(self, which: int) -> Node | None:
        nodes = self.scene.nodes
        return nodes[which % len(nodes)] if nodes else None

    def version(self, which: int) -> Version:
        return Version(CONTENTS[which], f'"{which}"' if self.validated else "")

    def do_join(self, chunks: int, which: int) -> None:
        if len(self.scene.nodes) < 6:
            self.scene.node(copy=self.copy(chunks, which) if chunks else None)

    def copy(self, chunks: int, which: int) -> Partial:
        """Return what an earlier call has left."""
        content = CONTENTS[which]
        copy = Partial(str(self.folder / f"left{len(self.scene.nodes)}"))
        version = self.version(which)
        validators = Validators(version.etag, "", len(content))
        copy.begin(validators, len(content), "fake-origin", private=False)
        copy.write(copy.segments[0], content[: chunks * CHUNK])
        return copy

    def do_step(self, which: int) -> None:
        if (node := self.node(which)) is not None:
            node.step()
            self.scene.settle()

    def do_round(self, count: int) -> None:
        for _ in range(count):
            self.scene.step()

    def do_origin(self, count: int) -> None:
        for _ in range(count):
            self.scene.turnstile.turn()
            self.scene.settle()

    def do_flow(self, chunks: int) -> None:
        self.scene.network.flow(chunks)

    def do_kill(self, which: int) -> None:
        if (node := self.node(which)) is not None:
            node.die()

    def do_lapse(self, which: int) -> None:
        if (node := self.node(which)) is not None:
            node.rendezvous.lapse()

    def do_stop(self, which: int) -> None:
        if (node := self.node(which)) is not None:
            node.peers.stopped = True

    def do_go(self, which: int) -> None:
        if (node := self.node(which)) is not None:
            node.peers.stopped = False

    def do_cut(self, one: int, other: int) -> None:
        first, second = self.node(one), self.node(other)
        if first is not None and second is not None and first is not second:
            self.scene.network.broken.add(frozenset({first.peers.address, second.peers.address}))

    def do_heal(self) -> None:
        self.scene.network.broken.clear()

    def do_away(self, away: bool) -> None:
        self.scene.town.away = away

    def do_change(self, which: int) -> None:
        self.scene.origin.version = self.version(which)

    def do_break(self) -> None:
        self.scene.origin.broken += 1

    def do_suspend(self, seconds: float) -> None:
        self.scene.clock.advance(seconds)

    def end(self) -> None:
        """Let everything be well again, and see what becomes of it."""
        self.do_heal()
        self.do_away(False)
        for node in self.scene.nodes:
            node.peers.stopped = False
            if node.gone:
                node.rendezvous.lapse()
        self.scene.finish(120.0)
        nodes = [node for node in self.scene.nodes if not node.gone or node.error is not None]
        found = {node.digest for node in nodes if node.digest}
        assert found <= set(DIGESTS)
        assert len(found) <= 1, "one job, one digest"
        allowed = (ClusterUnavailable, OriginUnavailable, PinLost) + (() if self.validated else (DigestMismatch,))
        assert all(isinstance(node.error, allowed) for node in nodes if node.error), self.scene.state()
        seats = [node.seat._mine for node in self.scene.nodes if node.seat._mine is not None]
        accused = [member.name for seat in seats for member in seat.roster.members.values() if member.corrupt]
        assert not accused, "all bytes were what they had been"


def play(story: Sequence[tuple[object, ...]], *, validated: bool = True, fault: Fault = HEALTHY) -> Scene:
    """Tell a story of an origin that always has this fault, to its end; return what is left of the scene."""
    with ExitStack() as ending:
        folder = Path(tempfile.mkdtemp())
        ending.callback(shutil.rmtree, folder)
        patch = ending.enter_context(pytest.MonkeyPatch.context())
        source = SteppedSource(Version(CONTENTS[0], '"0"' if validated else ""), piece=CHUNK, then=fault)
        scene = ending.enter_context(Scene(folder, patch, source))
        Story(scene, folder, validated=validated).tell([("join", 0, 0), ("join", 0, 0), *story])
    return scene


TWO_VERSIONS = [("step", 0), ("join", 0, 0), ("cut", 0, 1), ("round", 1), ("kill", 0), ("change", 1)]
TWO_PINS = [("join", 0, 0), ("cut", 0, 1), ("round", 7), ("kill", 0), ("join", 0, 0), ("join", 0, 0), ("change", 1)]


@effort(20)
@given(STORIES, st.sampled_from(ORIGINS))
@example(TWO_VERSIONS, HEALTHY)
@example(TWO_PINS, HEALTHY)
def test_everybody_ends_with_the_image_or_an_error(story: Sequence[tuple[object, ...]], fault: Fault) -> None:
    play(story, fault=fault)


@effort(10)
@given(STORIES, st.sampled_from(ORIGINS))
def test_also_where_nothing_tells_one_version_from_another(story: Sequence[tuple[object, ...]], fault: Fault) -> None:
    play(story, validated=False, fault=replace(fault, ranges=False))


@effort(10)
@given(st.lists(CALM, max_size=30), st.sampled_from(ORIGINS))
def test_without_faults_the_origin_sends_the_image_once(story: Sequence[tuple[object, ...]], fault: Fault) -> None:
    same = [(*step[:2], 0) if step[0] == "join" else step for step in story]
    scene = play(same, fault=fault)
    assert {node.digest for node in scene.nodes} == {DIGESTS[0]}
    assert scene.origin.served <= len(CONTENTS[0])
