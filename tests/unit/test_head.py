"""The head: what it finds at the origin, what it tells of it and when, and how it is stopped."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from stager import head as head_module
from stager.errors import DigestMismatch, NotAnImage, OriginStalled, OriginUnavailable, PinLost, StageImageError
from stager.head import SILENCE_SECONDS, STANDING_SECONDS, TEXT_MAX, Head
from stager.interfaces import Validators
from stager.layout import Layout
from stager.reference import Digest, parse
from stager.relay.wire import CHUNK
from stager.roster_messages import report as as_report
from stager.shared import SharedStore
from stager.store import images
from tests.support.scripted_source import UNKNOWN_SIZE
from tests.support.staging_scene import Node, Scene, origin, staged
from tests.support.tasks import image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONTENT = image(3 * CHUNK)
DIGEST = Digest(sha256(CONTENT).hexdigest())
ETAG = Validators('"1"', "", len(CONTENT))


@dataclass
class Leading:
    """A scene in which nodes lead."""

    scene: Scene

    def head(self, **task: Any) -> tuple[Head, Node]:  # noqa: ANN401 - as Scene.node
        node = self.scene.node(**task)
        node.peers.trust("5" * 32, "1" * 64)
        node.load.head = Head(node.load, 1)
        node.load.head.start()
        self.scene.settle()
        return node.load.head, node

    def end(self, head: Head) -> None:
        """Let everything come that will."""
        self.scene.turnstile.open()
        head.join(20)
        while self.scene.network.flow():
            pass


@pytest.fixture
def leading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Leading]:
    with Scene(tmp_path, monkeypatch, origin(CONTENT)) as scene:
        yield Leading(scene)


def told(head: Head, node: Node) -> dict[str, Any]:
    """Return a head's part of a report that a coordinator takes."""
    message = {"node": "n", "state": "receiving", **node.load.report()}
    as_report(message)
    return head.report()


class TestReports:
    def test_nothing_is_told_before_the_origin_has_spoken(self, leading: Leading) -> None:
        leading.scene.origin.script(OriginUnavailable("not yet"), OriginUnavailable("not now"))
        head, node = leading.head()
        assert "version" not in told(head, node)

    def test_the_version_comes_first_and_the_digest_last(self, leading: Leading) -> None:
        head, node = leading.head()
        leading.scene.move()
        version = {"etag": '"1"', "modified": "", "size": len(CONTENT), "origin": "fake-origin", "private": False}
        assert told(head, node) == {"version": version}
        assert not head.has_all
        leading.end(head)
        root = node.load.offering.root()
        assert told(head, node) == {"version": version, "digest": DIGEST.hex, "root": root}
        assert (head.ended, head.has_all, head.found, head.error, head.kept) == (True, True, DIGEST, None, False)

    def test_the_digest_waits_until_all_is_vouched_for(self, leading: Leading) -> None:
        """Others compare the root with what they have."""
        head, node = leading.head()
        leading.scene.turnstile.open()
        head.join(20)
        assert head.found == DIGEST
        assert "digest" not in told(head, node)

    def test_a_size_that_only_the_end_tells(self, leading: Leading) -> None:
        leading.scene.origin.script(size=UNKNOWN_SIZE)
        head, node = leading.head()
        leading.scene.move()
        assert told(head, node)["version"]["size"] is None
        leading.end(head)
        assert told(head, node)["version"]["size"] == len(CONTENT)
        assert node.load.offering.whole

    def test_what_an_earlier_call_left_is_told_before_the_origin_answers(self, leading: Leading) -> None:
        first, node = leading.head()
        leading.scene.move()
        first.stop()
        node.load.halt()
        head, again = leading.head(copy=node.copy)
        assert told(head, again)["version"]["etag"] == '"1"'
        leading.scene.network.flow()
        assert again.load.offset == CHUNK, "and vouched for"

    def test_a_long_story_is_cut_to_what_is_taken(self, leading: Leading) -> None:
        leading.scene.origin.script(*[OriginStalled("x" * 100_000, hint="y" * 100_000)] * 2)
        head, node = leading.head()
        leading.end(head)
        error = told(head, node)["error"]
        assert (error["code"], len(error["message"]), len(error["hint"])) == (69, TEXT_MAX, TEXT_MAX)
        assert head.told

    def test_what_keeps_the_bytes_from_coming_is_told_until_they_come(self, leading: Leading) -> None:
        head, node = leading.head()
        leading.scene.move()
        said: list[str] = []
        head._told_by = lambda error, _seconds: said.append(error.message)
        head._waits(OriginUnavailable("it is full"), 5.0)
        assert told(head, node)["trouble"] == "it is full; the node that asks tries again"
        assert said == ["it is full"]
        leading.scene.move()
        assert "trouble" not in told(head, node)

    def test_a_refusal_is_told_while_it_is_tried_again(self, leading: Leading) -> None:
        leading.scene.origin.script(OriginUnavailable("come back later"))
        head, node = leading.head()
        assert told(head, node)["trouble"] == "come back later; the node that asks tries again"
        leading.end(head)
        assert (head.error, "trouble" in told(head, node)) == (None, False)

    def test_who_was_told_to_stop_has_no_trouble(self, leading: Leading) -> None:
        head, node = leading.head()
        leading.scene.move()
        head.stop()
        said: list[str] = []
        head._told_by = lambda error, _seconds: said.append(error.message)
        head._waits(OriginUnavailable("the transfer was given up"), 5.0)
        assert said == []
        assert {"trouble", "error"}.isdisjoint(told(head, node))
        assert not head.told


