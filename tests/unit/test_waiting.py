"""Waiting: for a leader that lives and moves, visibly, and not a moment longer than it deserves."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from stager import waiting
from stager.errors import NotFound
from stager.store import files
from stager.store.memory import LeaderNote
from stager.waiting import BEAT_LOST, LONGEST_POLL, Follower, Wake, wake_path
from tests.support.fake_clock import FakeClock
from tests.support.fake_node import Processes, SilentTeller
from tests.support.within import within

if TYPE_CHECKING:
    from pathlib import Path

    from stager.process import ProcessIdentity

PATIENCE = 30.0


class Scene:
    """A follower and the note of a leader, which the test moves on the follower's own clock."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.clock = FakeClock()
        self.tell = SilentTeller()
        self.processes = Processes()
        self.note: LeaderNote | None = None
        self.follower = Follower(path, self.clock, self.tell, PATIENCE)
        self.looks = 0

    def lead(self, *, beats: bool = True, moves: bool = True, holder: ProcessIdentity | None = None) -> LeaderNote:
        """Let a leader appear, and then beat (and move) twice a second for as long as its note is this one."""
        note = self.note = LeaderNote(holder or self.processes.start(), self.clock.wall())
        note.total = 10**9
        self._write()

        def beat() -> None:
            if self.note is note:
                note.beat += beats
                note.done += moves
                self._write()
                self.clock.after(0.5, beat)

        self.clock.after(0.5, beat)
        return note

    def end(self) -> None:
        self.note = None
        files.discard(self.path)

    def follow(self, until: float | None = None) -> str | None:
        """Follow; what is waited for is there `until` seconds from now. Fails after a day."""
        begun, day = self.clock.now(), self.clock.now() + 86400

        def done() -> str | None:
            self.looks += 1
            assert self.clock.now() < day, "waits for ever"
            return "there" if until is not None and self.clock.now() - begun >= until else None

        return self.follower.follow(done)

    def jump(self, seconds: float) -> None:
        """Let the clock jump while nobody runs: what was to happen in half a second is still to come then."""
        self.clock._now += seconds
        self.clock._agenda = [(when + seconds, action) for when, action in self.clock._agenda]

    def _write(self) -> None:
        assert self.note is not None
        files.write_text(self.path, self.note.text())


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(str(tmp_path / "locks" / "key.leader"))
    made.processes.install(monkeypatch)
    return made


def test_what_is_there_is_not_waited_for(scene: Scene) -> None:
    scene.lead()
    assert scene.follow(until=0) == "there"
    assert scene.clock.sleeps == []
    assert scene.tell.waited_for == []


def test_nobody_is_waited_for_where_nobody_leads(scene: Scene) -> None:
    assert scene.follow() is None
    assert scene.clock.sleeps == []


def test_a_leader_that_moves_is_waited_for_as_long_as_it_takes(scene: Scene) -> None:
    note = scene.lead()
    assert scene.follow(until=3 * PATIENCE) == "there"
    assert scene.tell.waited_for == [note.holder.pid], "told once"


def test_what_was_waited_for_is_seen_at_once(scene: Scene) -> None:
    scene.lead()
    begun = scene.clock.now()
    scene.follow(until=60)
    assert scene.clock.now() - begun <= 60 + LONGEST_POLL
    assert scene.looks < 60 / LONGEST_POLL * 1.5


def test_who_dies_is_waited_for_no_longer(scene: Scene) -> None:
    note = scene.lead()
    scene.clock.after(20, lambda: scene.processes.kill(note.holder))
    begun = scene.clock.now()
    assert scene.follow() is None
    assert scene.clock.now() - begun <= 20 + LONGEST_POLL


def test_who_ends_without_a_result_is_waited_for_no_longer(scene: Scene) -> None:
    scene.lead()
    scene.clock.after(20, scene.end)
    assert scene.follow() is None


def test_the_result_counts_even_if_the_leader_has_gone(scene: Scene) -> None:
    scene.lead()
    scene.clock.after(20, scene.end)
    assert scene.follow(until=20) == "there"


def test_who_shows_no_sign_of_life_is_passed_over(scene: Scene) -> None:
    note = scene.lead(beats=False, moves=False)
    begun = scene.clock.now()
    assert scene.follow() is None
    assert BEAT_LOST <= scene.clock.now() - begun <= BEAT_LOST + 1
    assert scene.follower.stalled(note)


