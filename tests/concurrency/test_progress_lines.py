"""What people see while they wait, on stderr; and that stdout stays the answer's own."""

from __future__ import annotations

import json
import os
import re
import socket
from select import select
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import COMMAND, PATIENCE, Tasks, all_end, image, published, told

if TYPE_CHECKING:
    from pathlib import Path

STAGED = r"stage-image: staged tool\.sqsh: 1\.0 MiB in \d+\.\d s(, .*)?\n"


@pytest.mark.parametrize("words", [(), ("--json",), ("path",)], ids=["warm", "long", "verb"])
def test_a_waiter_names_image_process_host_and_since_when(tmp_path: Path, words: tuple[str, ...]) -> None:
    stall = Stall(1000)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", image(), Fault(stall=stall))
        leader = tasks.start(url)
        assert stall.reached.wait(30)
        waiter = tasks.start(*words, url)
        told([waiter])
        stall.go.set()
        all_end([leader, waiter])
    host = re.escape(socket.gethostname())
    waits = rf"waiting for tool\.sqsh: pid {leader.pid} on {host} has been fetching it since \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"stage-image: {waits}\n", waiter.err), waiter.err
    assert re.fullmatch(STAGED, leader.err), leader.err


def test_one_rank_of_the_node_speaks_for_all(tmp_path: Path) -> None:
    stall = Stall(1000)
    with Origin() as origin, Tasks(tmp_path, SLURM_JOB_ID="1") as tasks:
        url = origin.put("/tool.sqsh", image(), Fault(stall=stall))
        leader = tasks.start(url, env={"SLURM_LOCALID": "3"})
        assert stall.reached.wait(30)
        quiet = [tasks.start(url, env={"SLURM_LOCALID": str(rank)}) for rank in (1, 2)]
        speaker = tasks.start(url, env={"SLURM_LOCALID": "0"})
        told([speaker], f"pid {leader.pid} on ")
        stall.go.set()
        all_end([leader, speaker, *quiet])
    assert {task.err for task in quiet} == {""}


@pytest.mark.parametrize("mode", ["none", "lines", "auto"])
def test_progress_can_be_switched_off_and_is_lines_without_a_terminal(tmp_path: Path, mode: str) -> None:
    stall = Stall(1000)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", image(), Fault(stall=stall))
        leader = tasks.start(url)
        assert stall.reached.wait(30)
        spoken = tasks.start(f"--progress={mode}", url)
        marker = tasks.start("--progress=lines", url)
        told([marker] if mode == "none" else [marker, spoken])
        stall.go.set()
        all_end([leader, spoken, marker])
    assert ("waiting for" in spoken.err) == (mode != "none")
    assert "\x1b" not in spoken.err


def test_stdout_is_the_path_and_nothing_else(tmp_path: Path, store_path: Path) -> None:
    """Whatever is to be told: retries, waiting, a warning."""
    content = image()
    with Origin() as origin, Tasks(tmp_path, STAGE_IMAGE_DEADLINE="5s") as tasks:
        url = origin.put("/tool.sqsh", content, Fault(status=503, times=1))
        first = tasks.run(url, env={"SLURM_JOB_ID": "1"})
        origin.put("/tool.sqsh", content, Fault(status=503))
        second = tasks.run(url, env={"SLURM_JOB_ID": "2", "STAGE_IMAGE_DEADLINE": "0.2s"})
        assert first.out == second.out == f"{published(store_path, content)}\n"
        assert first.err
        assert second.err


def test_a_terminal_gets_a_bar_and_the_pipe_only_the_path(tmp_path: Path, store_path: Path) -> None:
    content = image(2 << 20)
    master, slave = os.openpty()
    try:
        with Origin() as origin, Tasks(tmp_path, TERM="xterm") as tasks:
            url = origin.put("/tool.sqsh", content, Fault(rate=2 << 20))
            command = f'exec "$@" {url} 2> {os.ttyname(slave)}'
            task = tasks.start(command, "sh", *COMMAND, program=("sh", "-c"))
            seen = b""
            while b"tool.sqsh" not in seen:
                assert select([master], [], [], PATIENCE)[0], seen
                seen += os.read(master, 4096)
            assert task.done() == 0
            assert task.out == f"{published(store_path, content)}\n"
            assert b"\x1b" in seen
    finally:
        os.close(master)
        os.close(slave)


def test_json_is_one_object_with_all_that_is_known(tmp_path: Path, store_path: Path) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", content)
        for _ in range(2):
            answer = json.loads(tasks.run("--json", url).out)
            assert answer["path"] == str(published(store_path, content))
            assert answer["digest"] == f"sha256:{published(store_path, content).parent.name}"
            assert (answer["size"], answer["format"], answer["origin"]) == (len(content), "squashfs", url)
