"""Downloads: going on, going parallel, giving up, and leaving no thread behind."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, NoReturn

import pytest

from stager import download
from stager.download import Download
from stager.errors import NoSpace, NotAnImage, NotFound, OriginUnavailable, StageImageError
from stager.interfaces import Validators
from stager.retry import RetryPolicy
from stager.store import syncing
from stager.store.partial import Partial
from tests.support.fake_clock import FakeClock
from tests.support.fake_node import ticking
from tests.support.scripted_source import UNKNOWN_SIZE, Fault, Gate, ScriptedSource, Version
from tests.support.within import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BYTES = bytes(range(256)) * 4
ONE = Version(BYTES, etag='"1"')
TWO = Version(bytes(reversed(BYTES)), etag='"2"')
SILENT = Version(BYTES)


def gone() -> NotFound:
    return NotFound("404")


def refused() -> OriginUnavailable:
    return OriginUnavailable("429")


@dataclass
class Fetching:
    """A download into a fresh copy below `folder`."""

    folder: str
    clock: FakeClock = field(default_factory=FakeClock)
    waits: list[tuple[str, float]] = field(default_factory=list)
    rooms: list[int] = field(default_factory=list)

    def copy(self) -> Partial:
        return Partial(self.folder)

    def of(self, source: ScriptedSource, copy: Partial, **how: object) -> Download:
        return Download(
            source,
            copy,
            RetryPolicy(base=0.1, deadline=20, attempts=4),
            self.clock,
            room=self.rooms.append,
            on_wait=lambda error, seconds: self.waits.append((error.message, seconds)),
            **how,  # type: ignore[arg-type]
        )


@pytest.fixture
def fetching(tmp_path: Path) -> Iterator[Fetching]:
    before = set(threading.enumerate())
    yield Fetching(str(tmp_path / "copy"))
    assert set(threading.enumerate()) <= before, "a thread stays behind"


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch, fetching: Fetching) -> Fetching:
    """Let more streams pay from the first chunk on, each look at the clock taking a moment."""
    eagerness = {"PAYS_BYTES": 64, "SHARE_BYTES": 64, "JUDGE_SECONDS": 0.0, "PAYS_SECONDS": 0.0, "GAIN": 0.0}
    for name, value in eagerness.items():
        monkeypatch.setattr(download, name, value)
    monkeypatch.setattr(fetching.clock, "now", ticking(fetching.clock))
    return fetching


def content(copy: Partial) -> bytes:
    return os.pread(copy.fileno(), 10_000, 0)


def test_all_of_it_arrives(fetching: Fetching) -> None:
    source, copy = ScriptedSource(ONE, piece=100, private=True), fetching.copy()
    assert fetching.of(source, copy).run()
    assert (content(copy), copy.size, copy.validators, copy.origin, copy.private) == (
        *(BYTES, len(BYTES), ONE.validators, source.name, True),
    )
    assert fetching.rooms == [len(BYTES)]
    assert source.closed == 1
    copy.close()


def test_what_the_origin_still_has_is_not_fetched(fetching: Fetching) -> None:
    source, copy = ScriptedSource(ONE), fetching.copy()
    assert not fetching.of(source, copy).run(unless=ONE.validators)
    assert (copy.held, fetching.rooms) == (0, [])
    copy.close()


def test_a_break_costs_a_pause_and_no_byte(fetching: Fetching) -> None:
    source, copy = ScriptedSource(ONE, [Fault(break_at=300), Fault(break_at=300)], piece=100), fetching.copy()
    assert fetching.of(source, copy).run()
    assert [asked.start for asked in source.asked] == [0, 300, 600]
    assert [asked.if_range for asked in source.asked] == [None, ONE.validators, ONE.validators]
    assert source.served == len(BYTES)
    assert len(fetching.waits) == 2
    assert copy.digest().hex == sha256(BYTES).hexdigest()
    copy.close()


@pytest.mark.parametrize("version", [ONE, SILENT])
def test_a_pinned_image_is_gone_on_with_whatever_the_origin_says(fetching: Fetching, version: Version) -> None:
    source, copy = ScriptedSource(version, [Fault(break_at=300)], piece=100), fetching.copy()
    assert fetching.of(source, copy, pinned=True).run()
    assert source.served == len(BYTES)
    copy.close()


def test_without_a_word_on_the_version_it_starts_over(fetching: Fetching) -> None:
    source, copy = ScriptedSource(SILENT, [Fault(break_at=300)], piece=100), fetching.copy()
    assert fetching.of(source, copy).run()
    assert [asked.start for asked in source.asked] == [0, 0]
    assert content(copy) == BYTES
    copy.close()


@pytest.mark.parametrize("version", [ONE, TWO])
def test_a_complete_copy_is_fetched_no_more_if_it_is_current(fetching: Fetching, version: Version) -> None:
    source, copy = ScriptedSource(ONE, piece=100), fetching.copy()
    fetching.of(source, copy).run()
    copy.close()
    source.version, again = version, fetching.copy()
    assert fetching.of(source, again).run()
    assert content(again) == version.content
    assert source.served == len(BYTES) * (1 if version is ONE else 2)
    again.close()


def test_a_complete_pinned_copy_needs_nobodys_word(fetching: Fetching) -> None:
    source, copy = ScriptedSource(ONE), fetching.copy()
    fetching.of(source, copy).run()
    assert fetching.of(source, copy, pinned=True).run()
    assert len(source.asked) == 1
    copy.close()


def test_a_copy_of_unknown_size_is_complete_once_it_has_ended(fetching: Fetching) -> None:
    source, copy = ScriptedSource(ONE, then=Fault(size=UNKNOWN_SIZE), piece=100), fetching.copy()
    assert fetching.of(source, copy).run()
    copy.close()
    again = fetching.copy()
    assert fetching.of(source, again).run()
    assert source.served == len(BYTES)
    assert content(again) == BYTES
    again.close()


def test_an_answer_to_a_part_does_not_end_another_version(fetching: Fetching) -> None:
    copy = fetching.copy()
    copy.begin(ONE.validators, len(BYTES), "origin", private=False)
    copy.split(copy.segments[0])
    copy.write(copy.segments[0], BYTES[:50])
    other = Version(bytes(reversed(BYTES)), etag='"2"')
    source = ScriptedSource(ONE, [Fault(move=other, size=UNKNOWN_SIZE)], piece=100)
    assert fetching.of(source, copy).run()
    assert content(copy) == other.content
    copy.close()


@pytest.mark.parametrize("first", ["complete", "begun", "empty"])
def test_several_segments_of_the_dead_are_gone_on_with(fetching: Fetching, first: str) -> None:
    copy = fetching.copy()
    copy.begin(ONE.validators, len(BYTES), "origin", private=False)
    later = copy.split(copy.segments[0])
    copy.write(later, BYTES[later.start : later.start + 100])
    copy.write(copy.segments[0], BYTES[: {"complete": 512, "begun": 50, "empty": 0}[first]])
    had = copy.held
    copy.close()
    source, again = ScriptedSource(ONE, piece=100), fetching.copy()
    assert fetching.of(source, again).run()
    assert content(again) == BYTES
    assert source.served == len(BYTES) - had
    assert fetching.rooms == [len(BYTES) - had]
    again.close()


def test_bytes_from_elsewhere_are_not_taken(fetching: Fetching) -> None:
    source, copy = ScriptedSource(ONE, [Fault(break_at=300), Fault(elsewhere=7)], piece=100), fetching.copy()
    assert fetching.of(source, copy).run()
    assert content(copy) == BYTES
    copy.close()


def test_no_room_ends_it_at_once(fetching: Fetching) -> None:
    def room(size: int) -> NoReturn:
        raise NoSpace("full")

    source, copy = ScriptedSource(ONE, piece=100), fetching.copy()
    it = fetching.of(source, copy)
    it.room = room
    with pytest.raises(NoSpace):
        it.run()
    assert (source.served, len(source.asked), source.closed) == (0, 1, 1)
    copy.close()


@pytest.mark.parametrize("breaks", [[], [Fault(break_at=10)]])
def test_the_beginning_is_looked_at_once_it_is_there(
    fetching: Fetching, monkeypatch: pytest.MonkeyPatch, breaks: list[Fault]
) -> None:
    monkeypatch.setattr(download, "LOOK_BYTES", 64)
    source, copy, seen = ScriptedSource(ONE, breaks, piece=10), fetching.copy(), list[bytes]()

    def look(partial: Partial) -> None:
        seen.append(content(partial))
        raise NotAnImage("a web page")

    with pytest.raises(NotAnImage):
        fetching.of(source, copy, look=look).run()
    assert [len(s) >= 64 for s in seen] == [True]
    assert source.served < 100
    copy.close()


def test_what_was_fetched_stays_when_hope_is_gone(fetching: Fetching) -> None:
    source, copy = ScriptedSource(ONE, [Fault(break_at=300)], then=Fault(refuse=refused), piece=100), fetching.copy()
    with pytest.raises(OriginUnavailable):
        fetching.of(source, copy).run()
    assert copy.held == 300
    assert len(source.asked) <= 1 + 4
    copy.close()


def test_a_disk_error_is_the_callers(fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "full")

    source, copy = ScriptedSource(ONE), fetching.copy()
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        fetching.of(source, copy).run()
    assert source.closed <= 1
    monkeypatch.undo()
    copy.close()


class TestSyncing:
    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(syncing, "SECONDS", 0.001)
        monkeypatch.setattr(syncing, "BYTES", 100)

    def run(self, fetching: Fetching, monkeypatch: pytest.MonkeyPatch, sync: Callable[[Partial], None]) -> None:
        """Download with a gate half-way, until `sync` has been called."""
        synced, gate = threading.Event(), Gate(500)

        def called(partial: Partial) -> None:
            try:
                sync(partial)
            finally:
                synced.set()
                gate.go.set()

        monkeypatch.setattr(Partial, "sync", called)
        source, copy = ScriptedSource(ONE, [Fault(gate=gate)], piece=100), fetching.copy()
        with within(10):
            assert fetching.of(source, copy).run()
        assert synced.is_set()
        assert content(copy) == BYTES
        copy.close()

    def test_it_is_written_back_on_the_way(self, fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run(fetching, monkeypatch, Partial.sync)
        assert os.path.getsize(f"{fetching.folder}/durable") == 24

    def test_a_failing_disk_is_told_by_the_last_sync(self, fetching: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_partial: Partial) -> None:
            raise OSError(errno.EIO, "bad")

        self.run(fetching, monkeypatch, fail)


class TestStreams:
    """More than one connection, where it pays."""

    def test_one_is_the_rule(self, fetching: Fetching) -> None:
        source, copy = ScriptedSource(ONE, piece=10), fetching.copy()
        assert fetching.of(source, copy, streams=4).run()
        assert len(source.asked) == 1
        copy.close()

    def test_several_fill_one_image(self, eager: Fetching) -> None:
        source, copy = ScriptedSource(ONE, piece=10), eager.copy()
        assert eager.of(source, copy, streams=3).run()
        assert content(copy) == BYTES
        assert len(source.asked) > 1
        assert source.served <= len(BYTES) + 10 * len(source.asked), "no byte twice, but for the ends of pieces"
        assert source.closed == len(source.asked)
        copy.close()

    @pytest.mark.parametrize("fault", [Fault(ranges=False), Fault(silent=True), Fault(size=UNKNOWN_SIZE)])
    def test_no_more_than_one_where_parts_cannot_be_had(self, eager: Fetching, fault: Fault) -> None:
        source, copy = ScriptedSource(ONE, then=fault, piece=10), eager.copy()
        eager.of(source, copy, streams=3).run()
        assert content(copy) == BYTES
        assert len(source.asked) == 1
        copy.close()

    @pytest.mark.parametrize(
        "fault",
        [
            *(Fault(refuse=refused), Fault(refuse=gone), Fault(ranges=False)),
            *(Fault(break_at=5), Fault(elsewhere=3), Fault(move=TWO)),
        ],
    )
    def test_what_happens_to_another_stream_is_no_matter(self, eager: Fetching, fault: Fault) -> None:
        source, copy = ScriptedSource(ONE, [Fault(), fault], piece=10), eager.copy()
        assert eager.of(source, copy, streams=2).run()
        assert content(copy) in (BYTES, TWO.content)
        copy.close()

    @pytest.mark.parametrize("breaks", [gone, refused])
    def test_when_the_first_fails_the_others_end_with_it(
        self, eager: Fetching, breaks: Callable[[], StageImageError], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = Gate(0)
        faults = [Fault(break_at=200, breaks=breaks), Fault(gate=gate)]
        source, copy = ScriptedSource(ONE, faults, then=Fault(refuse=gone), piece=10), eager.copy()
        held_back = threading.Event()
        real = source.open

        def ordered(*args: object, **how: object) -> object:
            stream = real(*args, **how)  # type: ignore[arg-type]
            held_back.set()
            return stream

        monkeypatch.setattr(source, "open", ordered)
        with within(10), pytest.raises(NotFound):
            eager.of(source, copy, streams=2).run()
        assert threading.active_count() == 1, "somebody may still write to descriptors that are closed now"
        copy.close()

    def test_when_the_origin_moves_all_begin_anew(self, eager: Fetching) -> None:
        source, copy = ScriptedSource(ONE, [Fault(break_at=500), Fault(), Fault(move=TWO)], piece=10), eager.copy()
        with within(10):
            assert eager.of(source, copy, streams=2).run()
        assert content(copy) in (BYTES, TWO.content)
        assert copy.validators in (ONE.validators, TWO.validators)
        copy.close()

    def test_a_stream_that_brings_no_gain_is_the_last(self, eager: Fetching, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download, "GAIN", 1e9)
        source, copy, at_once, real = ScriptedSource(ONE, piece=10), eager.copy(), list[int](), ScriptedSource.open

        def counted(*args: object, **how: object) -> object:
            stream = real(source, *args, **how)  # type: ignore[arg-type]
            at_once.append(len(source.asked) - source.closed)
            return stream

        monkeypatch.setattr(source, "open", counted)
        assert eager.of(source, copy, streams=8).run()
        assert max(at_once) == 2
        copy.close()


def test_nothing_said_is_nothing_known() -> None:
    assert not Validators(size=5)