class TestFindings:
    def test_the_jobs_pin_is_made_before_anybody_hears_of_the_digest(self, leading: Leading) -> None:
        settled: list[Digest] = []

        def settle(digest: Digest) -> Digest:
            assert node_of[0].load.head is not None
            assert node_of[0].load.head.found is None
            settled.append(digest)
            return digest

        node_of: list[Node] = []
        node = leading.scene.node(settle=settle)
        node_of.append(node)
        node.peers.trust("5" * 32, "1" * 64)
        node.load.head = Head(node.load, 1)
        node.load.head.start()
        leading.end(node.load.head)
        assert settled == [DIGEST]
        assert node.load.head.found == DIGEST

    def test_a_job_that_is_pinned_to_another_one_is_told(self, leading: Leading) -> None:
        head, node = leading.head(settle=lambda _digest: Digest("ab" * 32))
        leading.end(head)
        assert isinstance(head.error, PinLost)
        assert ("digest" in told(head, node), head.found) == (False, None)

    def test_bytes_that_are_not_the_named_ones_are_refused(self, leading: Leading) -> None:
        head, node = leading.head(pin=Digest("ab" * 32))
        leading.end(head)
        assert isinstance(head.error, DigestMismatch)
        assert told(head, node)["error"]["code"] == 71

    def test_the_named_bytes_are_taken(self, leading: Leading) -> None:
        head, _ = leading.head(pin=DIGEST)
        leading.end(head)
        assert (head.found, head.error) == (DIGEST, None)

    def test_what_is_no_image_is_refused(self, leading: Leading) -> None:
        def recognise(_fd: int, size: int) -> None:
            assert size == len(CONTENT)
            raise NotAnImage("it is a tarball")

        head, node = leading.head(recognise=recognise)
        leading.end(head)
        assert told(head, node)["error"] == {"code": 72, "message": "it is a tarball", "hint": NotAnImage.hint}

    def test_nothing_that_goes_wrong_is_lost_in_the_thread(self, leading: Leading) -> None:
        head, node = leading.head(recognise=lambda _fd, _size: 1 / 0)
        leading.end(head)
        assert type(head.error) is StageImageError
        assert "a bug in the relay: ZeroDivisionError" in told(head, node)["error"]["message"]

    @pytest.mark.parametrize("current", [True, False])
    def test_an_image_that_is_here_is_asked_about_first(self, leading: Leading, tmp_path: Path, current: bool) -> None:
        here = staged(str(tmp_path / "here"), DIGEST, len(CONTENT), private=True)
        unless = ETAG if current else Validators('"0"', "", 5)
        head, node = leading.head(unless=unless, held=here)
        leading.end(head)
        assert (head.unchanged, head.kept, head.image) == ((True, True, here) if current else (False, False, None))
        assert leading.scene.origin.served == (0 if current else len(CONTENT))
        version = told(head, node)["version"]
        assert (version["etag"], version["size"], version["private"]) == ('"1"', len(CONTENT), current)

    def test_a_version_whose_image_is_gone_is_fetched(self, leading: Leading) -> None:
        head, _ = leading.head(unless=ETAG, held=None)
        leading.end(head)
        assert (head.unchanged, head.has_all) == (False, True)


class TestShared:
    def store(self, leading: Leading, tmp_path: Path) -> SharedStore:
        layout = Layout(str(tmp_path / "shared"))
        return SharedStore(layout, parse("https://origin/tool.sqsh"), leading.scene.clock)

    def test_what_comes_is_published_where_all_find_it(self, leading: Leading, tmp_path: Path) -> None:
        shared = self.store(leading, tmp_path)
        head, node = leading.head(shared=shared)
        leading.end(head)
        assert head.kept
        assert head.image == images.lookup(shared.layout, DIGEST)
        report = told(head, node)
        assert (report["digest"], report["root"], report["version"]["size"]) == (DIGEST.hex, None, len(CONTENT))

    def test_what_another_head_has_published_meanwhile_need_not_come_again(
        self, leading: Leading, tmp_path: Path
    ) -> None:
        shared = self.store(leading, tmp_path)
        first, _ = leading.head(shared=shared)
        leading.end(first)
        second, _ = leading.head(shared=shared, lookup=lambda digest: images.lookup(shared.layout, digest))
        leading.end(second)
        assert (second.unchanged, second.image) == (True, first.image)
        assert leading.scene.origin.served == len(CONTENT)
        second._task.copy.discard()

    def test_what_is_no_image_is_not_published(self, leading: Leading, tmp_path: Path) -> None:
        shared = self.store(leading, tmp_path)
        head, _ = leading.head(shared=shared, pin=Digest("ab" * 32))
        leading.end(head)
        assert images.lookup(shared.layout, DIGEST) is None
        head._task.copy.discard()


