"""`stage-image prefetch` on nodes that are stores of this machine, by launchers that are small scripts."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.tasks import Tasks, image, published, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.tasks import Task

IMAGE = image(1 << 14)


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    with Tasks(tmp_path) as started:
        yield started


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a tool's $(touch hurt) `touch hurt`.sqsh"
    path.write_bytes(IMAGE)
    return path


@pytest.fixture
def program(tmp_path: Path) -> str:
    return script(tmp_path / "stage-image", f'exec {sys.executable} -m stager "$@"')


@pytest.fixture
def here(tmp_path: Path) -> str:
    """A launcher for which a node is a store."""
    return f"env STAGE_IMAGE_STORE={tmp_path}/store-{{node}} sh -c"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def prefetch(tasks: Tasks, *words: object, session: bool = False) -> Task:
    return tasks.start("prefetch", *map(str, words), session=session)


def test_all_nodes_have_it(tasks: Tasks, tmp_path: Path, source: Path, program: str, here: str) -> None:
    task = prefetch(tasks, source, "--nodes", "n[01-05],gpu", "--launcher", here, "--program", program)
    assert task.done() == 0, task.err
    assert task.out == f"6 of 6 nodes have {source}\n"
    for node in ("n01", "n05", "gpu"):
        assert published(tmp_path / f"store-{node}", IMAGE).read_bytes() == IMAGE
    assert not (tmp_path / "hurt").exists()


def test_each_failure_is_told(tasks: Tasks, tmp_path: Path, source: Path, program: str) -> None:
    launcher = script(tmp_path / "launch", f'[ "$1" != bad ] || exit 255; STAGE_IMAGE_STORE={tmp_path}/$1 sh -c "$2"')
    common = (source, "--nodes", "n1,bad,n2", "--launcher", f"{launcher} {{node}}", "--program", program)
    task = prefetch(tasks, *common)
    assert task.done() == 86
    assert task.out == f"2 of 3 nodes have {source}\n"
    assert "stage-image: bad: exit code 255: it did not say why\n" in task.err
    assert "1 of 3 nodes do not have all images" in task.err
    assert prefetch(tasks, *common, "--min-nodes", 2).done() == 0
    assert prefetch(tasks, *common, "--min-nodes", 3).done() == 86
    answer: Any = json.loads(prefetch_out(tasks, *common, "--json", code=86))
    assert (answer[0]["have"], answer[0]["of"]) == (2, 3)
    assert {each["node"]: each["exit_code"] for each in answer[0]["nodes"]} == {"n1": 0, "n2": 0, "bad": 255}


def prefetch_out(tasks: Tasks, *words: object, code: int) -> str:
    task = prefetch(tasks, *words)
    assert task.done() == code, task.err
    return task.out


def test_the_most_frequent_failure_is_the_exit_code(
    tasks: Tasks, tmp_path: Path, source: Path, program: str, here: str
) -> None:
    (tmp_path / "junk").write_bytes(b"junk" * 1000)
    task = prefetch(
        tasks, source, tmp_path / "junk", "--nodes", "n1,n2", "--launcher", here, "--program", program, "--parallel", 1
    )
    assert task.done() == 72
    assert task.out == f"2 of 2 nodes have {source}\n0 of 2 nodes have {tmp_path}/junk\n"
    assert "not a SIF, squashfs or EROFS image" in task.err.splitlines()[-2]


def test_options_are_passed_on_and_variables_are_not(tasks: Tasks, tmp_path: Path, source: Path) -> None:
    launcher = script(tmp_path / "launch", f'printf "%s\\n" "$@" > {tmp_path}/words-$1; echo /x')
    task = prefetch(
        tasks,
        source,
        "--nodes=n1",
        f"--launcher={launcher} {{node}} {{words}}",
        "--store=/a b",
        "--retry",
        "--offline=allow",
    )
    assert task.done() == 0, task.err
    words = (tmp_path / "words-n1").read_text().splitlines()
    options = ["--progress=lines", "--store=/a b", "--offline=allow", "--retry"]
    assert words == ["n1", "stage-image", "path", *options, str(source)]


def test_no_more_at_a_time_than_asked_for(tasks: Tasks, tmp_path: Path, source: Path) -> None:
    (tmp_path / "now").mkdir()
    body = "mkdir now/$1; ls now | wc -l >> counts"
    body += '; until [ "$(ls now | wc -l)" -ge 3 ] || [ -e last ]; do sleep 0.01; done'
    launcher = script(tmp_path / "launch", f"{body}; [ $1 != n7 ] || touch last; sleep 0.05; rmdir now/$1; echo /x")
    task = prefetch(tasks, source, "--nodes=n[1-9]", f"--launcher={launcher} {{node}}", "--parallel=3")
    assert task.done() == 0, task.err
    counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
    assert len(counts) == 9
    assert max(counts) == 3


@pytest.mark.parametrize("nodes", ["n1,-oProxyCommand=touch hurt", "$(touch hurt)", "n1;touch hurt", "n[1-2]`x`", ","])
def test_hostile_names_reach_no_launcher(tasks: Tasks, tmp_path: Path, source: Path, nodes: str) -> None:
    launcher = script(tmp_path / "launch", "touch hurt")
    assert prefetch(tasks, source, f"--nodes={nodes}", f"--launcher={launcher} {{node}}").done() == 2
    assert not (tmp_path / "hurt").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--launcher=no-such-program {node}"], 2),
        (["--launcher=sh -c"], 2),
        (["--parallel=0"], 64),
        (["--parallel=1000"], 64),
        (["--deadline=soon"], 64),
    ],
)
def test_what_cannot_be(tasks: Tasks, source: Path, words: list[str], code: int) -> None:
    assert prefetch(tasks, source, "--nodes=n1", *words).done() == code


def test_a_silent_node_is_given_up(tasks: Tasks, tmp_path: Path, source: Path) -> None:
    body = f"echo $$ > {tmp_path}/pid-$1; [ $1 = n1 ] || exec sleep 1000; echo /x"
    launcher = script(tmp_path / "launch", body)
    impatient = ("--deadline=0.3s", "--stall-timeout=0.1s")
    task = prefetch(tasks, source, "--nodes=n1,n2", f"--launcher={launcher} {{node}}", *impatient)
    assert task.done() == 86
    assert "n2: silent for too long" in task.err
    assert not alive(tmp_path / "pid-n2")


def test_a_node_that_says_something_is_not(tasks: Tasks, tmp_path: Path, source: Path) -> None:
    body = "for i in 1 2 3 4 5 6 7 8 9 10; do echo still there >&2; sleep 0.2; done; echo /x"
    launcher = script(tmp_path / "launch", body)
    task = prefetch(
        tasks, source, "--nodes=n1", f"--launcher={launcher} {{node}}", "--deadline=1s", "--stall-timeout=0.1s"
    )
    assert task.done() == 0, task.err


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_what_it_started_and_nothing_else(
    tasks: Tasks, tmp_path: Path, source: Path, number: signal.Signals, *, stubborn: bool
) -> None:
    other = f"setsid sh -c 'echo $$ > {tmp_path}/other-'$1'; exec sleep 1000' > /dev/null 2>&1 &"
    body = f"{'trap : TERM INT;' if stubborn else ''} sleep 1000 & echo $! > {tmp_path}/child-$1"
    body += f"; {other} echo $$ > {tmp_path}/pid-$1; wait; wait"
    launcher = script(tmp_path / "launch", body)
    task = prefetch(tasks, source, "--nodes=n[1-3]", f"--launcher={launcher} {{node}}", "--parallel=2")
    ours = [tmp_path / f"{name}-{node}" for name in ("pid", "child", "other") for node in ("n1", "n2")]
    until(lambda: all(map(alive, ours)), "two launchers and what they start")
    task.send(number)
    assert task.done() == -number
    for node in ("n1", "n2"):
        assert not alive(tmp_path / f"pid-{node}")
        until(lambda node=node: not alive(tmp_path / f"child-{node}"), "its child's end")  # type: ignore[misc]
        assert alive(tmp_path / f"other-{node}")
        os.kill(int((tmp_path / f"other-{node}").read_text()), signal.SIGKILL)
    assert not (tmp_path / "pid-n3").exists()


def alive(pid_file: Path) -> bool:
    """Whether the process named in a file is there, and no zombie."""
    try:
        pid = pid_file.read_text().strip()
        return bool(pid) and Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] not in ("Z", "X")
    except OSError:
        return False


def test_what_a_launcher_leaves_behind_holds_nobody_up(tasks: Tasks, tmp_path: Path, source: Path) -> None:
    launcher = script(tmp_path / "launch", f"sleep 1000 & echo $! > {tmp_path}/left; echo /x")
    task = prefetch(tasks, source, "--nodes=n1", f"--launcher={launcher} {{node}}")
    assert task.done(20) == 0
    os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


def test_a_flood_of_output_costs_no_memory_and_no_time(tasks: Tasks, tmp_path: Path, source: Path) -> None:
    launcher = script(tmp_path / "launch", "head -c 30000000 /dev/zero >&2; echo /x")
    assert prefetch(tasks, source, "--nodes=n[1-4]", f"--launcher={launcher} {{node}}").done(20) == 0


def test_progress(tasks: Tasks, tmp_path: Path, source: Path) -> None:
    """A line every ten seconds, here sooner."""
    body = f"[ $1 = n1 ] || until [ -e {tmp_path}/go ]; do sleep 0.02; done; echo /x"
    launcher = script(tmp_path / "launch", body)
    code = "import sys, stager.cli.campaign as c; c.LINE_SECONDS = 0.1"
    code += "; from stager.cli.full import run; sys.exit(run(sys.argv[1:]))"
    words = ("prefetch", str(source), "--nodes=n1,n2", f"--launcher={launcher} {{node}}")
    task = tasks.start(*words, program=(sys.executable, "-c", code))
    task.says(f"stage-image: 1 of 2 nodes have {source.name}, 1 under way\n")
    (tmp_path / "go").touch()
    assert task.done() == 0
