"""The story of a staging: who asks the origin, who waits, what a job gets, and what a failure costs whom."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import pytest

from stager import collect, lease
from stager.errors import (
    DigestMismatch,
    LeaderLost,
    NoSpace,
    NotAnImage,
    NotFound,
    OriginUnavailable,
    PinLost,
    StageImageError,
    StoreUnusable,
)
from stager.layout import Layout
from stager.reference import Digest, parse
from stager.stage import Policy
from stager.store import copies, files, images, memory, partial
from stager.store.memory import LeaderNote
from stager.waiting import BEAT_LOST
from tests.support.fake_node import POINTS, FakeNode, digest_of, fake_node, origin, version
from tests.support.scripted_source import Fault, Gate, ScriptedSource, Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stager.process import ProcessIdentity
    from stager.store.images import StagedImage

URL = "https://origin/x.sqsh"
KEY = parse(URL).key


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    with fake_node(str(tmp_path / "store"), monkeypatch) as made:
        yield made


def gone() -> NotFound:
    return NotFound("404")


def away() -> OriginUnavailable:
    return OriginUnavailable("connection refused")


class TestKnown:
    def test_an_image_is_fetched_once_for_all_tasks_of_a_job(self, node: FakeNode) -> None:
        source = origin()
        got = [node.staging(source).run() for _ in range(5)]
        assert {image.digest for image in got} == {digest_of(version(1))}
        assert (len(source.asked), source.served) == (1, len(version(1).content))

    def test_the_image_is_leased(self, node: FakeNode) -> None:
        image = node.staging(origin(), scope="job-7").run()
        leases = lease.living(node.layout.leases(image.digest))
        assert [(one.scope, one.holder) for one in leases] == [("job-7", node.processes.current())]

    def test_points_come_in_order(self, node: FakeNode) -> None:
        points: list[str] = []
        node.staging(origin(), trace=points.append).run()
        assert points == list(POINTS)

    def test_nothing_of_a_download_is_left(self, node: FakeNode) -> None:
        node.staging(origin()).run()
        assert copies.folders(node.layout.partials(KEY)) == []
        assert memory.read_leader(node.layout.leader(KEY)) is None

    def test_a_job_runs_one_digest_though_the_tag_moves(self, node: FakeNode) -> None:
        source = origin(1)
        first = node.staging(source, scope="job-1").run()
        source.version = version(2)
        node.clock.advance(3600)
        other = node.staging(source, scope="job-2").run()
        again = node.staging(source, scope="job-1").run()
        assert (first.digest, again.digest, other.digest) == (*[digest_of(version(1))] * 2, digest_of(version(2)))

    def test_another_job_asks_but_does_not_fetch_what_is_there(self, node: FakeNode) -> None:
        source = origin()
        node.staging(source, scope="job-1").run()
        node.clock.advance(3600)
        image = node.staging(source, scope="job-2").run()
        assert source.served == image.size
        assert source.asked[-1].unless == version(1).validators

    def test_a_login_session_sees_a_new_image_after_a_minute(self, node: FakeNode) -> None:
        source, scope = origin(1), "session-1-2"
        node.staging(source, scope=scope).run()
        source.version = version(2)
        node.clock.advance(memory.SESSION_PIN - 1)
        assert node.staging(source, scope=scope).run().digest == digest_of(version(1))
        node.clock.advance(2)
        assert node.staging(source, scope=scope).run().digest == digest_of(version(2))

    @pytest.mark.parametrize(("freshness", "asked", "expected"), [("never", 1, 1), ("always", 2, 2), ("job", 1, 1)])
    def test_freshness(self, node: FakeNode, freshness: str, asked: int, expected: int) -> None:
        source, policy = origin(1), Policy(freshness=freshness)
        node.staging(source, policy=policy).run()
        source.version = version(2)
        node.clock.advance(1)
        assert node.staging(source, policy=policy).run().digest == digest_of(version(expected))
        assert len(source.asked) == asked

    def test_never_is_for_other_jobs_too(self, node: FakeNode) -> None:
        source = origin(1)
        node.staging(source, scope="job-1").run()
        node.clock.advance(1)
        node.staging(source, scope="job-2", policy=Policy(freshness="never")).run()
        assert len(source.asked) == 1

    def test_a_pinned_reference_needs_nobodys_word(self, node: FakeNode) -> None:
        source, pinned = origin(1), f"{URL}@{digest_of(version(1))}"
        node.staging(source, url=pinned, scope="job-1").run()
        source.version = version(2)
        assert node.staging(source, url=pinned, scope="job-2").run().digest == digest_of(version(1))
        assert len(source.asked) == 1

    def test_a_private_image_is_nobody_elses(self, node: FakeNode) -> None:
        source = ScriptedSource(version(1), private=True)
        image = node.staging(source).run()
        assert image.private
        assert os.stat(image.path).st_mode & 0o077 == 0

    def test_what_root_has_is_not_fetched(
        self, node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with fake_node(str(tmp_path / "roots"), monkeypatch) as root:
            shared = root.staging(origin()).run()
        source = origin()
        image = node.staging(source, tiers=(root.layout,), policy=Policy(freshness="never")).run()
        assert (image, source.asked) == (shared, [])
        assert len(lease.living(root.layout.leases(image.digest))) >= 1


class TestFailures:
    def test_one_asks_and_all_fail_in_the_same_words(self, node: FakeNode) -> None:
        source = ScriptedSource(version(1), then=Fault(refuse=gone))
        failures = []
        for _ in range(4):
            with pytest.raises(NotFound) as raised:
                node.staging(source).run()
            failures.append((raised.value.message, raised.value.hint))
        assert len(set(failures)) == 1
        assert len(source.asked) == 1

    def test_later_it_is_tried_again(self, node: FakeNode) -> None:
        source = ScriptedSource(version(1), [Fault(refuse=gone)])
        with pytest.raises(NotFound):
            node.staging(source).run()
        node.clock.advance(Policy().failure_backoff + 1)
        node.staging(source).run()
        assert memory.read_failure(node.layout.failure(KEY), node.clock.now(), begun=0) is None

    def test_retry_asks_at_once(self, node: FakeNode) -> None:
        source = ScriptedSource(version(1), [Fault(refuse=gone)])
        with pytest.raises(NotFound):
            node.staging(source).run()
        node.clock.advance(0.1)
        node.staging(source, policy=Policy(retry=True)).run()

    def test_who_comes_to_lead_after_a_failure_believes_it(self, node: FakeNode) -> None:
        """Between the last look and the lock somebody else led, and failed: 255 of 256 tasks may come this way."""
        source = origin()

        class Late:
            @contextmanager
            def lead(self, name: str) -> Iterator[bool]:
                memory.write_failure(node.layout.failure(KEY), gone(), node.clock, 10)
                yield True

        with pytest.raises(NotFound):
            node.staging(source, election=Late()).run()
        assert source.asked == []

    def test_a_pin_of_the_reference_is_kept(self, node: FakeNode) -> None:
        source = origin(2)
        url = f"{URL}@{digest_of(version(1))}"
        with pytest.raises(DigestMismatch) as raised:
            node.staging(source, url=url).run()
        assert str(digest_of(version(1))) in raised.value.message
        assert str(digest_of(version(2))) in raised.value.message
        assert list(images.digests(node.layout)) == []
        assert copies.folders(node.layout.partials(parse(url).key)) == []

    def test_a_job_whose_image_is_gone_harms_no_other(self, node: FakeNode) -> None:
        source = origin(1)
        image = node.staging(source, scope="job-1").run()
        images.remove(node.layout, image.digest)
        source.version = version(2)
        node.clock.advance(1)
        for _ in range(2):
            with pytest.raises(PinLost, match="job-1"):
                node.staging(source, scope="job-1").run()
        assert node.staging(source, scope="job-2").run().digest == digest_of(version(2))
        assert source.served == len(version(1).content) + len(version(2).content), "what came was not thrown away"

    def test_a_job_whose_image_is_gone_downloads_the_other_once(self, node: FakeNode) -> None:
        source = origin(1)
        images.remove(node.layout, node.staging(source).run().digest)
        source.version = version(2)
        for _ in range(3):
            node.clock.advance(3600)
            with pytest.raises(PinLost):
                node.staging(source).run()
        assert source.served == len(version(1).content) + len(version(2).content)

    def test_a_job_whose_image_is_gone_gets_it_again_if_it_can(self, node: FakeNode) -> None:
        source = origin(1)
        image = node.staging(source).run()
        images.remove(node.layout, image.digest)
        node.clock.advance(1)
        assert node.staging(source).run().digest == image.digest

    def test_what_is_no_image_leaves_nothing(self, node: FakeNode) -> None:
        source = ScriptedSource(Version(b"<html>" * 50, etag='"1"'))
        with pytest.raises(NotAnImage):
            node.staging(source).run()
        assert copies.folders(node.layout.partials(KEY)) == []
        assert list(images.digests(node.layout)) == []

    def test_what_is_seen_to_be_no_image_is_fetched_no_further(self, node: FakeNode) -> None:
        source = ScriptedSource(Version(b"<html>" * 50, etag='"1"'), piece=16)

        def look(point: str) -> None:
            if point == "fetching":
                raise NotAnImage("this is a web page")

        for _ in range(3):
            node.clock.advance(3600)
            before = source.served
            with pytest.raises(NotAnImage):
                node.staging(source, trace=look).run()
            assert source.served - before <= 32

    def test_no_room_is_told_before_a_byte_is_fetched(self, node: FakeNode) -> None:
        source = origin()

        def room(size: int) -> NoReturn:
            raise NoSpace(f"{size} bytes are needed")

        with pytest.raises(NoSpace, match=f"{len(version(1).content)} bytes"):
            node.staging(source, room=room).run()
        assert source.served <= source.piece
        node.clock.advance(0.1)
        node.staging(source).run()  # a full disk may have been emptied since

    def test_a_resumed_download_makes_room_for_what_is_missing(self, node: FakeNode) -> None:
        source, needs = origin(), list[int]()
        assert node.dies_at("fetching", source)
        had = source.served
        node.staging(source, room=needs.append).run()
        assert needs == [len(version(1).content) - had]

    def test_a_full_disk_is_told_as_such(self, node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> NoReturn:
            raise OSError(errno.ENOSPC, "No space left on device", "/data")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(NoSpace, match="is full: No space left on device"):
                node.staging(origin()).run()
        node.clock.advance(0.1)
        node.staging(origin()).run()

    @pytest.mark.parametrize("freshness", ["job", "always"])
    def test_an_origin_that_is_away_is_no_matter_where_the_image_is_known(self, node: FakeNode, freshness: str) -> None:
        source, policy = ScriptedSource(version(1), [Fault()], then=Fault(refuse=away)), Policy(freshness=freshness)
        first = node.staging(source, policy=policy).run()
        begun = node.clock.now() + 3600
        node.clock.advance(3600)
        asked = len(source.asked)
        for task in range(8):
            with node.processes.victim():
                waiting = node.staging(source, scope="job-2", policy=policy)
                assert waiting.run() == first, task
        assert len(source.asked) - asked <= 8 * 2
        assert node.clock.now() - begun < 8 * 30
        node.clock.advance(1)
        with pytest.raises(OriginUnavailable):
            node.staging(source, scope="job-3", policy=replace(policy, offline=False, freshness="always")).run()

    def test_a_download_that_broke_off_is_kept_though_the_known_image_will_do(self, node: FakeNode) -> None:
        source = ScriptedSource(version(1), [Fault(), Fault(break_at=100)], then=Fault(refuse=away), piece=10)
        first = node.staging(source, scope="job-1").run()
        source.version = version(2)
        node.clock.advance(3600)
        assert node.staging(source, scope="job-2").run() == first
        node.clock.advance(3600)
        healthy = ScriptedSource(version(2))
        assert node.staging(healthy, scope="job-3").run().digest == digest_of(version(2))
        assert healthy.served == len(version(2).content) - 100


class Refusing:
    """An election where somebody else holds the locks of the first turns."""

    def __init__(self, turns: int, *, on_refusal: Callable[[], object] = lambda: None) -> None:
        self.names: list[str] = []
        self._turns = turns
        self._on_refusal = on_refusal

    @contextmanager
    def lead(self, name: str) -> Iterator[bool]:
        turn = int(name.partition(".")[2] or 0)
        self.names.append(name)
        if turn < self._turns:
            self._on_refusal()
        yield turn >= self._turns


class TestTakeover:
    @pytest.mark.parametrize("point", POINTS)
    def test_no_byte_is_lost_with_a_leader(self, node: FakeNode, point: str) -> None:
        source = origin()
        assert node.dies_at(point, source)
        begun = node.clock.now()
        image = node.staging(source).run()
        assert source.served == image.size
        assert node.clock.now() - begun < 1, "the dead are not waited for"

    @pytest.mark.parametrize("point", POINTS)
    def test_what_a_dead_leader_published_is_never_changed(self, node: FakeNode, point: str) -> None:
        source = origin(1)
        assert node.dies_at(point, source)
        published = images.lookup(node.layout, digest_of(version(1)))
        reader = os.open(published.path, os.O_RDONLY) if published else -1
        source.version = replace(version(2, 5), etag="")  # nothing tells versions apart, so everything is fetched anew
        node.staging(source, scope="job-2").run()
        if published:
            assert os.pread(reader, 1000, 0) == version(1).content
            assert images.lookup(node.layout, published.digest) == published
            os.close(reader)

    def test_a_stopped_leader_is_passed_over_and_its_bytes_are_borrowed(self, node: FakeNode) -> None:
        source = origin()
        stopped = self.half_way(node, source)
        had = source.served
        begun = node.clock.now()
        image = node.staging(source, election=Refusing(1)).run()
        assert source.served == image.size > had
        assert BEAT_LOST <= node.clock.now() - begun < BEAT_LOST + 2
        assert node.tell.waited_for == [stopped.pid]
        assert any("taking over" in said for said in node.tell.said)

    def half_way(self, node: FakeNode, source: ScriptedSource) -> ProcessIdentity:
        """Leave what a leader has that was stopped half-way: its note and its copy."""
        stopped = node.processes.start()
        with node.processes.playing(stopped):
            copy = partial.Partial(copies.own_folder(node.layout.partials(KEY)))
            copy.begin(source.version.validators, len(source.version.content), "origin", private=False)
            stream = source.open()
            assert stream is not None
            copy.write(copy.segments[0], next(stream.chunks()))
            copy.close()
        files.write_text(node.layout.leader(KEY), LeaderNote(stopped, 0).text())
        return stopped

    def test_a_lock_that_nobody_owns_up_to_is_passed_over(self, node: FakeNode) -> None:
        """Its holder was stopped, passed over by another who is done: no note is left, and the lock is held."""
        begun = node.clock.now()
        node.staging(origin(), election=Refusing(1)).run()
        assert BEAT_LOST <= node.clock.now() - begun < 3 * BEAT_LOST

    def test_several_locks_that_nobody_owns_up_to_are_passed_over(self, node: FakeNode) -> None:
        begun = node.clock.now()
        node.staging(origin(), election=Refusing(3)).run()
        assert node.clock.now() - begun < 9 * BEAT_LOST

    def test_a_lock_that_nobody_owns_up_to_is_passed_over_by_a_crowd(self, node: FakeNode) -> None:
        """Others wait for the same lock: their claims come and go, and now and then cover ours."""
        other = node.processes.start()
        count = [0]

        def collide() -> None:
            count[0] += 1
            assert node.clock.now() < 1000 + 20 * BEAT_LOST, "waits for ever"
            if count[0] % 5 == 0:  # just before our next claim another one is there, and gone soon after
                files.write_text(node.layout.leader(KEY), LeaderNote(other, 0).text())
                node.clock.after(0.2, lambda: files.discard(node.layout.leader(KEY)))

        node.staging(origin(), election=Refusing(1, on_refusal=collide)).run()

    def test_a_claim_that_is_lost_each_time_ends(self, node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
        """With 256 in the crowd somebody is always faster."""
        from stager import leading

        real, count = leading._claim, [0]

        def lost_now_and_then(path: str, mine: LeaderNote) -> bool:
            count[0] += 1
            assert node.clock.now() < 1000 + 20 * BEAT_LOST, "waits for ever"
            return count[0] % 3 != 0 and real(path, mine)

        monkeypatch.setattr(leading, "_claim", lost_now_and_then)
        node.staging(origin(), election=Refusing(1)).run()

    def test_two_leaders_with_different_versions_agree_for_a_job(self, node: FakeNode) -> None:
        node.locks = False
        source, theirs, begun = origin(1), set[Digest](), [False]

        def overtaken(point: str) -> None:
            if point == "fetched" and not begun[0]:
                begun[0] = True
                source.version = version(2)
                with node.processes.victim():
                    theirs.add(node.staging(source).run().digest)

        mine = node.staging(source, trace=overtaken).run()
        assert {mine.digest} == theirs == {digest_of(version(2))}

    def test_our_own_abandoned_copy_is_gone_on_with(self, node: FakeNode) -> None:
        source = ScriptedSource(version(1), [Fault(break_at=100), Fault(refuse=gone)], piece=10)
        with pytest.raises(NotFound):
            node.staging(source).run()
        node.clock.advance(100)
        node.staging(source).run()
        assert source.served == len(version(1).content)
        assert copies.folders(node.layout.partials(KEY)) == []


class TestLeasing:
    def test_an_image_evicted_before_it_was_leased_is_staged_again(self, node: FakeNode) -> None:
        source, evicted = origin(), list[int]()

        def evict(point: str) -> None:
            if point == "pinned" and not evicted:
                evicted.append(collect.evict(node.layout, digest_of(version(1))))

        image = node.staging(source, trace=evict).run()
        assert evicted == [image.size]
        assert images.lookup(node.layout, image.digest) == image

    def test_an_image_that_always_vanishes_is_no_endless_story(
        self, node: FakeNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(images, "_is_unchanged", lambda _image: False)
        source = origin()
        with pytest.raises((LeaderLost, StoreUnusable)):
            node.staging(source).run()
        assert len(source.asked) < 20

    @pytest.mark.parametrize("url", [URL, f"{URL}@{digest_of(version(1))}"])
    @pytest.mark.parametrize("freshness", ["never", "job", "always"])
    def test_a_hit_in_a_read_only_store_is_a_hit(
        self, node: FakeNode, monkeypatch: pytest.MonkeyPatch, url: str, freshness: str
    ) -> None:
        source = origin()
        first = node.staging(source, url=url, scope="job-1").run()
        node.clock.advance(1)
        make_read_only(node.layout, monkeypatch)
        again = node.staging(source, url=url, scope="job-2", policy=Policy(freshness=freshness)).run()
        assert again == first
        assert source.served == first.size
        assert any("read-only" in said or "no lease" in said for said in node.tell.said)

    def test_what_a_read_only_store_does_not_hold_cannot_be_had(
        self, node: FakeNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_read_only(node.layout, monkeypatch)
        with pytest.raises(StoreUnusable, match="Read-only"):
            node.staging(origin()).run()

    def test_a_damaged_image_is_fetched_again_and_a_damaged_sidecar_mended(self, node: FakeNode) -> None:
        source = origin()
        image = node.staging(source).run()
        os.unlink(node.layout.sidecar(image.digest))
        node.clock.advance(1)
        assert node.staging(source).run().digest == image.digest
        assert source.served == image.size
        os.truncate(image.path, 10)
        node.clock.advance(1)
        assert node.staging(source).run().digest == image.digest
        assert source.served == 2 * image.size


def make_read_only(layout: Layout, patch: pytest.MonkeyPatch) -> None:
    """Let every change below the store fail as on a read-only mount (root passes by permissions)."""

    def guarded(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **how: object) -> object:
            changes = name != "open" or int(str(args[1])) & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
            inside = how.get("dir_fd") is not None or str(args[0]).startswith(layout.root)
            if changes and inside:
                raise OSError(errno.EROFS, "Read-only file system", str(args[0]))
            return real(*args, **how)

        return call

    for name in ("open", "mkdir", "link", "rename", "replace", "unlink", "mkfifo", "chmod", "utime"):
        patch.setattr(os, name, guarded(name, getattr(os, name)))


class TestTogether:
    """Tasks as threads, in real time: a leader that is held at a gate, and a crowd that waits for it."""

    @pytest.fixture
    def node(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
        with fake_node(str(tmp_path / "store"), monkeypatch, real_time=True) as made:
            yield made

    def crowd(
        self, node: FakeNode, source: ScriptedSource, gate: Gate, tasks: int
    ) -> list[StagedImage | StageImageError]:
        """Let a leader come as far as the gate, then the others; open it when all wait, and return what all got."""
        results: list[StagedImage | StageImageError] = []
        waiting = threading.Semaphore(0)

        def task() -> None:
            with node.processes.victim() as me:
                wish = node.staging(source, holder=me)
                object.__setattr__(wish, "tell", _Signalling(waiting))
                try:
                    results.append(wish.run())
                except StageImageError as error:
                    results.append(error)

        threads = [threading.Thread(target=task) for _ in range(tasks)]
        threads[0].start()
        assert gate.reached.wait(5)
        for thread in threads[1:]:
            thread.start()
        for _ in threads[1:]:
            assert waiting.acquire(timeout=5)
        gate.go.set()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
        return results

    def test_all_wait_for_one_and_get_the_same(self, node: FakeNode) -> None:
        gate = Gate(50)
        source = ScriptedSource(version(1), [Fault(gate=gate)], piece=50)
        results = self.crowd(node, source, gate, 24)
        assert {image.digest for image in results if not isinstance(image, StageImageError)} == {digest_of(version(1))}
        assert len(results) == 24
        assert (len(source.asked), source.served) == (1, len(version(1).content))

    def test_all_fail_with_one(self, node: FakeNode) -> None:
        gate = Gate(50)
        source = ScriptedSource(version(1), [Fault(gate=gate, break_at=60, breaks=gone)], piece=50)
        results = self.crowd(node, source, gate, 24)
        assert {str(error) for error in results} == {"404"}
        assert len(source.asked) == 1


class _Signalling:
    """A teller that lets a semaphore know when its task begins to wait."""

    def __init__(self, waiting: threading.Semaphore) -> None:
        self._waiting = waiting

    def say(self, text: str) -> None:
        """Nobody listens."""

    def waiting(self, pid: int, since: float) -> None:
        self._waiting.release()

    def progress(self, phase: str, done: int, total: int) -> None:
        """Nobody looks."""

    def close(self) -> None:
        """Nothing is open."""
