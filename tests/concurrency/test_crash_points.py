"""A leader that dies at any named point leaves a store that the next call, or whoever waits, puts right by itself."""

from __future__ import annotations

import signal
from hashlib import sha256
from typing import TYPE_CHECKING

from stager.layout import Layout
from stager.reference import parse
from stager.store.memory import read_leader
from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import Tasks, all_end, image, published, told, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.support.tasks import Task

SIZE = 6 << 20
TWICE = 4 << 20
"""Bytes that a death may cost: what was on its way through the kernel."""

SOON = 5.0
"""Seconds in which somebody must have taken over."""

LEADING = ("locked", "fetching", "fetched", "verified", "synced", "published", "seen", "pinned")
POINTS = (*LEADING, "leased")

ASKED_ONCE_MORE = 2
"""Requests: one for the bytes, one after the death, for what is missing or for whether it is still current."""


def faults(point: str) -> tuple[Fault, ...]:
    # What the kernel had taken from the origin by then would depend on the machine.
    return (Fault(stall=Stall(1 << 20), times=1),) if point == "fetching" else ()


class Scenes:
    """A store and a path at the origin for each point, so that all points are met side by side."""

    def __init__(self, tmp_path: Path, origin: Origin, tasks: Tasks, points: Iterable[str]) -> None:
        self._origin = origin
        self._tasks = tasks
        self.points = tuple(points)
        self.stores = {point: tmp_path / f"store-{point}" for point in self.points}

    def put(self, content: bytes, fault: Callable[[str], tuple[Fault, ...]]) -> None:
        for point in self.points:
            self._origin.put(f"/{point}.sqsh", content, *fault(point))

    def url(self, point: str) -> str:
        return self._origin.url(f"/{point}.sqsh")

    def start(self, switch: str = "", **env: str) -> dict[str, Task]:
        """Start a task for each point, with a switch set to the point."""
        return {
            point: self._tasks.start(
                self.url(point), env={"STAGE_IMAGE_STORE": str(store), **({switch: point} if switch else {}), **env}
            )
            for point, store in self.stores.items()
        }

    def is_led(self, point: str, tasks: list[Task]) -> bool:
        """Whether one of these tasks leads, or has done so."""
        note = read_leader(Layout(str(self.stores[point])).leader(parse(self.url(point)).key))
        led = note is not None and note.holder.pid in {task.pid for task in tasks}
        return led or not all(task.running for task in tasks)

    def assert_repaired(self, point: str, content: bytes) -> None:
        """Fail unless little was sent twice and the store is as if nothing had happened."""
        requests = self._origin.seen(f"/{point}.sqsh")
        assert sum(request.sent for request in requests) <= len(content) + TWICE, point
        assert len(requests) <= ASKED_ONCE_MORE, point
        assert_clean(self.stores[point], content)


def test_the_next_call_goes_on(tmp_path: Path) -> None:
    content = image(SIZE)
    with Origin() as origin, Tasks(tmp_path, SLURM_JOB_ID="1") as tasks:
        scenes = Scenes(tmp_path, origin, tasks, POINTS)
        scenes.put(content, faults)
        all_end(scenes.start("STAGE_IMAGE_TEST_CRASH_AT").values(), -signal.SIGKILL)
        for store in scenes.stores.values():
            assert_all_whole(store, content)
        for point, task in scenes.start().items():
            all_end([task])
            assert task.answer == str(published(scenes.stores[point], content)), point
            scenes.assert_repaired(point, content)


def test_a_waiter_goes_on(tmp_path: Path) -> None:
    content = image(SIZE)
    with Origin() as origin, Tasks(tmp_path, SLURM_JOB_ID="1") as tasks:
        scenes = Scenes(tmp_path, origin, tasks, LEADING)
        scenes.put(content, faults)
        leaders = scenes.start("STAGE_IMAGE_TEST_STOP_AT")
        for leader in leaders.values():
            leader.stops()
        first, second = scenes.start(), scenes.start()
        waiters = {point: [first[point], second[point]] for point in LEADING}
        for point, leader in leaders.items():
            told(waiters[point], f"pid {leader.pid} on ")
        for leader in leaders.values():
            leader.kill()
        until(lambda: all(scenes.is_led(point, waiters[point]) for point in LEADING), "new leaders", SOON)
        for point, crowd in waiters.items():
            all_end(crowd)
            assert {task.answer for task in crowd} == {str(published(scenes.stores[point], content))}, point
            scenes.assert_repaired(point, content)


def test_a_leader_that_has_done_its_part_keeps_nobody(tmp_path: Path, store_path: Path) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path, SLURM_JOB_ID="1") as tasks:
        url = origin.put("/tool.sqsh", content)
        leader = tasks.start(url, env={"STAGE_IMAGE_TEST_STOP_AT": "leased"})
        leader.stops()
        assert tasks.run(url).answer == str(published(store_path, content))
        leader.kill()
        assert len(origin.requests) == 1


def test_a_death_in_one_job_is_nothing_to_the_next(tmp_path: Path) -> None:
    """The origin moves on at the same time: neither image may be touched by what the dead left of the other."""
    old, new = image(seed=1), image(seed=2)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        scenes = Scenes(tmp_path, origin, tasks, POINTS)
        scenes.put(old, lambda _: (Fault(etag="none", dated=False),))
        all_end(scenes.start("STAGE_IMAGE_TEST_CRASH_AT", SLURM_JOB_ID="1").values(), -signal.SIGKILL)
        before = [path for store in scenes.stores.values() for path in store.glob("images/sha256/*/*/image.sqsh")]
        assert before
        scenes.put(new, lambda _: ())
        for point, task in scenes.start(SLURM_JOB_ID="2").items():
            all_end([task])
            assert task.answer == str(published(scenes.stores[point], new)), point
            assert_all_whole(scenes.stores[point], old, new)
        for path in before:
            assert path.read_bytes() == old, path


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
