"""Leading: the note is there while we lead, it beats, it survives claims, and it goes when we end."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING, NoReturn

import pytest

from stager import leading
from stager.leading import Leadership, claimed
from stager.store import files
from stager.store.memory import LeaderNote, read_leader
from stager.waiting import wake_path
from tests.support.fake_clock import FakeClock
from tests.support.fake_node import Processes, SilentTeller

if TYPE_CHECKING:
    from pathlib import Path


class BeatingTeller(SilentTeller):
    """Counts beats, which are told after they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.beats = threading.Semaphore(0)

    def progress(self, phase: str, done: int, total: int) -> None:
        self.beats.release()

    def forget(self) -> None:
        """Count from here on."""
        while self.beats.acquire(blocking=False):
            pass

    def wait(self, beats: int = 1) -> None:
        for _ in range(beats):
            assert self.beats.acquire(timeout=2), "the heart does not beat"


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    made = Processes()
    made.install(monkeypatch)
    monkeypatch.setattr(leading, "BEAT_SECONDS", 0.001)
    return made


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "locks").mkdir()
    return str(tmp_path / "locks" / "key.leader")


def note_of(processes: Processes, path: str, turn: int = 0) -> LeaderNote:
    """Leave another living process's note."""
    note = LeaderNote(processes.start(), 0, turn)
    files.write_text(path, note.text())
    return note


class TestClaiming:
    def test_a_claim_is_there_for_its_time(self, processes: Processes, path: str) -> None:
        with claimed(path, FakeClock(), 2) as ours:
            note = read_leader(path)
            assert ours
            assert note is not None
            assert (note.holder, note.turn) == (processes.current(), 2)
        assert not os.path.exists(path)

    @pytest.mark.parametrize(("theirs", "mine", "won"), [(0, 0, False), (1, 0, False), (0, 1, True)])
    def test_the_living_are_respected_unless_passed_over(
        self, processes: Processes, path: str, theirs: int, mine: int, *, won: bool
    ) -> None:
        other = note_of(processes, path, theirs)
        with claimed(path, FakeClock(), mine) as ours:
            assert ours == won
        left = read_leader(path)
        assert (left is None) == won
        assert left is None or left.holder == other.holder

    @pytest.mark.parametrize("turn", [0, 3])
    def test_the_dead_are_not(self, processes: Processes, path: str, turn: int) -> None:
        processes.kill(note_of(processes, path, 3).holder)
        with claimed(path, FakeClock(), turn) as ours:
            assert ours

    @pytest.mark.parametrize("litter", ["", "nonsense", "\0\0"])
    def test_litter_is_covered(self, processes: Processes, path: str, litter: str) -> None:
        files.write_text(path, litter)
        with claimed(path, FakeClock(), 0) as ours:
            assert ours

    def test_a_claim_ends_however_its_context_does(self, processes: Processes, path: str) -> None:
        with pytest.raises(KeyboardInterrupt), claimed(path, FakeClock(), 0):
            raise KeyboardInterrupt
        assert not os.path.exists(path)

    def test_a_full_disk_does_not_keep_us_from_making_room(
        self, processes: Processes, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "write_aside", full)
        with claimed(path, FakeClock(), 0) as ours, Leadership(path, FakeClock(), 0, SilentTeller()):
            assert ours

    def test_of_a_crowd_few_go_on_to_the_lock(self, processes: Processes, path: str) -> None:
        start, stay, won = threading.Barrier(16), threading.Barrier(16), []

        def task() -> None:
            start.wait()
            with claimed(path, FakeClock(), 0) as ours:
                won.append(ours)
                stay.wait()

        threads = [threading.Thread(target=task) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won.count(True) == 1


def full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "no space")


class TestLeading:
    def test_the_note_says_how_far_it_is(self, processes: Processes, path: str) -> None:
        tell = BeatingTeller()
        with Leadership(path, FakeClock(), 1, tell) as leadership:
            leadership.phase, leadership.measure = "pulling", lambda: (5, 10)
            tell.forget()
            tell.wait(3)
            note = read_leader(path)
            assert note is not None
            assert (note.holder, note.turn, note.phase, note.done, note.total) == (
                *(processes.current(), 1, "pulling", 5, 10),
            )
            assert note.beat >= 2
        assert not os.path.exists(path)

    def test_it_ends_however_its_context_does(self, processes: Processes, path: str) -> None:
        before = threading.active_count()
        with pytest.raises(KeyboardInterrupt), Leadership(path, FakeClock(), 0, SilentTeller()):
            raise KeyboardInterrupt
        assert not os.path.exists(path)
        assert threading.active_count() == before

    @pytest.mark.parametrize("what", ["covered", "removed", "litter", "covered by the dead"])
    def test_the_note_comes_back(self, processes: Processes, path: str, what: str) -> None:
        tell = BeatingTeller()
        with Leadership(path, FakeClock(), 1, tell):
            tell.wait()
            if what.startswith("covered"):
                other = note_of(processes, path, 5 if "dead" in what else 1)
                if "dead" in what:
                    processes.kill(other.holder)
            elif what == "removed":
                os.unlink(path)
            else:
                files.write_text(path, "litter")
            tell.wait(3)
            note = read_leader(path)
            assert note is not None
            assert note.holder == processes.current()

    def test_who_was_passed_over_leaves_the_note_to_the_successor(self, processes: Processes, path: str) -> None:
        tell = BeatingTeller()
        with Leadership(path, FakeClock(), 0, tell) as leadership:
            tell.wait()
            successor = note_of(processes, path, 1)
            leadership._thread.join(5)
            assert not leadership._thread.is_alive()
        left = read_leader(path)
        assert left is not None
        assert left.holder == successor.holder

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
    def test_a_heart_beats_on_when_it_cannot_be_heard(
        self, processes: Processes, path: str, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        tell = BeatingTeller()

        def refused(*_: object, **__: object) -> NoReturn:
            raise OSError(number, os.strerror(number))

        with Leadership(path, FakeClock(), 0, tell) as leadership:
            tell.wait()
            with monkeypatch.context() as patch:
                patch.setattr(files, "write_text", refused)
                tell.wait(3)
            tell.wait(2)
            assert leadership._thread.is_alive()
            assert read_leader(path) is not None

    def test_followers_feel_the_end(self, processes: Processes, path: str) -> None:
        with Leadership(path, FakeClock(), 0, SilentTeller()):
            reader = os.open(wake_path(path), os.O_RDONLY | os.O_NONBLOCK)
            with pytest.raises(BlockingIOError):
                os.read(reader, 1)  # somebody holds the other end
        assert os.read(reader, 1) == b""
        os.close(reader)

    @pytest.mark.parametrize("kind", ["file", "link", "folder"])
    def test_what_is_no_fifo_is_done_without(self, processes: Processes, path: str, tmp_path: Path, kind: str) -> None:
        fifo = wake_path(path)
        (tmp_path / "precious").write_text("x")
        {"file": lambda: open(fifo, "w").close(), "link": lambda: os.symlink(tmp_path / "precious", fifo),
         "folder": lambda: os.mkdir(fifo)}[kind]()  # fmt: skip
        with Leadership(path, FakeClock(), 0, SilentTeller()):
            assert read_leader(path) is not None
        assert (tmp_path / "precious").read_text() == "x"

    def test_no_descriptor_stays_open(self, processes: Processes, path: str) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with Leadership(path, FakeClock(), 0, SilentTeller()):
                pass
        assert len(os.listdir("/proc/self/fd")) == before
