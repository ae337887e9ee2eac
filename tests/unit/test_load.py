"""What a node does with its bytes when the coordinator says so: prepare, pull, lead, offer, compare, let go."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from stager.errors import (
    ClusterUnavailable,
    ConverterMissing,
    DigestMismatch,
    NoSpace,
    NotFound,
    OriginUnavailable,
    StageImageError,
    StoreUnusable,
)
from stager.interfaces import Validators
from stager.layout import Layout
from stager.load import REFUSALS
from stager.offering import Offering
from stager.orders import Orders
from stager.reference import Digest, parse
from stager.relay.wire import CHUNK
from stager.shared import SharedStore
from stager.store.partial import Partial
from tests.support.fake_peers import FakePeers
from tests.support.scripted_source import UNKNOWN_SIZE
from tests.support.staging_scene import Node, Scene, origin, staged
from tests.support.tasks import image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stager.relay.holding import Holding

CONTENT = image(4 * CHUNK)
OTHER = image(4 * CHUNK, seed=2)
DIGEST = sha256(CONTENT).hexdigest()
ETAG = Validators('"1"', "", len(CONTENT))
VERSION: dict[str, Any] = {"etag": '"1"', "modified": "", "size": len(CONTENT), "origin": "o", "private": False}
STAGING, SECRET = "5" * 32, "1" * 64


class Stage:
    """One node, told what to do by the test, and others to pull from."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.orders = Orders(generation=1, kind="wait", version=VERSION)

    def node(self, **task: Any) -> Node:  # noqa: ANN401 - as Scene.node
        node = self.scene.node(**task)
        node.peers.trust(STAGING, SECRET)
        return node

    def follow(self, told: Node, /, **orders: Any) -> None:  # noqa: ANN401 - fields of Orders
        told.load.follow(replace(self.orders, **orders))
        self.scene.settle()

    def pull(self, node: Node, source: FakePeers, **orders: Any) -> None:  # noqa: ANN401 - as above
        self.follow(node, kind="node", node=source.address, address=source.address, **orders)

    def source(self, content: bytes = CONTENT, *, generation: int = 1, chunks: int = 99) -> FakePeers:
        """Return somebody else who holds so many chunks."""
        peers = self.scene.network.join()
        peers.trust(STAGING, SECRET)
        fd = os.memfd_create("image")
        os.pwrite(fd, content, 0)
        holding = peers.hold(fd, str(self.scene.folder), generation, size=len(content), own=0)
        os.close(fd)
        hasher = peers.hash(holding, lambda: min(len(content), chunks * CHUNK))
        while hasher.step():
            pass
        return peers

    def flow(self) -> None:
        while self.scene.network.flow():
            pass

    def root(self, peers: FakePeers) -> str:
        assert peers.offered is not None
        return peers.offered.root()

    def end(self, node: Node, source: FakePeers, **orders: Any) -> None:  # noqa: ANN401 - as above
        """Tell it what the image is."""
        self.pull(node, source, digest=DIGEST, root=self.root(source), **orders)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with Scene(tmp_path, monkeypatch, origin(CONTENT)) as scene:
        yield Stage(scene)
        for peers in scene.network.peers.values():
            peers.close()


def left(folder: Path, content: bytes, length: int, version: Validators = ETAG, *, private: bool = False) -> Partial:
    """Return a copy that an earlier call has left."""
    copy = Partial(str(folder / "left"))
    copy.begin(version, version.size, "o", private=private)
    copy.write(copy.segments[0], content[:length])
    return copy


def holding_of(node: Node) -> Holding:
    holding = node.peers.offered
    assert holding is not None
    assert node.load.offering.holding is holding
    return holding


