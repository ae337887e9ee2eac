"""The cache of layers, held against deaths at every step, power losses, wrong bytes, rot and eviction."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stager import process
from stager.errors import DigestMismatch
from stager.reference import Digest
from stager.store import files, folder
from stager.store.blobs import Blobs
from tests.support.effort import effort

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.store.blob_hold import Hold
    from stager.store.blob_partial import BlobPartial

SIZE = 300
CONTENTS = tuple(bytes((number * 31 + position) % 251 for position in range(SIZE)) for number in (1, 2))
DIGESTS = tuple(Digest(sha256(content).hexdigest()) for content in CONTENTS)
POINTS = ("claimed", "written", "synced", "renamed", "committed", "dropping")
"""Where a process may die, in order; `dropping` is the evictor's."""

numbers = st.integers(0, len(CONTENTS) - 1)
lengths = st.integers(1, SIZE)


@dataclass
class Filler:
    """A process that fills a copy, as the test knows it. `bad`: some of its bytes are the wrong ones."""

    copy: BlobPartial
    number: int
    bad: bool = False
    aside: bool = False


@dataclass
class Left:
    """What is known of a copy in flight that nobody fills: bytes that it must hold, now and after a power loss."""

    held: int
    synced: int
    bad: bool


def dies(act: Callable[[Callable[[str], None]], object], point: str) -> bool:
    """Do `act` in a process of its own, killed at `point`, as the kernel kills; whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            act(lambda reached: os.kill(os.getpid(), signal.SIGKILL) if reached == point else None)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the process failed instead of dying"
    return os.WIFSIGNALED(status)


class Cache(RuleBasedStateMachine):
    """Each filler and each holder stands for a process: locks belong to open files, whoever has them open."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for name in ("fsync", "fdatasync"):
            self.patch.setattr(os, name, lambda _fd: None)
        self.base = tempfile.mkdtemp()
        self.blobs = Blobs(folder.open_store(f"{self.base}/store"))
        self.fillers: list[Filler] = []
        self.holds: list[tuple[int, Hold]] = []
        self.left: dict[str, Left] = {}
        self.rotten: set[int] = set()
        self.boots = 0

    def teardown(self) -> None:
        for filler in self.fillers:
            filler.copy.close()
        for _, hold in self.holds:
            hold.close()
        self.patch.undo()
        shutil.rmtree(self.base)

    # What happens

    @rule(number=numbers, aside=st.booleans())
    def claim(self, number: int, *, aside: bool) -> None:
        there = self._is_there(number)
        busy = any(one.number == number and not one.aside for one in self.fillers)
        copy = self.blobs.claim(DIGESTS[number], SIZE, aside=aside)
        assert (copy is None) == (not aside and (there or busy))
        if copy is None:
            if not busy:
                self.left.pop(self.blobs.layout.blob_partial(DIGESTS[number].hex), None)
            return
        filler = Filler(copy, number, aside=aside)
        left = self.left.pop(copy.folder, Left(0, 0, bad=False))
        filler.bad = left.bad and copy.held > 0
        assert copy.held >= left.held or (left.bad and copy.held == 0), "bytes were lost"
        assert copy.resumed == (copy.held > 0)
        self.fillers.append(filler)

    @rule(data=st.data(), length=lengths, wrong=st.sampled_from([False, False, False, True]))
    @precondition(lambda self: self.fillers)
    def append(self, data: st.DataObject, length: int, *, wrong: bool) -> None:
        filler = data.draw(st.sampled_from(self.fillers))
        before = filler.copy.held
        if before + length > SIZE:
            with pytest.raises(DigestMismatch):
                filler.copy.append(bytes(length))
            assert filler.copy.held == before
        elif wrong:
            filler.copy.append(bytes(byte ^ 0xFF for byte in CONTENTS[filler.number][before : before + length]))
            filler.bad = True
        else:
            filler.copy.append(CONTENTS[filler.number][before : before + length])

    @rule(data=st.data())
    @precondition(lambda self: self.fillers)
    def sync(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.fillers)).copy.sync()

    @rule(data=st.data())
    @precondition(lambda self: self.fillers)
    def restart(self, data: st.DataObject) -> None:
        filler = data.draw(st.sampled_from(self.fillers))
        filler.copy.restart()
        filler.bad = False
        assert (filler.copy.held, filler.copy.resumed) == (0, False)

    @rule(data=st.data())
    @precondition(lambda self: self.fillers)
    def finish(self, data: st.DataObject) -> None:
        """Append what is missing, and commit."""
        filler = data.draw(st.sampled_from(self.fillers))
        filler.copy.append(CONTENTS[filler.number][filler.copy.held :])
        if filler.bad:
            with pytest.raises(DigestMismatch, match=str(DIGESTS[filler.number])):
                filler.copy.commit()
            return
        self.fillers.remove(filler)
        self.holds.append((filler.number, filler.copy.commit()))
        self.rotten.discard(filler.number)

    @rule(data=st.data(), discards=st.booleans())
    @precondition(lambda self: self.fillers)
    def give_up(self, data: st.DataObject, *, discards: bool) -> None:
        filler = data.draw(st.sampled_from(self.fillers))
        self.fillers.remove(filler)
        if discards:
            filler.copy.discard()
            assert not os.path.exists(filler.copy.folder)
        else:
            self._leave(filler)

    @rule(number=numbers, length=lengths, point=st.sampled_from(POINTS[:-1]), aside=st.booleans())
    def fill_and_die(self, number: int, length: int, point: str, *, aside: bool) -> None:
        """A process that claims, appends in two pieces, syncs and commits is killed at a point."""
        content = CONTENTS[number]

        def act(trace: Callable[[str], None]) -> None:
            copy = Blobs(self.blobs.layout, trace).claim(DIGESTS[number], SIZE, aside=aside)
            if copy is None:
                return
            copy.restart() if copy.resumed else None
            copy.append(content[:length])
            copy.append(content[length:])
            copy.commit()

        died = dies(act, point)
        if died and point in ("renamed", "committed"):
            assert self.blobs.find(DIGESTS[number], SIZE) is not None
            self.rotten.discard(number)
        if died:
            self._forget_what_moved(number)
        if died and not aside and point in ("written", "synced"):
            left = Left(length if point == "written" else SIZE, 0, bad=False)
            self.left[self.blobs.layout.blob_partial(DIGESTS[number].hex)] = left

    @rule(number=numbers)
    def drop_and_die(self, number: int) -> None:
        there = self._is_there(number)
        dies(lambda trace: Blobs(self.blobs.layout, trace).drop(DIGESTS[number]), "dropping")
        assert self._is_there(number) == there

    @rule(number=numbers)
    def hold(self, number: int) -> None:
        there, hold = self._is_there(number), self.blobs.hold(DIGESTS[number], SIZE)
        assert (hold is not None) == there
        if hold is not None and number in self.rotten:
            hold.close()
        elif hold is not None:
            self.holds.append((number, hold))

    @rule(data=st.data())
    @precondition(lambda self: self.holds)
    def let_go(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.holds))
        self.holds.remove(held)
        held[1].close()

    @rule()
    def make_room(self) -> None:
        """All that may go, goes, and nothing else."""
        filled = {filler.copy.folder for filler in self.fillers}
        for one in self.blobs.spare():
            assert one.drop() >= 0
        names = files.names(self.blobs.layout.blob_partials)
        assert {self.blobs.layout.blob_partial(name) for name in names} == filled
        assert {blob.digest for blob in self.blobs.all()} <= {DIGESTS[number] for number, _ in self.holds}
        self.left.clear()
        self.rotten = {number for number in self.rotten if self._is_there(number)}

    @rule(number=numbers)
    def rot(self, number: int) -> None:
        if self._is_there(number) and not any(held == number for held, _ in self.holds):
            with open(self.blobs.layout.blob(DIGESTS[number]), "r+b") as file:
                file.write(b"\xff\xff")
            self.rotten.add(number)

    @rule()
    def verify(self) -> None:
        for blob in self.blobs.all():
            assert bool(self.blobs.verify(blob)) == (DIGESTS.index(blob.digest) in self.rotten)
        self.rotten.clear()

    @rule()
    def lose_power(self) -> None:
        """Everybody is dead, and of a file in flight there is what was synced, and zeros where other bytes were."""
        for filler in self.fillers:
            self._leave(filler)
        for _, hold in self.holds:
            hold.close()
        self.fillers, self.holds = [], []
        for path, left in self.left.items():
            if os.path.exists(f"{path}/data"):
                size = os.path.getsize(f"{path}/data")
                os.truncate(f"{path}/data", left.synced)
                os.truncate(f"{path}/data", size)
                left.held = left.synced
        self.boots += 1
        self.patch.setattr(process, "_boot", f"b{self.boots:07}")

    # What holds

    @invariant()
    def what_is_there_is_right(self) -> None:
        for number, digest in enumerate(DIGESTS):
            if self._is_there(number) and number not in self.rotten:
                with open(self.blobs.layout.blob(digest), "rb") as file:
                    assert file.read() == CONTENTS[number]

    @invariant()
    def what_is_held_stays(self) -> None:
        for number, hold in self.holds:
            with hold.open() as file:
                assert file.read() == CONTENTS[number]

    @invariant()
    def what_is_in_flight_is_right(self) -> None:
        for filler in self.fillers:
            with open(f"{filler.copy.folder}/data", "rb") as file:
                there = file.read()
            assert filler.bad or there[: filler.copy.held] == CONTENTS[filler.number][: filler.copy.held]

    # How it is done

    def _is_there(self, number: int) -> bool:
        return os.path.exists(self.blobs.layout.blob(DIGESTS[number]))

    def _leave(self, filler: Filler) -> None:
        copy = filler.copy
        if copy.held:
            self.left[copy.folder] = Left(copy.held, copy.synced, bad=filler.bad)
        copy.close()

    def _forget_what_moved(self, number: int) -> None:
        # A copy that was gone on with, and begun anew, or has become the blob.
        for path in [path for path in self.left if DIGESTS[number].hex in path]:
            del self.left[path]


Cache.TestCase.settings = effort(12, steps=25)
TestCache = Cache.TestCase
