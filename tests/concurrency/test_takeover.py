"""When the leader dies, or lives and no longer moves, a waiter takes over and goes on from the bytes already held."""

from __future__ import annotations

import signal
from random import Random
from typing import TYPE_CHECKING

from stager.clock import SystemClock
from stager.layout import Layout
from stager.process import current
from stager.reference import parse
from stager.store import files
from stager.store.memory import LeaderNote, read_leader
from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import Tasks, all_end, held, image, published, told, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.tasks import Task

SIZE = 12 << 20
TWICE = 4 << 20
SOON = 5.0
"""Seconds in which a death must have been noticed and made good."""

IMPATIENT = {"STAGE_IMAGE_DEADLINE": "0.3s", "STAGE_IMAGE_STALL_TIMEOUT": "0.1s"}
"""Makes 0.5 s of the time that a leader may go without a byte: deadline and two stall timeouts."""

PATIENT = {"STAGE_IMAGE_DEADLINE": "0.6s", "STAGE_IMAGE_STALL_TIMEOUT": "0.2s"}
"""Makes 1 s of it, for leaders that must not be taken for stuck."""

OFFSETS = [70_000, *(Random(11).randrange(1, SIZE) for _ in range(2)), SIZE - 1]


def test_killed_at_any_byte(tmp_path: Path) -> None:
    """Each in a store of its own, side by side; every second time while nobody waits."""
    content = image(SIZE)
    stalls = [Stall(offset) for offset in OFFSETS]
    with Origin() as origin, Tasks(tmp_path, SLURM_JOB_ID="1") as tasks:
        urls = [origin.put(f"/{n}.sqsh", content, Fault(stall=stall, times=1)) for n, stall in enumerate(stalls)]
        stores = [tmp_path / f"store-{n}" for n in range(len(stalls))]
        envs = [{"STAGE_IMAGE_STORE": str(store)} for store in stores]
        leaders = [tasks.start(url, env=env) for url, env in zip(urls, envs, strict=True)]
        until(lambda: [held(store) for store in stores] == OFFSETS, "all bytes so far to be held")
        waiters = [tasks.start(urls[n], env=envs[n]) for n in (0, 0, 2, 2)]
        told(waiters)
        for leader in leaders:
            leader.kill()
        origin.wait_for(len(stalls) + 2, SOON)
        # Another job goes on just as well: the bytes belong to the reference.
        others = [tasks.start(urls[n], env=envs[n] | {"SLURM_JOB_ID": "2"}) for n in (1, 3)]
        all_end([*waiters, *others])
        for n, (stall, store) in enumerate(zip(stalls, stores, strict=True)):
            requests = origin.seen(f"/{n}.sqsh")
            assert [request.headers.get("range") for request in requests] == [None, f"bytes={stall.at}-"]
            assert origin.sent(f"/{n}.sqsh") == len(content)
            assert published(store, content).read_bytes() == content
    answers = [task.answer for task in (*waiters, *others)]
    assert answers == [str(published(stores[n], content)) for n in (0, 0, 2, 2, 1, 3)]


def test_killed_in_full_flight(tmp_path: Path, store_path: Path) -> None:
    """What was in the kernel's buffers is lost with the process, and no more than that."""
    content = image(SIZE)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(rate=20 << 20, times=1))
        leader = tasks.start(url)
        until(lambda: held(store_path) > 3 << 20, "some bytes to be held")
        leader.kill()
        assert tasks.run(url).answer == str(published(store_path, content))
        assert len(content) <= origin.sent("/tool.sqsh") <= len(content) + TWICE


def test_one_leader_after_the_other(tmp_path: Path, store_path: Path) -> None:
    content = image(SIZE)
    stalls = [Stall(2 << 20), Stall(3 << 20), Stall(1 << 20)]
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", content, *(Fault(stall=stall, times=1) for stall in stalls))
        crowd = tasks.many(6, url)
        for turn, stall in enumerate(stalls):
            assert stall.reached.wait(30)
            until(lambda: held(store_path) == sum(s.at for s in stalls if s.reached.is_set()), "all bytes to be held")
            leader = until(lambda: leader_of(store_path, crowd), "a leader")
            told([task for task in crowd if task is not leader], f"pid {leader.pid} on ")
            leader.kill()
            crowd.remove(leader)
            origin.wait_for(turn + 2, SOON)
        all_end(crowd)
        assert {task.answer for task in crowd} == {str(published(store_path, content))}
        assert origin.sent("/tool.sqsh") == len(content)
        assert len(origin.requests) == len(stalls) + 1


