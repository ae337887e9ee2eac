"""Debian's Open MPI and MPICH start the wrapper 32 times: one download, and programs that do not notice it.

All ranks are on this node, over shared memory and loopback. A real MPI program is the proof that what a launcher hands
down (PMI's file descriptors, variables, stdin) has come through.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from random import Random
from typing import TYPE_CHECKING

import pytest

from stager.jobenv import LOCAL_RANKS
from tests.support.origin import Origin
from tests.support.tasks import NOTHING, ROOT, Task, Tasks, image, published, until
from tests.support.warm_scene import WRAPPER

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping
    from pathlib import Path

RANKS = 32
CONTENT = image(200_000)
PROGRAM = str(ROOT / "tests" / "support" / "mpi_program.py")
ROOTS = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

# `isolated` and `fork`: neither looks for the Slurm whose job it seems to be in.
LAUNCHERS = {
    "openmpi": (
        *("mpirun.openmpi", "--oversubscribe", "--bind-to", "none", "--mca", "btl", "self,vader"),
        *("--mca", "oob_tcp_if_include", "lo", "--mca", "plm", "isolated", "--mca", "mpi_yield_when_idle", "1"),
    ),
    "mpich": ("mpiexec.hydra", "-iface", "lo", "-launcher", "fork"),
}
both = [
    pytest.param("openmpi", marks=pytest.mark.needs("mpirun.openmpi")),
    pytest.param("mpich", marks=pytest.mark.needs("mpiexec.hydra")),
]


class Launch:
    """An origin with an image, and a launcher that starts the wrapper for it."""

    def __init__(self, family: str, tasks: Tasks, url: str, starts: Path) -> None:
        self.family, self.url = family, url
        self._tasks, self._starts = tasks, starts

    def start(self, *command: str, ranks: int = RANKS, wrapped: bool = True, env: Mapping[str, str] = NOTHING) -> Task:
        words = ("exec", "--runtime=none", "--mount=none", self.url, "--") if wrapped else ()
        launcher = (*LAUNCHERS[self.family], "-n", str(ranks))
        program = (*launcher, str(WRAPPER)) if wrapped else launcher
        return self._tasks.start(*words, *command, program=program, env=env)

    def mpi(self, *words: str, ranks: int = RANKS, wrapped: bool = True, env: Mapping[str, str] = NOTHING) -> Task:
        return self.start(sys.executable, PROGRAM, self.family, *words, ranks=ranks, wrapped=wrapped, env=env)

    def environ(self) -> dict[str, str]:
        return self._tasks.environ()

    @property
    def pythons(self) -> int:
        """How many ranks the wrapper has handed to Python."""
        return len(self._starts.read_text().splitlines()) if self._starts.exists() else 0


@pytest.fixture(params=both)
def launch(request: pytest.FixtureRequest, tmp_path: Path, origin: Origin) -> Iterator[Launch]:
    url = origin.put("/tool.sqsh", CONTENT)
    starts = tmp_path / "starts"
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$*" >>{starts}\nshift\nexec {sys.executable} "$@"\n'
    )  # -I: without this checkout
    python.chmod(0o755)
    environ = {**ROOTS, "STAGE_IMAGE_PYTHON": str(python), "SLURM_JOB_ID": "4711"}
    with Tasks(tmp_path, **environ) as tasks:
        yield Launch(request.param, tasks, url, starts)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


def ranks_of(task: Task, store: str | os.PathLike[str]) -> list[int]:
    """Return the ranks that have written their line, each with the right figures."""
    lines = [line.split() for line in task.out.splitlines()]
    total = RANKS * (RANKS - 1) // 2
    assert {tuple(line[1:]) for line in lines} == {(str(RANKS), str(total), str(published(store, CONTENT)))}, task.err
    return sorted(int(line[0]) for line in lines)


def test_all_ranks_compute_after_one_download(launch: Launch, origin: Origin, store_path: Path) -> None:
    task = launch.mpi()
    assert task.done() == 0, task.err
    assert ranks_of(task, store_path) == list(range(RANKS))
    assert [(r.method, r.status, r.sent) for r in origin.requests] == [("GET", 200, len(CONTENT))]


def test_outside_of_any_job_it_is_one_download_too(launch: Launch, origin: Origin, store_path: Path) -> None:
    task = launch.mpi(env={"SLURM_JOB_ID": ""})
    assert task.done() == 0, task.err
    assert ranks_of(task, store_path) == list(range(RANKS))
    assert [request.sent for request in origin.requests if request.sent] == [len(CONTENT)]


def test_no_rank_is_needed_for_the_others_to_get_their_image(launch: Launch, origin: Origin) -> None:
    """Ranks choose who prints. Whoever comes first leads, be it the last."""
    words = f"{WRAPPER} exec --runtime=none --mount=none {launch.url} -- printenv STAGE_IMAGE_PATH"
    task = launch.start("sh", "-c", f"[ ${{OMPI_COMM_WORLD_RANK:-$PMI_RANK}} = 0 ] || {words}", ranks=4, wrapped=False)
    assert task.done() == 0, task.err
    assert len(task.out.splitlines()) == 3
    assert len(origin.requests) == 1


def test_the_next_launch_needs_no_python(launch: Launch, origin: Origin, store_path: Path) -> None:
    assert launch.mpi().done() == 0
    before = launch.pythons
    task = launch.mpi()
    assert task.done() == 0, task.err
    assert ranks_of(task, store_path) == list(range(RANKS))
    assert (launch.pythons - before, len(origin.requests)) == (0, 1)


def test_one_rank_speaks(launch: Launch) -> None:
    task = launch.start("true")
    assert task.done() == 0, task.err
    ends = [line for line in task.err.splitlines() if "staged" in line]
    assert len(ends) <= 1, task.err
    assert len(task.err.splitlines()) < RANKS, task.err


def test_the_local_rank_is_among_those_that_are_known(launch: Launch) -> None:
    names = " ".join(f'"${{{name}-}}"' for name in LOCAL_RANKS)
    task = launch.start("sh", "-c", f'for r in {names}; do [ -z "$r" ] || exec printf \'%s\\n\' "$r"; done', ranks=3)
    assert task.done() == 0, task.err
    assert sorted(task.out.split()) == ["0", "1", "2"]


def test_stdin_is_that_of_the_first_rank(launch: Launch, tmp_path: Path) -> None:
    # Hydra 4.0 gives up on a program that reads more slowly than a pipe fills, without the wrapper too.
    content = Random(1).randbytes(1 << 20 if launch.family == "openmpi" else 60_000)
    assert launch.start("true", ranks=1).done() == 0
    target = tmp_path / "copy"
    words = ("exec", "--runtime=none", "--mount=none", launch.url, "--", "dd", f"of={target}", "status=none")
    command = [*LAUNCHERS[launch.family], "-n", "1", str(WRAPPER), *words]
    done = subprocess.run(command, input=content, env=launch.environ(), capture_output=True, timeout=40, check=False)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert target.read_bytes() == content


def test_the_exit_status_is_that_of_the_program(launch: Launch) -> None:
    assert launch.start("true", ranks=1).done() == 0
    for code in ("3", "77"):
        plain, wrapped = launch.mpi(code, ranks=4, wrapped=False), launch.mpi(code, ranks=4)
        assert (wrapped.done(), plain.done()) == (int(code), int(code)), wrapped.err


def test_a_rank_that_dies_takes_the_others_along(launch: Launch, tmp_path: Path) -> None:
    # Not before all are there: Hydra 4.0 may miss the end of a rank while it starts others, and then waits for ever.
    lines = (
        f"echo >{tmp_path}/there.$$",
        "[ ${OMPI_COMM_WORLD_RANK:-$PMI_RANK} = 0 ] || exec sleep 30",
        f"until [ $(ls {tmp_path}/there.* | wc -l) = 4 ]; do sleep 0.05; done",
        "kill -9 $$",
    )
    task = launch.start("sh", "-c", "\n".join(lines), ranks=4)
    assert task.done(20) > 0


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_reaches_every_rank(launch: Launch, tmp_path: Path, number: signal.Signals) -> None:
    name = number.name[3:]
    lines = (
        f"trap 'echo got >{tmp_path}/got.$$; exit 0' {name}",
        f"echo there >{tmp_path}/there.$$",
        "while :; do sleep 0.05; done",
    )
    task = launch.start("sh", "-c", "\n".join(lines), ranks=4)
    until(lambda: len(list(tmp_path.glob("there.*"))) == 4 or not task.running, "four ranks")
    task.send(number)
    task.done()
    # Of four ranks that have just begun, Open MPI 4.1 sometimes kills one before its SIGTERM, without the wrapper too.
    least = 1 if (launch.family, number) == ("openmpi", signal.SIGTERM) else 4
    assert len(list(tmp_path.glob("got.*"))) >= least, task.err


def test_ranks_have_the_files_open_that_the_launcher_gave_them(launch: Launch) -> None:
    """PMI finds its connection by number.

    One may be added: the script itself. dash closes it at exec only if that is below 10, and Hydra's ranks have more
    files open than that.
    """
    assert launch.start("true", ranks=1).done() == 0
    plain, wrapped = (open_files(launch.start("ls", "-l", "/proc/self/fd", ranks=1, wrapped=w)) for w in (False, True))
    assert wrapped.items() >= plain.items()
    assert {target for number, target in wrapped.items() if number not in plain} <= {str(WRAPPER)}


def open_files(task: Task) -> dict[str, str]:
    """Return number and kind of all that `ls -l /proc/self/fd` has shown, but for what it opens itself."""
    assert task.done() == 0, task.err
    found = re.findall(r" (\d+) -> ([^\[\n]*)", task.out)
    return {number: target for number, target in found if not target.startswith("/proc/")}
