"""The processes that other tests rely on: they start as told, are seen as they are, and never outlive their block."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from stager.interfaces import Validators
from stager.process import ProcessIdentity
from stager.store.partial import Partial
from tests.support.leftovers import MARK
from tests.support.tasks import (
    ROOT,
    WAITING,
    Tasks,
    all_but_one_wait,
    all_end,
    held,
    image,
    published,
    told,
    until,
    wait_for,
)

SLEEPY = ("sh", "-c", "echo up >&2; sleep 600; :")


class OutOfPatienceError(Exception):
    """What a failing test raises."""


def test_it_runs_the_command_line_of_this_checkout(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        task = tasks.run("--version")
    assert (task.done(), task.answer.split()[0]) == (0, "stage-image")


def test_streams_and_exit_code_are_apart(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        task = tasks.run("echo out; echo err >&2; exit 7", program=("sh", "-c"))
    assert (task.done(), task.out, task.err) == (7, "out\n", "err\n")


def test_the_environment_is_as_told_and_without_the_mark(tmp_path: Path) -> None:
    with Tasks(tmp_path, FROM_ALL="1", DROPPED="x") as tasks:
        task = tasks.run(program=("env",), env={"FROM_ONE": "2", "DROPPED": ""})
    lines = set(task.out.splitlines())
    assert {"FROM_ALL=1", "FROM_ONE=2", f"PYTHONPATH={ROOT}"} <= lines
    assert not any(line.startswith((f"{MARK}=", "DROPPED=")) for line in lines)


def test_byte_code_is_kept(tmp_path: Path) -> None:
    with Tasks(tmp_path, PYTHONDONTWRITEBYTECODE="1") as tasks:
        assert (
            tasks.run("-c", "import sys; print(sys.dont_write_bytecode)", program=(sys.executable,)).answer == "False"
        )


def test_it_runs_in_its_folder(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        assert tasks.run(program=("readlink", "/proc/self/cwd")).answer == str(tmp_path)


def test_a_session_of_its_own_or_that_of_the_caller(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        code = "import os; print(os.getsid(0), os.getpid(), os.getpgrp())"
        own = tasks.run("-c", code, program=(sys.executable,), session=True)
        shared = tasks.run("-c", code, program=(sys.executable,))
    assert own.answer == f"{own.pid} {own.pid} {own.pid}"
    assert shared.answer == f"{os.getsid(0)} {shared.pid} {shared.pid}"


def test_a_stop_is_seen_and_so_is_a_death_instead(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        task = tasks.start("kill -STOP $$", program=("sh", "-c"))
        task.stops()
        assert task.running
        task.send(signal.SIGCONT)
        assert task.done() == 0
        with pytest.raises(AssertionError):
            task.stops()


def test_a_silent_death_does_not_look_like_a_message(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        task = tasks.start("echo nothing of it >&2; exit 3", program=("sh", "-c"))
        with pytest.raises(AssertionError, match="nothing of it"):
            told([task], "all is well")


def test_nothing_outlives_the_block_even_on_failure(tmp_path: Path) -> None:
    started: list[int] = []
    with pytest.raises(OutOfPatienceError):
        fail_with_tasks(tmp_path, started)
    assert len(started) == 4
    until(lambda: not any(ProcessIdentity.of(pid) for pid in started), "init to reap what lost its parent")


def fail_with_tasks(folder: Path, started: list[int]) -> None:
    with Tasks(folder) as tasks:
        for session in (False, True):
            task = tasks.start(program=SLEEPY, session=session)
            task.says("up")
            started += [task.pid, child(task.pid)]
        raise OutOfPatienceError


def test_a_stopped_task_is_ended_too(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        task = tasks.start("kill -STOP $$", program=("sh", "-c"))
        task.stops()
    assert task.done() == -signal.SIGKILL


def test_waiting_has_an_end(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        task = tasks.start(program=SLEEPY)
        with pytest.raises(TimeoutError, match=r"still runs after 0\.1 s"):
            task.done(0.1)
        with pytest.raises(TimeoutError):
            wait_for([task], 0.1)
    with pytest.raises(TimeoutError, match=r"waited 0\.1 s for rain"):
        until(lambda: False, "rain", 0.1)


def test_many_are_all_waited_for(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        assert wait_for([tasks.start(f"exit {n}", program=("sh", "-c")) for n in range(5)]) == [0, 1, 2, 3, 4]
        assert wait_for(tasks.many(3, "--version")) == [0, 0, 0]


def test_several_command_lines_together(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        assert [task.done() for task in tasks.together(("--version",), ("no-such-verb", "x"), ())] == [0, 2, 2]


def test_all_must_end_alike(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        two = [tasks.start(f"echo I am {n} >&2; exit {n}", program=("sh", "-c")) for n in (5, 5)]
        all_end(two, 5)
        with pytest.raises(AssertionError, match="1 of 3 ended otherwise, such as\n6: I am 6"):
            all_end([*two, tasks.start("echo I am 6 >&2; exit 6", program=("sh", "-c"))], 5)


def test_images_differ_by_seed_and_lie_by_digest(tmp_path: Path) -> None:
    assert image(1000, 1) == image(1000, 1) != image(1000, 2)
    assert published(tmp_path, image(1000, 1)) != published(tmp_path, image(1000, 2))
    assert published(tmp_path, b"").parent.name.startswith("e3b0c442")


def test_bytes_in_flight(tmp_path: Path) -> None:
    assert held(tmp_path) == 0
    for name, size in (("a", 5), ("b", 7)):
        copy = Partial(f"{tmp_path}/partial/key/{name}")
        copy.begin(Validators(), 100, "here", private=False)
        copy.write(copy.segments[0], bytes(size))
        copy.split(copy.segments[0])
        copy.close()
    assert held(tmp_path) == 7


def test_all_but_one_wait(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        crowd = [tasks.start(f"echo {words} >&2; exec sleep 600", program=("sh", "-c")) for words in ("up", WAITING)]
        told(crowd[1:])
        all_but_one_wait(crowd)


def child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return int(until(children.read_text, f"a child of {pid}").split()[0])