class TestPulling:
    def test_from_nothing_to_the_image(self, stage: Stage) -> None:
        node, source = stage.node(), stage.source()
        stage.pull(node, source)
        assert (node.load.busy, node.load.moving, node.load.offset) == (True, True, 0)
        stage.flow()
        assert (node.load.offset, node.load.progress) == (len(CONTENT), (len(CONTENT), len(CONTENT)))
        assert node.load.wake.is_set(), "the coordinator is to hear of the end at once"
        stage.follow(node, kind="keep")
        before = node.load.complete
        stage.end(node, source)
        assert (before, node.load.complete) == (False, True), "not before it has been said what it has to be"
        assert (node.copy.digest().hex, node.copy.complete) == (DIGEST, True)

    def test_nothing_begins_before_it_is_known_which_image_it_is(self, stage: Stage) -> None:
        node, source = stage.node(), stage.source()
        stage.pull(node, source, version=None)
        assert (node.load.busy, node.copy.segments) == (False, [])

    @pytest.mark.parametrize("chunks", [1, 3])
    def test_bytes_from_before_are_compared_and_kept(self, stage: Stage, tmp_path: Path, chunks: int) -> None:
        node = stage.node(copy=left(tmp_path, CONTENT, chunks * CHUNK + 5))
        source = stage.source()
        stage.pull(node, source)
        assert holding_of(node).own == chunks * CHUNK + 5
        stage.flow()
        stage.end(node, source)
        assert node.load.complete

    @pytest.mark.parametrize("version", [Validators('"2"', "", len(CONTENT)), Validators("", "", len(CONTENT))])
    def test_bytes_of_another_version_are_not(self, stage: Stage, tmp_path: Path, version: Validators) -> None:
        node = stage.node(copy=left(tmp_path, OTHER, 2 * CHUNK, version))
        stage.pull(node, stage.source())
        assert (node.copy.held, node.copy.validators) == (0, ETAG)

    def test_a_copy_in_several_pieces_goes_on_in_one(self, stage: Stage, tmp_path: Path) -> None:
        copy = left(tmp_path, CONTENT, CHUNK)
        later = copy.split(copy.segments[0])
        copy.write(later, CONTENT[later.start : later.start + 7])
        node, source = stage.node(copy=copy), stage.source()
        stage.pull(node, source)
        assert len(node.copy.segments) == 1
        stage.flow()
        stage.end(node, source)
        assert node.load.complete

    def test_room_is_made_for_what_is_missing(self, stage: Stage, tmp_path: Path) -> None:
        asked: list[int] = []
        download = stage.scene.download

        def telling(copy: Partial) -> Any:  # noqa: ANN401 - a Download
            made = download(copy)
            made.room = asked.append
            return made

        stage.scene.download = telling  # type: ignore[method-assign]
        stage.pull(stage.node(copy=left(tmp_path, CONTENT, CHUNK)), stage.source())
        assert asked == [len(CONTENT) - CHUNK]

    def test_another_upstream_is_taken_from_where_we_are(self, stage: Stage) -> None:
        node, first, second = stage.node(), stage.source(chunks=2), stage.source()
        stage.pull(node, first)
        stage.flow()
        assert node.load.offset == 2 * CHUNK
        stage.pull(node, second)
        assert (len(node.peers.streams), node.load.report()["upstream"]) == (1, second.address)
        stage.flow()
        assert node.load.offset == len(CONTENT)

    def test_the_same_upstream_is_left_in_peace(self, stage: Stage) -> None:
        node, source = stage.node(), stage.source(chunks=1)
        stage.pull(node, source)
        stream = node.peers.streams[0]
        stage.flow()
        stage.pull(node, source)
        stage.follow(node, kind="keep")
        assert node.peers.streams == [stream]

    def test_who_is_to_wait_lets_go(self, stage: Stage) -> None:
        node = stage.node()
        stage.pull(node, stage.source(chunks=1))
        stage.follow(node, kind="wait")
        assert (node.peers.streams, node.load.busy, node.load.report()["upstream"]) == ([], False, None)

    def test_who_has_all_pulls_no_more(self, stage: Stage) -> None:
        node, source = stage.node(), stage.source()
        stage.pull(node, source)
        stage.flow()
        other = stage.source()
        stage.pull(node, other)
        assert node.load.report()["upstream"] == source.address

    def test_silence_is_reported_and_is_news(self, stage: Stage) -> None:
        node = stage.node()
        stage.pull(node, stage.source(chunks=1))
        stage.flow()
        assert not node.load.has_news
        stage.scene.clock.advance(3.0)
        assert node.load.report()["silence"] == 3.0
        assert (node.load.has_news, node.load.moving) == (True, False)