def test_who_beats_but_does_not_move_is_passed_over_later(scene: Scene) -> None:
    scene.lead(moves=False)
    begun = scene.clock.now()
    assert scene.follow() is None
    assert PATIENCE <= scene.clock.now() - begun <= PATIENCE + 1


def test_another_leader_is_another_chance(scene: Scene) -> None:
    first = scene.lead(beats=False)
    scene.clock.after(BEAT_LOST - 1, scene.lead)
    assert scene.follow(until=40) == "there"
    assert scene.note is not None
    assert scene.tell.waited_for == [first.holder.pid, scene.note.holder.pid]


@pytest.mark.parametrize("gap", [60, 86000])
def test_ones_own_stop_is_not_the_leaders_silence(scene: Scene, gap: float) -> None:
    """A job that is suspended and resumed has leader and followers stopped alike."""
    note = scene.lead(beats=True)
    scene.follow(until=5)
    scene.jump(gap)
    assert not scene.follower.stalled(note)
    assert scene.follow(until=10) == "there"


def test_a_leader_that_stays_stopped_is_passed_over_after_a_resume(scene: Scene) -> None:
    scene.lead(beats=False)
    scene.follow(until=5)
    scene.jump(3600)
    begun = scene.clock.now()
    assert scene.follow() is None
    assert scene.clock.now() - begun <= BEAT_LOST + 1


def test_a_clock_that_goes_back_harms_nobody(scene: Scene) -> None:
    scene.lead()
    scene.follow(until=5)
    scene.jump(-900)
    assert scene.follow(until=30) == "there"


def test_a_note_of_nonsense_is_no_leader(scene: Scene) -> None:
    for text in ("", "\0" * 1000, "holder nobody\n", "beat 1\n"):
        files.write_text(scene.path, text)
        assert scene.follow() is None


def test_absurd_numbers_are_no_reason_to_fail(scene: Scene) -> None:
    note = scene.lead(holder=scene.processes.start())
    scene.note = None
    record = note.text().replace("since ", "since 9e99 ").replace("done 0", "done nan").replace("total 1", "total inf")
    files.write_text(scene.path, record)
    assert scene.follow(until=5) == "there"


def test_what_goes_wrong_while_looking_is_told_at_once(scene: Scene) -> None:
    scene.lead()

    def fail() -> None:
        raise NotFound("404")

    with pytest.raises(NotFound):
        scene.follower.follow(fail)


class TestWake:
    """The leader's end is felt, not looked for."""

    @pytest.fixture
    def fifo(self, tmp_path: Path) -> str:
        path = wake_path(str(tmp_path / "note"))
        os.mkfifo(path)
        return path

    @pytest.mark.parametrize("many", [1, 8])
    def test_all_are_woken_when_the_leader_goes(self, fifo: str, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(waiting, "WOKEN_POLL", 30.0)
        leader = os.open(fifo, os.O_RDWR)
        wakes = [Wake(fifo, FakeClock()) for _ in range(many)]
        for wake in wakes:
            wake.listen()
        threads = [threading.Thread(target=wake.wait, args=(30,)) for wake in wakes]
        for thread in threads:
            thread.start()
        os.close(leader)
        for thread in threads:
            thread.join(5)
        assert not any(thread.is_alive() for thread in threads)
        for wake in wakes:
            wake.close()

    def test_who_listens_before_the_leader_comes_is_woken_by_its_end(
        self, fifo: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiting, "WOKEN_POLL", 30.0)
        wake = Wake(fifo, FakeClock())
        wake.listen()
        os.close(os.open(fifo, os.O_RDWR))
        with within(5):
            wake.wait(30)
        wake.close()

    def test_without_a_fifo_it_sleeps(self, tmp_path: Path) -> None:
        clock = FakeClock()
        wake = Wake(str(tmp_path / "absent"), clock)
        wake.listen()
        wake.wait(0.5)
        wake.close()
        assert clock.sleeps == [0.5]

    def test_a_link_is_no_fifo(self, fifo: str, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(fifo)
        clock = FakeClock()
        wake = Wake(str(tmp_path / "link"), clock)
        wake.listen()
        wake.wait(0.5)
        assert clock.sleeps == [0.5]

    def test_a_living_leader_is_looked_at_now_and_then(self, fifo: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(waiting, "WOKEN_POLL", 0.01)
        leader = os.open(fifo, os.O_RDWR)
        wake = Wake(fifo, FakeClock())
        wake.listen()
        with within(5):
            wake.wait(30)
        wake.close()
        os.close(leader)
