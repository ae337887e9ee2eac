"""Bytes in flight: whatever happens to a copy, it never claims a byte that it does not hold."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stager.interfaces import Validators
from stager.store import copies
from stager.store.partial import Partial
from stager.store.segments import UNKNOWN_END, Segment
from tests.support.effort import effort
from tests.support.fake_node import Processes

if TYPE_CHECKING:
    from stager.process import ProcessIdentity

SIZE = 400


def content(number: int, size: int = SIZE) -> bytes:
    """Return bytes that differ between versions at every position."""
    return bytes((number * 31 + position) % 251 for position in range(size))


@dataclass
class Copy:
    """A copy as the test knows it: whose it is, which version it holds, and what would outlive a power loss."""

    copy: Partial
    owner: ProcessIdentity
    version: int = 0
    synced: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass
class Orphan:
    """What a dead process left: `held` bytes of a version at least, unless somebody cut the file."""

    folder: str
    version: int
    held: int
    synced: list[tuple[int, int, int]]
    cut: bool = False


class Copies(RuleBasedStateMachine):
    """Copies of one reference, their owners, reboots and a cutter."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.processes = Processes()
        self.processes.install(self.patch)
        self.patch.setattr(os, "fsync", lambda _fd: None)
        self.patch.setattr(os, "fdatasync", lambda _fd: None)
        self.base = tempfile.mkdtemp()
        self.root = f"{self.base}/partial/key"
        self.copies: list[Copy] = []
        self.orphans: list[Orphan] = []
        self.versions = 0

    def teardown(self) -> None:
        for held in self.copies:
            held.copy.close()
        self.patch.undo()
        shutil.rmtree(self.base)

    @rule()
    def take(self) -> None:
        """A new leader goes on with what is there, or begins."""
        me = self.processes.start()
        with self.processes.playing(me):
            adopted = copies.adopt(self.root)
            taken = Copy(adopted or Partial(copies.own_folder(self.root)), me)
        if adopted is not None:
            self._check_adopted(taken)
        self.copies.append(taken)

    @rule(data=st.data(), known=st.booleans())
    @precondition(lambda self: self.copies)
    def begin(self, data: st.DataObject, *, known: bool) -> None:
        held = data.draw(st.sampled_from(self.copies))
        self.versions += 1
        held.version, held.synced = self.versions, []
        held.copy.begin(Validators(str(self.versions)), SIZE if known else None, "origin", private=False)

    @rule(data=st.data(), length=st.integers(0, SIZE))
    @precondition(lambda self: self._filling())
    def write(self, data: st.DataObject, length: int) -> None:
        held = data.draw(st.sampled_from(self._filling()))
        segment = data.draw(st.sampled_from(held.copy.segments))
        before = segment.position
        chunk = content(held.version)[before : before + length]
        kept = held.copy.write(segment, chunk)
        assert kept == min(len(chunk), segment.end - before)
        assert segment.position == before + kept <= segment.end

    @rule(data=st.data())
    @precondition(lambda self: self._filling())
    def split(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self._filling()))
        segment = data.draw(st.sampled_from(held.copy.segments))
        if held.copy.size is not None and segment.missing > 1 and len(held.copy.segments) < 6:
            later = held.copy.split(segment)
            assert segment.end == later.start
            assert later.missing > 0

    @rule(data=st.data())
    @precondition(lambda self: self._filling())
    def finish(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self._filling()))
        if held.copy.segments[0].end == UNKNOWN_END:
            held.copy.finish()
            assert held.copy.complete

    @rule(data=st.data())
    @precondition(lambda self: self.copies)
    def sync(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.copies))
        held.copy.sync()
        held.synced = [(s.start, s.position, s.end) for s in held.copy.segments]

    @rule(data=st.data())
    @precondition(lambda self: self.copies)
    def digest(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.copies)).copy
        assert held.digest().hex == sha256(self._read(held)[: held.position]).hexdigest()

    @rule(data=st.data(), politely=st.booleans())
    @precondition(lambda self: self.copies)
    def die(self, data: st.DataObject, *, politely: bool) -> None:
        held = data.draw(st.sampled_from(self.copies))
        self.copies.remove(held)
        before = set(copies.folders(self.root))
        had = held.copy.held
        if politely:
            held.copy.leave()
        held.copy.close()
        self.processes.kill(held.owner)
        left = held.copy.folder if os.path.isdir(held.copy.folder) else "".join({*copies.folders(self.root)} - before)
        assert left or not had, "a copy with bytes in it was thrown away"
        if left:
            self.orphans.append(Orphan(left, held.version, had, held.synced))

    @rule(data=st.data(), length=st.integers(0, SIZE))
    @precondition(lambda self: self.orphans)
    def cut(self, data: st.DataObject, length: int) -> None:
        orphan = data.draw(st.sampled_from(self.orphans))
        path = f"{orphan.folder}/data"
        if os.path.getsize(path) > length:
            os.truncate(path, length)
            orphan.cut = True

    @rule(names_too=st.booleans())
    def lose_power(self, *, names_too: bool) -> None:
        """What was not synced is gone: zeros where bytes were and, perhaps, an account of them that is nothing."""
        for held in self.copies:
            held.copy.close()
            self.orphans.append(Orphan(held.copy.folder, held.version, 0, held.synced))
        self.copies.clear()
        for orphan in self.orphans:
            self._forget_unsynced(orphan)
            orphan.held = sum(position - start for start, position, _ in orphan.synced)
            if names_too:
                os.truncate(f"{orphan.folder}/progress", 0)
        self.processes.reboot(self.patch)

    @invariant()
    def every_claimed_byte_is_there(self) -> None:
        for held in self.copies:
            there, truth = self._read(held.copy), content(held.version)
            for segment in held.copy.segments:
                span = slice(segment.start, segment.position)
                assert there[span] == truth[span], f"bytes {span} are not those of version {held.version}"

    @invariant()
    def position_is_the_beginning_without_a_gap(self) -> None:
        for held in self.copies:
            there, truth = self._read(held.copy), content(held.version)
            assert there[: held.copy.position] == truth[: held.copy.position]
            assert held.copy.position <= held.copy.held

    def _check_adopted(self, taken: Copy) -> None:
        orphan = next((o for o in self.orphans if not os.path.isdir(o.folder)), None)
        assert orphan is not None, "adopted from the living"
        self.orphans.remove(orphan)
        taken.version, taken.synced = orphan.version, orphan.synced
        assert orphan.cut or taken.copy.held >= orphan.held, "bytes were lost"
        if not taken.copy.held:
            taken.synced = []
        sound = [other.held for other in self.orphans if not other.cut]
        assert orphan.cut or orphan.held >= max(sound, default=0), "a fuller copy was passed over"

    def _forget_unsynced(self, orphan: Orphan) -> None:
        path = f"{orphan.folder}/data"
        with open(path, "rb") as file:
            there = file.read()
        kept = bytearray(len(there))
        for start, position, _ in orphan.synced:
            kept[start:position] = there[start:position]
        with open(path, "r+b") as file:
            file.write(kept)

    def _filling(self) -> list[Copy]:
        return [held for held in self.copies if held.copy.segments]

    def _read(self, copy: Partial) -> bytes:
        return os.pread(copy.fileno(), SIZE * 2, 0)