def test_a_stopped_leader_is_named_and_replaced(tmp_path: Path, store_path: Path) -> None:
    content = image(SIZE)
    stall = Stall(5 << 20)
    with Origin() as origin, Tasks(tmp_path, **IMPATIENT) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(stall=stall, times=1))
        leader = tasks.start(url, env={"STAGE_IMAGE_STALL_TIMEOUT": "60s"})
        assert stall.reached.wait(30)
        until(lambda: held(store_path) == stall.at, "all bytes so far to be held")
        leader.send(signal.SIGSTOP)
        waiters = tasks.many(3, url)
        all_end(waiters)
        successor = [task for task in waiters if f"pid {leader.pid}, has stopped moving" in task.err]
        assert successor
        assert {task.answer for task in waiters} == {str(published(store_path, content))}
        assert [request.headers.get("range") for request in origin.requests] == [None, f"bytes={stall.at}-"]
        leader.send(signal.SIGCONT)
        stall.go.set()
        assert (leader.done(), leader.answer) == (0, str(published(store_path, content)))
    assert_quiet(store_path)


def test_stopped_at_a_point_and_continued_later(tmp_path: Path) -> None:
    content = image()
    points = ("locked", "verified", "published")
    with Origin() as origin, Tasks(tmp_path, **IMPATIENT) as tasks:
        url = origin.put("/tool.sqsh", content)
        envs = {point: {"STAGE_IMAGE_STORE": str(tmp_path / point)} for point in points}
        places = {point: published(tmp_path / point, content) for point in points}
        leaders = {point: tasks.start(url, env=envs[point] | {"STAGE_IMAGE_TEST_STOP_AT": point}) for point in points}
        for leader in leaders.values():
            leader.stops()
        waiters = {point: tasks.start(url, env=envs[point]) for point in points}
        all_end(waiters.values())
        for point, leader in leaders.items():
            assert waiters[point].answer == str(places[point])
            assert f"pid {leader.pid}, has stopped moving" in waiters[point].err
            inode = places[point].stat().st_ino
            leader.send(signal.SIGCONT)
            assert (leader.done(), leader.answer) == (0, str(places[point])), leader.err
            assert places[point].stat().st_ino == inode
            assert places[point].read_bytes() == content
            assert_quiet(tmp_path / point)


def test_a_stopped_leader_and_a_stopped_successor(tmp_path: Path, store_path: Path) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path, **IMPATIENT) as tasks:
        url = origin.put("/tool.sqsh", content)
        for _ in range(2):
            tasks.start(url, env={"STAGE_IMAGE_TEST_STOP_AT": "fetched"}).stops()
        waiter = tasks.run(url)
        assert (waiter.done(), waiter.answer) == (0, str(published(store_path, content))), waiter.err
        assert origin.sent("/tool.sqsh") == len(content)


def test_a_slow_leader_is_waited_for(tmp_path: Path, store_path: Path) -> None:
    """Slow is not stuck: bytes come, fewer than anybody would wish, for longer than the patience with a stuck one."""
    content = image(300_000)
    with Origin() as origin, Tasks(tmp_path, **PATIENT) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(rate=200_000))
        leader = tasks.start(url)
        origin.wait_for(1)
        waiters = tasks.many(2, url)
        all_end([leader, *waiters])
        assert not any("stopped moving" in task.err for task in [leader, *waiters])
        assert len(origin.requests) == 1


def test_a_note_that_another_covered_for_a_moment_comes_back(tmp_path: Path, store_path: Path) -> None:
    """Two tasks on their way to the lock may write their notes one over the other; the leader's must win in the end."""
    content = image()
    stall = Stall(len(content) // 2)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(stall=stall))
        leader = tasks.start(url)
        assert stall.reached.wait(30)
        path = Layout(str(store_path)).leader(parse(url).key)
        until(lambda: beat(path) > 0, "the leader's heart to beat")
        covered = LeaderNote(current(), SystemClock().wall())
        files.write_text(path, covered.text())
        until(lambda: pid_of(path) == leader.pid, "the leader's note to be back", 10)
        last = beat(path)
        until(lambda: beat(path) > last, "its heart to beat on", 10)
        stall.go.set()
        assert leader.done() == 0


def beat(path: str) -> int:
    note = read_leader(path)
    return note.beat if note else 0


def pid_of(path: str) -> int:
    note = read_leader(path)
    return note.holder.pid if note else 0


def leader_of(store: Path, tasks: list[Task]) -> Task | None:
    """Who fills a copy: not who left a note, which may be a claim that is given up in a moment."""
    pids = {folder.name.partition(".")[0] for folder in (store / "partial").glob("*/*")}
    return next((task for task in tasks if str(task.pid) in pids and task.running), None)


def assert_quiet(store: Path) -> None:
    """Fail for a copy in flight, or a note of somebody who leads."""
    assert not list((store / "partial").glob("*/*"))
    assert not [path for path in (store / "locks").glob("*.leader") if pid_of(str(path))]
