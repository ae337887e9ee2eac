"""Ctrl-C and a scheduler's SIGTERM: a task dies of that very signal, holds nothing any more, and the others go on."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import COMMAND, ROOT, Tasks, all_end, held, image, published, told, until

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 4 << 20

ENDINGS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

DEAF = ("sh", "-c", "trap '' INT HUP; exec \"$@\"", "sh", *COMMAND)

HURRIED = {"STAGE_IMAGE_DEADLINE": "5m"}
"""Any setting takes the long way, so that waiters of both kinds are met."""


@pytest.mark.parametrize("number", ENDINGS)
def test_a_leader_that_is_interrupted(tmp_path: Path, store_path: Path, number: signal.Signals) -> None:
    content = image(SIZE)
    stall = Stall(SIZE // 2)
    with Origin() as origin, Tasks(tmp_path, SLURM_JOB_ID="1") as tasks:
        url = origin.put("/tool.sqsh", content, Fault(stall=stall, times=1))
        leader = tasks.start(url)
        assert stall.reached.wait(30)
        waiters = tasks.many(2, url)
        told(waiters)
        until(lambda: held(store_path) == stall.at, "all bytes so far to be held")
        leader.send(number)
        assert leader.done() == -number
        assert (leader.out, leader.err) == ("", "")
        all_end(waiters)
        assert {task.answer for task in waiters} == {str(published(store_path, content))}
        assert origin.requests[1].headers["range"] == f"bytes={stall.at}-"
        assert origin.sent("/tool.sqsh") == len(content)


@pytest.mark.parametrize("number", ENDINGS)
@pytest.mark.parametrize("env", [{}, HURRIED], ids=["warm", "long"])
def test_a_waiter_that_is_interrupted(tmp_path: Path, number: signal.Signals, env: dict[str, str]) -> None:
    stall = Stall(1000)
    with Origin() as origin, Tasks(tmp_path, SLURM_JOB_ID="1", **env) as tasks:
        url = origin.put("/tool.sqsh", image(), Fault(stall=stall))
        leader = tasks.start(url)
        assert stall.reached.wait(30)
        waiter, other = tasks.many(2, url)
        told([waiter, other])
        waiter.send(number)
        assert waiter.done() == -number
        assert waiter.out == ""
        assert "Traceback" not in waiter.err
        stall.go.set()
        all_end([leader, other])
        assert len(origin.requests) == 1


def test_an_interrupted_leader_leaves_nothing_locked(tmp_path: Path, store_path: Path) -> None:
    content = image(SIZE)
    stall = Stall(SIZE // 2)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(stall=stall, times=1))
        leader = tasks.start(url)
        assert stall.reached.wait(30)
        until(lambda: held(store_path) == stall.at, "all bytes so far to be held")
        leader.send(signal.SIGTERM)
        leader.done()
        assert not list((store_path / "locks").glob("*.leader"))
        assert not list((store_path / "failures").iterdir())
        assert held(store_path) == stall.at
        task = tasks.run(url)
        assert task.answer == str(published(store_path, content))
        assert "waiting for" not in task.err


def test_a_second_ctrl_c_does_not_cut_off_the_tidying_up(tmp_path: Path, store_path: Path) -> None:
    stall = Stall(70_000)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", image(), Fault(stall=stall))
        leader = tasks.start(url)
        assert stall.reached.wait(30)
        for _ in range(20):
            leader.send(signal.SIGINT)
        assert leader.done() == -signal.SIGINT
        assert "Traceback" not in leader.err
        assert not list((store_path / "locks").glob("*.leader"))


def test_a_signal_to_the_whole_group_ends_leader_and_waiters(tmp_path: Path, store_path: Path) -> None:
    """As `scancel` and the time limit send it. (Ctrl-C is the same, but what sh starts with `&` ignores that.)"""
    stall = Stall(70_000)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", image(), Fault(stall=stall))
        group = tasks.start(f'for i in 1 2 3 4; do "$@" {url} & done; wait', "sh", *COMMAND, program=("sh", "-c"))
        until(lambda: group.err.count("waiting for") == 3, "three to wait for the fourth")
        assert stall.reached.wait(30)  # it leads: one that is killed on its way there leaves a note of the dead
        os.killpg(group.pid, signal.SIGTERM)
        assert group.done() == -signal.SIGTERM
        until(lambda: not list((store_path / "locks").glob("*.leader")), "the leader to be gone")
        assert "Traceback" not in group.err


def test_a_task_started_in_the_background_by_sh_is_not_hit_by_ctrl_c(tmp_path: Path) -> None:
    """POSIX: `command &` in a script ignores SIGINT, and nohup ignores SIGHUP; that must be left as it is."""
    stall = Stall(70_000)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", image(), Fault(stall=stall))
        leader = tasks.start(url, program=DEAF)
        assert stall.reached.wait(30)
        waiter = tasks.start(url, program=DEAF)
        told([waiter])
        for task in (leader, waiter):
            task.send(signal.SIGINT)
            task.send(signal.SIGHUP)
        stall.go.set()
        all_end([leader, waiter])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_python_still_imports(tmp_path: Path, number: signal.Signals) -> None:
    """Seconds, where Python lies on a busy shared file system."""
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "filelock.py").write_text("import sys, time\nprint('importing', file=sys.stderr)\ntime.sleep(60)\n")
    with Tasks(tmp_path, PYTHONPATH=f"{slow}:{ROOT}") as tasks:
        task = tasks.start("http://127.0.0.1:1/tool.sqsh")
        task.says("importing")
        task.send(number)
        assert task.done(10) == -number
        assert task.err == "importing\n"


def test_while_it_waits_to_try_again(tmp_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path) as tasks:
        leader = tasks.start(origin.put("/tool.sqsh", b"", Fault(status=503, retry_after="60")))
        leader.says("trying again in 6")
        leader.send(signal.SIGTERM)
        assert leader.done(10) == -signal.SIGTERM


def test_before_the_origin_answers(tmp_path: Path) -> None:
    stall = Stall()
    with Origin() as origin, Tasks(tmp_path) as tasks:
        leader = tasks.start(origin.put("/tool.sqsh", b"", Fault(stall=stall)))
        assert stall.reached.wait(30)
        leader.send(signal.SIGTERM)
        assert leader.done(10) == -signal.SIGTERM


def test_the_command_of_exec_gets_signals_as_if_started_by_itself(tmp_path: Path) -> None:
    script = "trap 'echo hit; exit 9' TERM; echo up >&2; while :; do sleep 0.05; done"
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", image())
        for words in (("--mount=none",), ()):
            options = ("exec", "--runtime=none", "--mount=none", *words)
            task = tasks.start(*options, url, "--", "sh", "-c", script)
            task.says("up")
            task.send(signal.SIGTERM)
            assert (task.done(), task.answer) == (9, "hit")