Copies.TestCase.settings = effort(10, steps=25)
TestCopies = Copies.TestCase


segments = st.builds(Segment, *(st.integers(0, 2**64 - 1) | st.integers(0, 300) for _ in range(3)))


@given(st.binary(max_size=100) | st.lists(segments, max_size=4).map(lambda s: b"".join(map(_packed, s))))
@effort(20)
def test_no_account_makes_a_copy_claim_what_is_not_there(
    tmp_path_factory: pytest.TempPathFactory, account: bytes
) -> None:
    folder = tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _fd: None)
        copy = Partial(folder)
        copy.begin(Validators("a", size=200), 200, "origin", private=False)
        copy.write(copy.segments[0], content(1, 100))
        copy.close()
        with open(f"{folder}/progress", "wb") as file:
            file.write(account)
        again = Partial(folder)
        spans = sorted((s.start, s.position, s.end) for s in again.segments)
        assert all(start <= position <= end <= 200 and position <= 100 for start, position, end in spans)
        assert [start for start, _, _ in spans[1:]] == [end for _, _, end in spans[:-1]], "gaps or overlaps"
        again.discard()


def _packed(segment: Segment) -> bytes:
    triple = (segment.start, segment.position, segment.end)
    return b"".join(number.to_bytes(8, "little") for number in triple)