class TestWhatIsTold:
    def test_before_anything(self, stage: Stage) -> None:
        node = stage.node()
        told = node.load.introduction()
        assert told == {
            "address": node.peers.address,
            "offset": 0,
            "generation": None,
            "version": None,
            "upstream": None,
            "digest": None,
            "root": None,
            "expects": None,
        }
        states = (node.load.has_news, node.load.busy, node.load.moving, node.load.feeds_others)
        assert states == (False, False, False, False)

    def test_a_new_coordinator_learns_all_that_is_known(self, stage: Stage) -> None:
        node, source = stage.node(expects=Digest(DIGEST)), stage.source(generation=4)
        stage.pull(node, source, generation=4, digest="ab" * 32)
        stage.flow()
        told = node.load.introduction()
        assert (told["generation"], told["offset"], told["upstream"]) == (4, len(CONTENT), source.address)
        assert (told["version"]["etag"], told["version"]["size"]) == ('"1"', len(CONTENT))
        assert (told["digest"], told["root"], told["expects"]) == ("ab" * 32, None, DIGEST)
        stage.end(node, source, generation=4)
        assert node.load.introduction()["root"] == stage.root(source)

    def test_the_generation_is_the_coordinators_before_there_is_any(self, stage: Stage) -> None:
        node = stage.node()
        stage.follow(node, generation=7, version=None)
        assert node.load.report()["generation"] == 7

    def test_who_is_fed_is_counted(self, stage: Stage) -> None:
        node, other = stage.node(), stage.node()
        stage.pull(node, stage.source(chunks=2))
        stage.flow()
        stage.pull(other, node.peers)
        assert (node.load.feeds_others, node.load.report()["downstream"]) == (True, 1)
        assert not other.load.feeds_others

    def test_nothing_is_read_again_to_know_what_it_is(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        node, source = stage.node(), stage.source()
        stage.pull(node, source)
        stage.flow()
        stage.end(node, source)
        monkeypatch.setattr("stager.store.segments.blocks", None)
        assert node.copy.digest().hex == DIGEST

    def test_news_come_with_the_last_byte_only(self, stage: Stage) -> None:
        node = stage.node()
        stage.pull(node, stage.source(chunks=2))
        stage.flow()
        assert not node.load.wake.is_set()


class TestLosses:
    def test_a_loss_is_reported_at_once_and_tried_again_when_told_so(self, stage: Stage) -> None:
        node, source = stage.node(), stage.source(chunks=1)
        stage.pull(node, source)
        source.close()
        stage.flow()
        assert (node.load.has_news, node.load.report()["lost"]) == (True, "refused")
        stage.pull(node, source)
        assert node.load.report()["lost"] is None

    def test_who_has_gone_on_is_asked_again_but_not_for_ever(self, stage: Stage) -> None:
        node, source = stage.node(), stage.source(generation=2)
        for _ in range(REFUSALS + 1):
            stage.pull(node, source)
            assert node.load.report()["lost"] is None
            stage.flow()
        assert node.load.report()["lost"] == "ended"

    def test_each_byte_gives_it_another_chance(self, stage: Stage) -> None:
        node, source = stage.node(), stage.source(chunks=1)
        for chunk in range(1, 4):
            for _ in range(REFUSALS):
                stage.pull(node, source)
                stage.flow()
                node.peers.streams[0].lost = "ended"
            assert node.load.report()["lost"] is None, chunk
            source.close()
            source = stage.source(chunks=chunk + 1)
            stage.pull(node, source)
            stage.flow()

    @pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NoSpace), (errno.EIO, StoreUnusable)])
    def test_our_own_disk_is_nobody_elses_fault(self, stage: Stage, number: int, kind: type[Exception]) -> None:
        node = stage.node()
        stage.pull(node, stage.source())
        node.peers.streams[0].error = OSError(number, os.strerror(number))
        assert node.load.has_news
        with pytest.raises(kind):
            stage.follow(node, kind="keep")

    @pytest.mark.parametrize("what", ["begin", "hold", "finish", "hasher"])
    def test_a_full_disk_is_one_wherever_it_is_met(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        node, source = stage.node(), stage.source()

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def go_all_the_way() -> None:
            stage.pull(node, source)
            stage.flow()
            stage.end(node, source)

        if what == "hasher":
            stage.follow(node, kind="origin", version=None)
            stage.scene.move()
            node.peers.hashers[-1].error = OSError(errno.ENOSPC, "No space left on device")
        else:
            monkeypatch.setattr(FakePeers if what == "hold" else Partial, what, full)
        with pytest.raises(NoSpace):
            go_all_the_way()


class TestVersions:
    def test_a_new_generation_is_begun_anew(self, stage: Stage) -> None:
        node, old, new = stage.node(), stage.source(OTHER), stage.source(generation=2)
        first = {**VERSION, "etag": '"0"'}
        stage.pull(node, old, version=first)
        stage.flow()
        stage.pull(node, new, generation=2)
        assert (node.load.offset, node.load.report()["generation"], holding_of(node).generation) == (0, 2, 2)
        stage.flow()
        stage.end(node, new, generation=2)
        assert node.load.complete

    def test_what_it_had_to_be_before_is_forgotten(self, stage: Stage) -> None:
        node, old, new = stage.node(), stage.source(OTHER, chunks=2), stage.source(generation=2)
        stage.pull(node, old, version={**VERSION, "etag": '"0"'}, digest="ab" * 32, root="cd" * 32)
        stage.pull(node, new, generation=2)
        stage.flow()
        stage.pull(node, new, generation=2)
        assert not node.load.complete
        assert node.load.introduction()["digest"] is None

    def test_another_version_under_the_same_number_is_another_one(self, stage: Stage) -> None:
        """A new coordinator may count from one again."""
        node, old = stage.node(), stage.source(OTHER, chunks=2)
        stage.pull(node, old, version={**VERSION, "etag": '"0"'})
        stage.flow()
        new = stage.source()
        stage.pull(node, new)
        assert node.load.offset == 0
        stage.flow()
        stage.end(node, new)
        assert node.load.complete

    def test_a_size_that_becomes_known_changes_nothing_else(self, stage: Stage) -> None:
        node, source = stage.node(), stage.source(chunks=2)
        stage.pull(node, source, version={**VERSION, "size": None})
        stage.flow()
        assert node.load.progress == (2 * CHUNK, 0)
        stage.pull(node, source)
        assert (node.copy.size, node.load.offset) == (len(CONTENT), 2 * CHUNK)
        assert holding_of(node).size == len(CONTENT)

    def test_a_size_that_is_forgotten_by_others_is_not_by_us(self, stage: Stage) -> None:
        node, source = stage.node(), stage.source(chunks=2)
        stage.pull(node, source)
        stage.pull(node, source, version={**VERSION, "size": None})
        assert (node.copy.size, holding_of(node).size) == (len(CONTENT), len(CONTENT))

    def test_whether_it_is_private_comes_with_it(self, stage: Stage) -> None:
        node = stage.node()
        stage.pull(node, stage.source(), version={**VERSION, "private": True})
        assert node.copy.private

    def test_others_bytes_that_are_not_the_heads_end_it(self, stage: Stage) -> None:
        node, source = stage.node(), stage.source()
        stage.pull(node, source)
        stage.flow()
        with pytest.raises(DigestMismatch):
            stage.pull(node, source, digest=DIGEST, root="cd" * 32)

    @pytest.mark.parametrize("rotten", [True, False])
    def test_who_is_told_of_rot_looks_again(self, stage: Stage, rotten: bool) -> None:
        node, source = stage.node(), stage.source()
        stage.pull(node, source)
        stage.flow()
        if rotten:
            os.pwrite(node.copy.fileno(), b"rot", CHUNK + 1)
            with pytest.raises(DigestMismatch):
                stage.end(node, source, doubted=True)
        else:
            stage.end(node, source, doubted=True)
            assert node.load.complete


class TestLeading:
    def test_the_head_asks_the_origin_and_offers_what_comes(self, stage: Stage) -> None:
        node = stage.node()
        stage.follow(node, kind="origin", version=None)
        assert (node.load.fetches_from_origin, node.load.busy, node.load.moving) == (True, True, True)
        stage.scene.move()
        assert node.load.offset == CHUNK
        report = node.load.report()
        assert (report["upstream"], report["version"]["etag"], report["generation"]) == ("origin", '"1"', 1)

    def test_being_told_twice_changes_nothing(self, stage: Stage) -> None:
        node = stage.node()
        stage.follow(node, kind="origin", version=None)
        head = node.load.head
        stage.follow(node, kind="origin", version=None)
        assert node.load.head is head

    def test_who_becomes_the_head_goes_on(self, stage: Stage) -> None:
        node = stage.node()
        stage.pull(node, stage.source(chunks=2))
        stage.flow()
        stage.follow(node, kind="origin")
        assert node.peers.streams == []
        for _ in range(4):
            stage.scene.move()
        assert node.load.offset == len(CONTENT)
        assert stage.scene.origin.served == len(CONTENT) - 2 * CHUNK

    def test_who_is_the_head_no_more_pulls_and_vouches_for_nothing(self, stage: Stage) -> None:
        node, source = stage.node(), stage.source()
        stage.follow(node, kind="origin", version=None)
        for _ in range(2):
            stage.scene.turnstile.turn()
            stage.scene.settle()
        assert node.load.offset == 0
        stage.pull(node, source)
        assert node.load.head is None
        assert holding_of(node).own == 2 * CHUNK, "what the origin sent need not come again"
        stage.flow()
        assert node.load.report()["lost"] is None
        stage.end(node, source)
        assert node.load.complete

    def test_whose_download_is_given_up_ends_it(self, stage: Stage, tmp_path: Path) -> None:
        node = stage.node(copy=left(tmp_path, CONTENT, CHUNK))
        stage.follow(node, kind="origin", version=None)
        head = node.load.head
        node.copy.split(node.copy.segments[0])
        stage.pull(node, stage.source(chunks=1))
        assert head is not None
        assert not head.is_alive()
        assert len(node.copy.segments) == 1, "what is counted from now on is what comes from one other node"
        stage.follow(node, kind="wait")
        assert node.load.report()["upstream"] is None

    def test_a_head_that_has_all_bytes_stays_one(self, stage: Stage) -> None:
        """Only it can say what the image is."""
        node, source = stage.node(), stage.source()
        stage.follow(node, kind="origin", version=None)
        stage.scene.turnstile.open()
        assert node.load.head is not None
        node.load.head.join(20)
        stage.pull(node, source)
        assert node.load.head.has_all
        stage.flow()
        assert (node.load.report()["digest"], node.load.report()["root"]) == (DIGEST, stage.root(source))

    def test_a_failure_is_told_before_it_counts(self, stage: Stage) -> None:
        stage.scene.origin.script(NotFound("no such image"))
        node = stage.node()
        stage.follow(node, kind="origin", version=None)
        stage.follow(node, kind="origin", version=None)
        assert node.load.report()["error"]["code"] == 66
        with pytest.raises(NotFound):
            stage.follow(node, kind="wait")

    @pytest.mark.parametrize("error", [OriginUnavailable("away"), ConverterMissing("no mksquashfs")])
    def test_where_the_origin_fails_another_node_may_try(self, stage: Stage, error: StageImageError) -> None:
        stage.scene.origin.script(error, error)
        node, source = stage.node(), stage.source()
        stage.follow(node, kind="origin", version=None)
        assert node.load.report()["error"]["code"] == error.exit_code
        stage.pull(node, source)
        assert "error" not in node.load.report()
        stage.flow()
        stage.end(node, source)
        assert node.load.complete

    def test_until_then_it_is_no_head(self, stage: Stage) -> None:
        stage.scene.origin.script(OriginUnavailable("away"), OriginUnavailable("away"))
        node = stage.node()
        stage.follow(node, kind="origin", version=None)
        node.load.report()
        stage.follow(node, kind="keep", version=None)
        assert (node.load.head, node.load.report()["upstream"]) == (None, None)

    def test_it_offers_as_the_generation_that_the_coordinator_makes_of_it(self, stage: Stage) -> None:
        node = stage.node()
        stage.follow(node, kind="origin", version=None)
        stage.scene.move()
        stage.follow(node, kind="origin", generation=3)
        assert (holding_of(node).generation, node.load.offset) == (3, 0)
        stage.flow()
        assert node.load.offset == CHUNK, "vouched for again"
        stage.follow(node, kind="origin", generation=2)
        assert holding_of(node).generation == 3, "an answer from before"

    @pytest.mark.parametrize("how", ["generation", "secret"])
    def test_an_image_whose_size_only_its_end_has_told_is_whole_again(self, stage: Stage, how: str) -> None:
        stage.scene.origin.script(size=UNKNOWN_SIZE)
        node = stage.node()
        stage.follow(node, kind="origin", version=None)
        stage.scene.turnstile.open()
        assert node.load.head is not None
        node.load.head.join(20)
        if how == "generation":
            stage.follow(node, kind="origin", generation=3)
        else:
            node.peers.trust(STAGING, "2" * 64)
            node.load.renew()
        stage.flow()
        assert node.load.offering.whole

    @pytest.mark.parametrize("whole", [True, False])
    def test_a_new_secret_is_vouched_for_anew(self, stage: Stage, whole: bool) -> None:
        node = stage.node()
        stage.follow(node, kind="origin", version=None)
        if whole:
            stage.scene.turnstile.open()
            assert node.load.head is not None
            node.load.head.join(20)
        else:
            stage.scene.move()
        stage.flow()
        before = node.load.offset
        node.peers.trust(STAGING, "2" * 64)
        node.load.renew()
        assert node.load.offset == 0
        stage.flow()
        assert node.load.offset == before > 0
        assert node.load.offering.whole == whole

    def test_who_follows_has_its_bytes_compared_again(self, stage: Stage) -> None:
        node = stage.node()
        stage.pull(node, stage.source(chunks=2))
        stage.flow()
        node.peers.trust(STAGING, "2" * 64)
        node.load.renew()
        assert (node.peers.streams, holding_of(node).own) == ([], 2 * CHUNK)

    def test_who_holds_nothing_has_nothing_to_renew(self, stage: Stage) -> None:
        node = stage.node()
        node.load.renew()
        assert node.peers.offered is None


class TestHere:
    def image(self, folder: Path, *, private: bool = False) -> Any:  # noqa: ANN401 - a StagedImage
        path = folder / "here"
        path.write_bytes(CONTENT)
        return staged(str(path), Digest(DIGEST), len(CONTENT), private=private)

    def test_an_image_that_turns_out_to_be_here_ends_it(self, stage: Stage, tmp_path: Path) -> None:
        here = self.image(tmp_path)
        node = stage.node(lookup=lambda digest: here if digest.hex == DIGEST else None)
        source = stage.source(chunks=1)
        stage.pull(node, source, digest="ab" * 32)
        assert not node.load.complete
        stage.pull(node, source, digest=DIGEST)
        assert (node.load.complete, node.load.image, node.peers.streams, node.load.serves) == (True, here, [], False)
        stage.follow(node, kind="origin", digest=DIGEST)
        assert node.load.head is None, "there is nothing left to do"

    def test_a_head_that_has_found_out_by_itself_goes_by_that(self, stage: Stage, tmp_path: Path) -> None:
        looked: list[Digest] = []
        node = stage.node(lookup=looked.append)
        stage.follow(node, kind="origin", version=None, digest=DIGEST)
        assert looked == [Digest(DIGEST)]
        stage.scene.turnstile.open()
        assert node.load.head is not None
        node.load.head.join(20)
        stage.follow(node, kind="origin", digest=DIGEST)
        assert looked == [Digest(DIGEST)]

    @pytest.mark.parametrize("chunked", [True, False])
    def test_the_head_whose_image_is_current_serves_it(self, stage: Stage, tmp_path: Path, chunked: bool) -> None:
        node = stage.node(unless=ETAG, held=self.image(tmp_path))
        stage.follow(node, kind="origin", version=None)
        stage.follow(node, kind="origin", version=None)
        assert (node.load.complete, node.load.serves) == (True, True)
        stage.flow()
        report = node.load.report()
        assert (report["digest"], report["offset"], report["version"]["size"]) == (DIGEST, len(CONTENT), len(CONTENT))
        assert report["root"] == node.load.offering.root()
        assert node.load.introduction()["version"]["etag"] == '"1"', "for a coordinator that has just come"
        other = stage.node()
        stage.pull(other, node.peers)
        stage.flow()
        assert other.load.offering.root() == report["root"]

    def test_it_is_hashed_once(self, stage: Stage, tmp_path: Path) -> None:
        node = stage.node(unless=ETAG, held=self.image(tmp_path))
        for _ in range(4):
            stage.follow(node, kind="origin", version=None)
        assert len(node.peers.hashers) == 1

    @pytest.mark.parametrize("sealed", [True, False])
    def test_a_private_one_only_where_strangers_cannot_read_it(
        self, stage: Stage, tmp_path: Path, sealed: bool
    ) -> None:
        node = stage.node(unless=ETAG, held=self.image(tmp_path, private=True), sealed=sealed)
        stage.follow(node, kind="origin", version=None)
        if sealed:
            stage.follow(node, kind="origin", version=None)
            assert node.load.report()["version"]["private"] is True
        else:
            with pytest.raises(ClusterUnavailable, match="private") as raised:
                stage.follow(node, kind="origin", version=None)
            assert not raised.value.retryable
            assert node.peers.offered is None

    @pytest.mark.parametrize("resumed", [0, 2 * CHUNK])
    def test_nor_is_a_private_copy_offered(self, stage: Stage, tmp_path: Path, resumed: int) -> None:
        stage.scene.origin.private = True
        copy = left(tmp_path, CONTENT, resumed, private=True)
        node = stage.node(copy=copy, sealed=False)

        def lead() -> None:
            for _ in range(3):
                stage.follow(node, kind="origin", version=None)
                node.load.report()

        with pytest.raises(ClusterUnavailable, match="private"):
            lead()
        assert node.peers.offered is None


class TestShared:
    def test_nothing_is_offered_and_the_heads_progress_is_everybodys(self, stage: Stage, tmp_path: Path) -> None:
        shared = SharedStore(Layout(str(tmp_path / "shared")), parse("https://origin/tool.sqsh"), stage.scene.clock)
        head, other = stage.node(shared=shared), stage.node(shared=shared)
        stage.follow(head, kind="origin", version=None)
        stage.scene.move()
        assert (head.load.offset, head.load.serves, head.peers.offered) == (CHUNK, False, None)
        stage.follow(other, kind="wait", furthest=CHUNK)
        assert (other.load.progress, other.load.offset, other.peers.offered) == ((CHUNK, len(CONTENT)), 0, None)
        stage.follow(other, kind="node", node="n0", address=head.peers.address)
        assert other.peers.streams == []
        head.load.task.copy.discard()


class TestChecking:
    def test_one_asks_whether_the_image_is_current(self, stage: Stage) -> None:
        node = stage.node()
        asked = {**VERSION}
        stage.follow(node, kind="check", version=None, asked=asked)
        first = node.load._asking
        assert first is not None
        first.join(20)
        stage.follow(node, kind="check", version=None, asked=asked)
        assert node.load._asking is first
        assert node.load.report()["fresh"] is True
        node.load.forget()
        assert node.load.report()["fresh"] is None

    def test_what_the_origin_says_of_it_is_raised(self, stage: Stage) -> None:
        stage.scene.origin.script(NotFound("gone"))
        node = stage.node()
        stage.follow(node, kind="check", version=None, asked=VERSION)
        assert node.load._asking is not None
        node.load._asking.join(20)
        with pytest.raises(NotFound):
            stage.follow(node, kind="check", version=None, asked=VERSION)


class TestHalting:
    def test_nothing_goes_on(self, stage: Stage) -> None:
        head, other = stage.node(), stage.node()
        stage.follow(head, kind="origin", version=None)
        stage.pull(other, stage.source())
        thread = head.load.head
        stage.scene.turnstile.turn()
        stage.scene.settle()
        for node in (head, other):
            node.load.halt()
        assert thread is not None
        assert not thread.is_alive()
        assert not stage.scene.network.flow()

    def test_what_is_here_stays_here(self, stage: Stage) -> None:
        node = stage.node()
        stage.pull(node, stage.source(chunks=2))
        stage.flow()
        node.load.halt()
        assert (node.copy.held, node.load.report()["offset"]) == (2 * CHUNK, 2 * CHUNK)


class TestOffering:
    def test_what_nobody_can_have_had_keeps_its_number(self, stage: Stage, tmp_path: Path) -> None:
        node = stage.node(copy=left(tmp_path, CONTENT, CHUNK))
        offering = Offering(node.peers, sealed=True)
        offering.offer_anew(node.copy)
        assert offering.generation == 1
        offering.offer_anew(node.copy)
        assert offering.generation == 1, "the same version"
        node.copy.begin(Validators('"2"', "", 5), 5, "o", private=False)
        offering.vouch(lambda: 5)
        offering.finish()
        offering.offer_anew(node.copy)
        assert offering.generation in (1, 2)
        node.copy.begin(Validators("", "", 5), 5, "o", private=False)
        generation = offering.generation
        offering.offer_anew(node.copy)
        assert offering.generation == generation + 1, "nothing tells it from what others hold"