class Time:
    """The head's clock, which goes on only when it waits, or the test says so. `meanwhile` happens while it waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits += 1
        self.meanwhile()


class TestCutOff:
    """After a silence of the origin, bytes are taken only once the coordinator has said that it still is the head."""

    @pytest.fixture
    def time(self, leading: Leading, monkeypatch: pytest.MonkeyPatch) -> Time:
        time = Time()
        assert head_module.SILENCE_SECONDS > SILENCE_SECONDS, f"no other test waits in {leading.scene}"
        monkeypatch.setattr(head_module, "SILENCE_SECONDS", SILENCE_SECONDS)
        monkeypatch.setattr(head_module, "monotonic", lambda: time.now)
        monkeypatch.setattr(head_module, "sleep", time.sleep)
        return time

    @pytest.fixture
    def cut_off(self, leading: Leading, time: Time) -> tuple[Head, Node]:
        """A head to which bytes come after a silence, when the test lets them."""
        head, node = leading.head()
        leading.scene.move()
        time.now += SILENCE_SECONDS
        return head, node

    def test_without_a_silence_nobody_is_asked(self, leading: Leading, time: Time) -> None:
        head, _ = leading.head()
        leading.scene.move()
        time.now += SILENCE_SECONDS / 2
        leading.end(head)
        assert (head.found, time.waits) == (DIGEST, 0)

    def test_nothing_is_taken_before_the_word(self, leading: Leading, cut_off: tuple[Head, Node], time: Time) -> None:
        head, node = cut_off
        seen: list[int] = []

        def be_told() -> None:
            seen.append(node.copy.held)
            node.load.confirmed = time.now

        time.meanwhile = be_told
        node.load.wake.clear()
        leading.end(head)
        assert seen == [CHUNK], "and once it is beyond doubt, all is"
        assert (head.found, len(leading.scene.origin.asked)) == (DIGEST, 1)

    def test_it_asks_at_once(self, leading: Leading, cut_off: tuple[Head, Node], time: Time) -> None:
        head, node = cut_off
        woken: list[bool] = []
        time.meanwhile = lambda: woken.append(node.load.wake.is_set())
        node.load.wake.clear()
        leading.end(head)
        assert woken[0]

    def test_until_the_word_comes_nothing_more_is_sent(
        self, leading: Leading, cut_off: tuple[Head, Node], time: Time
    ) -> None:
        head, node = cut_off
        origin, began = leading.scene.origin, time.now

        def be_told_late() -> None:
            if time.now > began + STANDING_SECONDS / 2:
                assert (origin.closed, node.copy.held) == (1, CHUNK)
                node.load.confirmed = time.now

        time.meanwhile = be_told_late
        leading.end(head)
        assert head.found == DIGEST
        assert [asked.start for asked in origin.asked] == [0, CHUNK]

    def test_an_origin_that_would_begin_anew_is_kept(self, leading: Leading, time: Time) -> None:
        leading.scene.origin.script(size=UNKNOWN_SIZE)  # without a size, a scripted origin has no ranges
        head, _ = leading.head()
        leading.scene.move()
        time.now += SILENCE_SECONDS
        leading.end(head)
        assert (head.found, len(leading.scene.origin.asked)) == (DIGEST, 1)

    def test_who_was_the_head_takes_nothing(self, leading: Leading, cut_off: tuple[Head, Node], time: Time) -> None:
        head, node = cut_off
        asked, stopped = threading.Event(), threading.Event()

        def wait() -> None:
            asked.set()
            assert stopped.wait(20)

        time.meanwhile = wait
        leading.scene.turnstile.open()
        assert asked.wait(20)
        head._stopped = True
        stopped.set()
        head.stop()
        assert (head.is_alive(), node.copy.held, head.report().get("error")) == (False, CHUNK, None)

    def test_nobody_waits_for_ever_nor_twice(self, leading: Leading, cut_off: tuple[Head, Node], time: Time) -> None:
        head, node = cut_off
        began = time.now
        leading.scene.turnstile.turn()
        leading.scene.settle()
        once = time.now - began
        assert once == pytest.approx(STANDING_SECONDS, abs=0.1)
        time.now += SILENCE_SECONDS
        leading.end(head)
        assert (head.found, node.load.confirmed) == (DIGEST, 0.0)
        assert time.now - began == pytest.approx(once + SILENCE_SECONDS)


class TestStopping:
    def test_it_stops_at_once_and_says_nothing_of_it(self, leading: Leading) -> None:
        head, node = leading.head()
        leading.scene.move()
        head.stop()
        assert not head.is_alive()
        assert head.ended
        assert "error" not in told(head, node)
        assert node.copy.held == CHUNK

    def test_whoever_waits_for_news_is_told_of_its_end(self, leading: Leading) -> None:
        head, node = leading.head()
        node.load.wake.clear()
        leading.end(head)
        assert node.load.wake.is_set()
