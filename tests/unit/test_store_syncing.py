from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stager.interfaces import Validators
from stager.store import syncing
from stager.store.partial import Partial
from stager.store.syncing import Syncing
from tests.support.tasks import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 1000


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Partial]:
    """A copy of which a tenth has come; a tenth is as much as is written back at a time."""
    monkeypatch.setattr(syncing, "SECONDS", 0.001)
    monkeypatch.setattr(syncing, "BYTES", SIZE // 10)
    found = Partial(str(tmp_path / "copy"))
    begin(found)
    yield found
    found.close()


def begin(copy: Partial) -> None:
    copy.begin(Validators(os.urandom(4).hex(), "", SIZE), SIZE, "origin", private=False)
    copy.write(copy.segments[0], bytes(SIZE // 10))


def test_what_others_have_put_there_is_written_back(copy: Partial) -> None:
    with Syncing(copy):
        copy.advance(SIZE // 2)
        until(lambda: copy.synced == SIZE // 2, "half of it to be synced")
    assert os.path.getsize(f"{copy.folder}/durable") == 24


def test_a_copy_that_began_anew_is_written_back_anew(copy: Partial) -> None:
    with Syncing(copy):
        until(lambda: copy.synced == SIZE // 10, "the first tenth")
        begin(copy)
        until(lambda: copy.synced == SIZE // 10 and os.path.exists(f"{copy.folder}/durable"), "the first tenth again")


def test_nothing_is_written_back_twice(copy: Partial, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, sync = [], Partial.sync

    def counted(partial: Partial) -> None:
        calls.append(partial.held)
        sync(partial)

    with Syncing(copy):
        until(lambda: copy.synced, "the first tenth")
    monkeypatch.setattr(Partial, "sync", counted)
    with Syncing(copy):
        copy.advance(SIZE // 10 + 1)
        copy.advance(SIZE)
        until(lambda: copy.synced == SIZE, "all of it")
    assert len(calls) <= 2


def test_what_an_earlier_process_had_counts_as_synced(copy: Partial) -> None:
    copy.sync()
    again = Partial(copy.folder)
    assert again.synced == again.held == SIZE // 10
    again.close()
