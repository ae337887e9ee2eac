"""Whatever an origin does, what was downloaded is one version of it, whole, or there is an error in bounded time."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager import download
from stager.download import Download
from stager.errors import NotFound, OriginStalled, OriginUnavailable, StageImageError
from stager.interfaces import Validators
from stager.retry import RetryPolicy
from stager.store.partial import Partial
from tests.support.effort import effort
from tests.support.fake_clock import FakeClock
from tests.support.fake_node import ticking
from tests.support.scripted_source import UNKNOWN_SIZE, Fault, ScriptedSource, Version

if TYPE_CHECKING:
    from collections.abc import Iterator

POLICY = RetryPolicy(base=0.5, cap=5, deadline=60, attempts=6)
SIZE = 300


def version(number: int, size: int = SIZE) -> Version:
    """Return a version whose bytes differ from every other's at every position."""
    return Version(bytes((number * 31 + position) % 251 for position in range(size)), etag=f'"{number}"')


def _busy() -> OriginUnavailable:
    return OriginUnavailable("503", retry_after=3)


def _stalled() -> OriginStalled:
    return OriginStalled("no byte for a minute")


def _gone() -> NotFound:
    return NotFound("404")


breaks = st.integers(0, SIZE)
moves = st.integers(2, 5).map(lambda number: version(number, SIZE if number % 2 else SIZE // 2))
faults = st.one_of(
    st.builds(Fault, break_at=breaks, ranges=st.booleans()),
    st.builds(Fault, break_at=breaks, move=moves),
    st.builds(Fault, break_at=breaks, breaks=st.just(_stalled)),
    st.builds(Fault, break_at=breaks, silent=st.just(True)),
    st.builds(Fault, refuse=st.sampled_from([_busy, _stalled])),
    st.builds(Fault, size=st.just(UNKNOWN_SIZE), break_at=st.none() | breaks),
    st.builds(Fault, size=st.integers(SIZE + 1, 2 * SIZE)),
    st.builds(Fault, elsewhere=st.integers(1, 50)),
    st.builds(Fault, refuse=st.just(_gone)),
)
scripts = st.lists(faults, max_size=8)
pieces = st.sampled_from([7, 64, 1 << 20])


@dataclass
class Trial:
    """One download from a scripted origin."""

    source: ScriptedSource
    partial: Partial
    clock: FakeClock = field(default_factory=FakeClock)
    error: StageImageError | None = None

    def run(self, *, streams: int = 1, unless: Validators | None = None, pinned: bool = False) -> bool:
        fetching = Download(self.source, self.partial, POLICY, self.clock, streams=streams, pinned=pinned)
        try:
            return fetching.run(unless)
        except StageImageError as error:
            self.error = error
            return False

    @property
    def content(self) -> bytes:
        return os.pread(self.partial.fileno(), 4 * SIZE, 0)

    def check(self, versions: list[Version], *, done: bool) -> None:
        held, there = self.partial.position, self.content
        said = self.partial.validators
        if done:
            assert self.partial.size == len(there)
            assert there in [v.content for v in versions], "a mixture"
        elif held and said:
            whose = [v for v in versions if v.etag == said.etag]
            assert [v for v in whose if v.content[:held] == there[:held]], "what is kept for later is a mixture"


@contextmanager
def trial(source: ScriptedSource) -> Iterator[Trial]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _fd: None)
        folder = tempfile.mkdtemp()
        partial = Partial(folder)
        try:
            yield Trial(source, partial)
        finally:
            partial.close()
            shutil.rmtree(folder)


@given(scripts, pieces)
@effort(40)
def test_what_was_downloaded_is_one_version_or_an_error_in_bounded_time(script: list[Fault], piece: int) -> None:
    versions = [version(1), *(f.move for f in script if f.move is not None)]
    with trial(ScriptedSource(versions[0], script, piece=piece)) as it:
        begun = it.clock.now()
        done = it.run()
        it.check(versions, done=done)
        assert done == (it.error is None)
        stretches = 1 + len(script)  # each ends with progress; without any, a try costs a pause and a Retry-After
        assert it.clock.now() - begun <= stretches * (POLICY.deadline + POLICY.cap + 3)
        assert len(it.source.asked) <= stretches * POLICY.attempts
        assert it.source.closed >= 1 or done is False


@given(scripts)
@effort(20)
def test_an_origin_that_comes_to_its_senses_is_not_given_up(script: list[Fault]) -> None:
    hopeful = [f for f in script if f.refuse is not _gone][: POLICY.attempts - 1]
    with trial(ScriptedSource(version(1), hopeful, piece=64)) as it:
        assert it.run(), it.error


@given(scripts, st.integers(0, 7))
@effort(20)
def test_a_download_goes_on_where_another_ended(script: list[Fault], given_up: int) -> None:
    versions = [version(1), *(f.move for f in script if f.move is not None)]
    fatal = Fault(refuse=_gone)
    with trial(ScriptedSource(versions[0], [*script[:given_up], fatal, *script[given_up:]], piece=32)) as it:
        done = it.run()
        it.check(versions, done=done)
        it.partial.close()
        it.partial, it.error = Partial(it.partial.folder), None
        it.check(versions, done=False)
        it.check(versions, done=it.run())


@given(st.integers(1, SIZE - 1), st.lists(breaks, max_size=4))
@effort(12)
def test_breaks_cost_no_byte_where_ranges_are_served(first: int, later: list[int]) -> None:
    script = [Fault(break_at=at) for at in (first, *later)]
    with trial(ScriptedSource(version(1), script, piece=16)) as it:
        assert it.run()
        assert it.source.served == SIZE


@given(scripts)
@effort(15)
def test_what_is_known_is_not_fetched(script: list[Fault]) -> None:
    known = version(1).validators
    quiet = [f for f in script if f.refuse in (_busy, _stalled)][:4]
    with trial(ScriptedSource(version(1), quiet)) as it:
        assert it.run(unless=known) is False
        assert it.error is None
        assert it.source.served == 0


@given(scripts, st.integers(2, 4), pieces)
@effort(15)
def test_several_streams_bring_one_version(script: list[Fault], streams: int, piece: int) -> None:
    versions = [version(1), *(f.move for f in script if f.move is not None)]
    with trial(ScriptedSource(versions[0], script, piece=min(piece, 16))) as it, pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "PAYS_BYTES", 40)
        patch.setattr(download, "SHARE_BYTES", 40)
        patch.setattr(download, "JUDGE_SECONDS", 0.0)
        patch.setattr(download, "PAYS_SECONDS", 0.0)
        # Each look at the clock takes a moment, so that every chunk is a chance for another stream.
        patch.setattr(it.clock, "now", ticking(it.clock))
        done = it.run(streams=streams)
        it.check(versions, done=done)
