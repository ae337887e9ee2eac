"""What a store remembers: pins, failures, leaders, mirrors; by one boot's clock, which never jumps."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from stager.errors import NoSpace, NotFound, OriginUnavailable
from stager.interfaces import Validators
from stager.process import current
from stager.reference import Digest
from stager.store import files, memory
from stager.store.memory import LeaderNote, MirrorFailures
from tests.support.fake_clock import FakeClock
from tests.support.fake_node import Processes

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = Digest("11" * 32), Digest("22" * 32)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "records" / "record")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_what_was_seen_is_remembered(path: str) -> None:
    version = Validators('W/"a\\nb"', "Tue, 01 Jan 2030", 12)
    memory.write_seen(path, "https://origin/x", ONE, validators=version, at=17.5)
    seen = memory.read_seen(path)
    assert seen is not None
    assert (seen.digest, Validators(seen.etag, seen.modified, seen.size), seen.at) == (ONE, version, 17.5)
    assert [seen.since(moment) for moment in (0, 17.5, 18)] == [True, True, False]


def test_what_was_seen_in_another_boot_was_seen_at_no_time(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes()
    processes.install(monkeypatch)
    memory.write_seen(path, "r", ONE, validators=Validators(), at=1e9)
    processes.reboot(monkeypatch)
    seen = memory.read_seen(path)
    assert seen is not None
    assert not seen.since(0)


def test_one_of_many_pins_a_job_and_all_go_by_it(path: str) -> None:
    start, answers = threading.Barrier(8), []
    digests = [Digest(f"{number}" * 64) for number in range(8)]

    def pin(digest: Digest) -> None:
        start.wait()
        answers.append(memory.write_pin(path, digest, until=None, now=0))

    threads = [threading.Thread(target=pin, args=(digest,)) for digest in digests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
    assert memory.read_pin(path, 1e9) == answers[0]


def test_a_pin_of_a_session_does_not_outlive_its_boot(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes()
    processes.install(monkeypatch)
    memory.write_pin(path, ONE, until=1e9, now=0)
    processes.reboot(monkeypatch)
    assert memory.read_pin(path, 0) is None
    assert memory.write_pin(path, TWO, until=None, now=0) == TWO


@pytest.mark.parametrize("litter", ["", "digest sha256:xyz\n", "\0\1\2", f"digest {ONE.hex}\n"])
def test_a_pin_that_says_nothing_is_replaced(path: str, litter: str) -> None:
    files.write_text(path, litter)
    assert memory.read_pin(path, 0) is None
    assert memory.write_pin(path, TWO, until=None, now=0) == TWO
    assert memory.read_pin(path, 0) == TWO


def test_a_failure_stands_for_its_time_and_then_no_more(path: str, clock: FakeClock) -> None:
    memory.write_failure(path, NotFound("404"), clock, 10)
    begun = clock.now()
    for seconds, stands in ((0, True), (9.9, True), (10.1, False)):
        failure = memory.read_failure(path, begun + seconds, begun=0)
        assert (failure is not None) == stands, seconds
    assert isinstance(memory.read_failure(path, begun, begun=0), NotFound)


def test_failures_in_a_row_double_the_wait(path: str, clock: FakeClock) -> None:
    for expected in (10, 20, 40, 80, 160, 300, 300):
        memory.write_failure(path, NotFound("404"), clock, 10)
        assert memory.read_failure(path, clock.now() + expected - 1, begun=0) is not None
        assert memory.read_failure(path, clock.now() + expected + 1, begun=0) is None
        clock.advance(expected + 1)
    os.unlink(path)
    memory.write_failure(path, NotFound("404"), clock, 10)
    assert memory.read_failure(path, clock.now() + 11, begun=0) is None


def test_a_failure_from_before_a_reboot_is_forgotten(
    path: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = Processes()
    processes.install(monkeypatch)
    memory.write_failure(path, NotFound("404"), clock, 300)
    processes.reboot(monkeypatch)
    assert memory.read_failure(path, clock.now(), begun=0) is None
    memory.write_failure(path, NotFound("404"), clock, 10)
    assert memory.read_failure(path, clock.now() + 11, begun=0) is None, "the count began anew"


def test_a_retry_believes_only_what_comes_after_it(path: str, clock: FakeClock) -> None:
    memory.write_failure(path, OriginUnavailable("away"), clock, 100)
    clock.advance(5)
    begun = clock.now()
    assert memory.read_failure(path, begun, begun=begun) is not None
    assert memory.read_failure(path, begun, begun=begun, since=begun) is None
    memory.write_failure(path, OriginUnavailable("away"), clock, 100)
    assert memory.read_failure(path, begun, begun=begun, since=begun) is not None


def test_a_full_disk_stands_for_those_who_waited_only(path: str, clock: FakeClock) -> None:
    before = clock.now()
    clock.advance(1)
    memory.write_failure(path, NoSpace("full"), clock, 100)
    clock.advance(1)
    assert memory.read_failure(path, clock.now(), begun=before) is not None
    assert memory.read_failure(path, clock.now(), begun=clock.now()) is None


def test_clocks_that_went_back_do_not_prolong_a_failure(path: str, clock: FakeClock) -> None:
    clock.advance(1e6)
    memory.write_failure(path, NotFound("404"), clock, 10)
    assert memory.read_failure(path, 5.0, begun=0) is None, "it would stand for eleven days"


@pytest.mark.parametrize("error", ["annotations", "StageImageErrors", "", "os", "__doc__"])
def test_a_failure_of_no_known_kind_is_one_of_the_origin(path: str, clock: FakeClock, error: str) -> None:
    memory.write_failure(path, NotFound("404"), clock, 10)
    record = files.read_record(path)
    assert record is not None
    files.write_record(path, record | {"error": error})
    assert type(memory.read_failure(path, clock.now(), begun=0)) is OriginUnavailable


def test_a_leaders_note_is_read_as_written(path: str) -> None:
    note = LeaderNote(current(), 1e9, turn=3)
    note.phase, note.done, note.total, note.beat = "pulling", 5, 10, 7
    files.write_text(path, note.text())
    read = memory.read_leader(path)
    assert read is not None
    assert read.record() == note.record() | {"since": read.record()["since"]}
    assert read.since == note.since


@pytest.mark.parametrize("text", ["", "holder\n", "holder 1.2\n", "holder me\n", "turn 1\n", "\0" * 100])
def test_a_note_without_a_holder_is_none(path: str, text: str) -> None:
    files.write_text(path, text)
    assert memory.read_leader(path) is None


def test_a_failed_mirror_is_passed_over_for_a_while_by_all(tmp_path: Path, clock: FakeClock) -> None:
    mine, other = (MirrorFailures(str(tmp_path), clock) for _ in range(2))
    assert not mine.failed("mirror/../x")
    mine.remember("mirror/../x")
    assert other.failed("mirror/../x")
    assert not other.failed("another")
    clock.advance(memory.MIRROR_SECONDS + 1)
    assert not mine.failed("mirror/../x")
