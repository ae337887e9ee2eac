"""A leader that dies at any named point leaves a store that the next call, or whoever waits, puts right by itself."""

from __future__ import annotations

import signal
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stager.layout import Layout
from stager.reference import parse
from stager.store.memory import read_leader
from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import Tasks, all_end, image, published, told, until

if TYPE_CHECKING:
    from tests.support.tasks import Task

SIZE = 6 << 20
TWICE = 4 << 20
"""Bytes that a death may cost: what was on its way through the kernel."""

LEADING = ("locked", "fetching", "fetched", "verified", "synced", "published", "seen", "pinned")
POINTS = (*LEADING, "leased")

ASKED_ONCE_MORE = 2
"""Requests: one for the bytes, one after the death, for what is missing or for whether it is still current."""


def faults(point: str) -> tuple[Fault, ...]:
    # What the kernel had taken from the origin by then would depend on the machine.
    return (Fault(stall=Stall(1 << 20), times=1),) if point == "fetching" else ()


@pytest.mark.parametrize("point", POINTS)
def test_the_next_call_goes_on(tmp_path: Path, store_path: Path, point: str) -> None:
    content = image(SIZE)
    with Origin() as origin, Tasks(tmp_path, SLURM_JOB_ID="1") as tasks:
        url = origin.put("/tool.sqsh", content, *faults(point))
        assert tasks.run(url, env={"STAGE_IMAGE_TEST_CRASH_AT": point}).done() == -signal.SIGKILL
        assert_all_whole(store_path, content)
        task = tasks.run(url)
        all_end([task])
        assert task.answer == str(published(store_path, content))
        assert origin.sent("/tool.sqsh") <= len(content) + TWICE
        assert len(origin.requests) <= ASKED_ONCE_MORE
    assert_clean(store_path, content)


@pytest.mark.parametrize("point", LEADING)
def test_a_waiter_goes_on(tmp_path: Path, store_path: Path, point: str) -> None:
    content = image(SIZE)
    with Origin() as origin, Tasks(tmp_path, SLURM_JOB_ID="1") as tasks:
        url = origin.put("/tool.sqsh", content, *faults(point))
        leader = tasks.start(url, env={"STAGE_IMAGE_TEST_STOP_AT": point})
        leader.stops()
        waiters = tasks.many(2, url)
        told(waiters, f"pid {leader.pid} on ")
        leader.kill()
        until(lambda: not all(waiter.running for waiter in waiters) or led_by(store_path, url, waiters), "a leader", 5)
        all_end(waiters)
        assert {task.answer for task in waiters} == {str(published(store_path, content))}
        assert origin.sent("/tool.sqsh") <= len(content) + TWICE
        assert len(origin.requests) <= ASKED_ONCE_MORE
    assert_clean(store_path, content)


def test_a_leader_that_has_done_its_part_keeps_nobody(tmp_path: Path, store_path: Path) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path, SLURM_JOB_ID="1") as tasks:
        url = origin.put("/tool.sqsh", content)
        leader = tasks.start(url, env={"STAGE_IMAGE_TEST_STOP_AT": "leased"})
        leader.stops()
        assert tasks.run(url).answer == str(published(store_path, content))
        leader.kill()
        assert len(origin.requests) == 1


@pytest.mark.parametrize("point", POINTS[2:])
def test_a_death_in_one_job_is_nothing_to_the_next(tmp_path: Path, store_path: Path, point: str) -> None:
    """The origin moves on at the same time: neither image may be touched by what the dead left of the other."""
    old, new = image(seed=1), image(seed=2)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", old, Fault(etag="none", dated=False))
        dead = tasks.run(url, env={"STAGE_IMAGE_TEST_CRASH_AT": point, "SLURM_JOB_ID": "1"})
        assert dead.done() == -signal.SIGKILL
        before = [Path(path) for path in (store_path / "images").glob("sha256/*/*/image.sqsh")]
        origin.put("/tool.sqsh", new)
        task = tasks.run(url, env={"SLURM_JOB_ID": "2"})
        all_end([task])
        assert task.answer == str(published(store_path, new))
        for path in before:
            assert path.read_bytes() == old
    assert_all_whole(store_path, old, new)


def test_death_after_death(tmp_path: Path, store_path: Path) -> None:
    """Whoever adopts what a dead leader left may die of it as well."""
    content = image(SIZE)
    with Origin() as origin, Tasks(tmp_path, SLURM_JOB_ID="1") as tasks:
        url = origin.put("/tool.sqsh", content, *faults("fetching"))
        for point in ("fetching", "fetched", "synced", "published", "seen", "pinned"):
            assert tasks.run(url, env={"STAGE_IMAGE_TEST_CRASH_AT": point}).done() == -signal.SIGKILL
            assert_all_whole(store_path, content)
        assert tasks.run(url).answer == str(published(store_path, content))
        assert origin.sent("/tool.sqsh") <= len(content) + TWICE
    assert_clean(store_path, content)


def led_by(store: Path, url: str, tasks: list[Task]) -> bool:
    note = read_leader(Layout(str(store)).leader(parse(url).key))
    return note is not None and note.holder.pid in {task.pid for task in tasks}


def assert_all_whole(store: Path, *contents: bytes) -> None:
    known = {sha256(content).hexdigest() for content in contents}
    for path in (store / "images").glob("sha256/*/[0-9a-f]*/image.*"):
        assert path.name == "image.json" or sha256(path.read_bytes()).hexdigest() == path.parent.name
        assert path.parent.name in known


def assert_clean(store: Path, content: bytes) -> None:
    """Fail for anything in the store beyond one image and small records of its own."""
    assert published(store, content).read_bytes() == content
    assert_all_whole(store, content)
    assert [path.name for path in (store / "images").glob("sha256/*/*")] == [sha256(content).hexdigest()]
    assert not list((store / "partial").glob("*/*"))
    notes = [read_leader(str(path)) for path in (store / "locks").glob("*.leader")]
    assert not [note for note in notes if note and note.holder.alive]
    assert not list((store / "quarantine").iterdir())
