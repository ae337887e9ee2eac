from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from stager.errors import NotFound
from stager.layout import UNMOUNTED
from stager.process import boot_id, current
from stager.schedulers import registry, told
from stager.schedulers.told import LOOK, SILENT, Told
from tests.support.fake_clock import FakeClock
from tests.support.fake_node import SilentTeller

if TYPE_CHECKING:
    from pathlib import Path

SCOPE = "slurm-7"
ME = os.getuid()


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for jobs that ends with the boot."""
    (tmp_path / "run").mkdir()
    jobs = tmp_path / "run" / "stage-image" / "jobs"
    monkeypatch.setattr(registry, "RUN", str(jobs))
    return jobs


def staging(*words: object) -> Told:
    return Told((), " ".join(map(str, ("staging", *words))))


def write(text: str) -> None:
    told.write(SCOPE, Told((), "ready"), ME)
    os.chmod(told.path(SCOPE), 0o600)
    with open(told.path(SCOPE), "w", encoding="utf-8") as file:
        file.write(text)


def test_what_is_written_is_read() -> None:
    told.write(SCOPE, Told(["export A=B", "print x"], "ready"), ME)
    found = told.read(SCOPE)
    assert found is not None
    assert (found.lines, found.last, found.state) == (("export A=B", "print x"), "ready", "ready")
    assert found.written > 0


def test_nothing_is_told_of_other_jobs() -> None:
    told.write(SCOPE, Told((), "ready"), ME)
    assert told.read("slurm-77") is None


@pytest.mark.parametrize("umask", [0, 0o077])
def test_it_is_for_its_owner_to_read(run: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        told.write(SCOPE, Told((), "ready"), ME)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(told.path(SCOPE)).st_mode) == 0o400
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in (run / SCOPE, run, run.parent)} == {0o755}


def test_nothing_is_left_aside(run: Path) -> None:
    for _ in range(3):
        told.write(SCOPE, Told((), "ready"), ME)
    assert os.listdir(run / SCOPE) == ["tasks"]


def test_what_a_killed_writer_left_aside_is_in_nobodys_way(run: Path) -> None:
    aside = run / SCOPE / f".tasks.{os.getpid()}"
    aside.parent.mkdir(parents=True)
    aside.write_text("export HALF")
    told.write(SCOPE, Told((), "ready"), ME)
    assert os.listdir(run / SCOPE) == ["tasks"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("ready\n")
    told.write(SCOPE, Told((), "ready"), ME)
    os.unlink(told.path(SCOPE))
    os.symlink(tmp_path / "elsewhere", told.path(SCOPE))
    assert told.read(SCOPE) is None


@pytest.mark.parametrize(
    "text", ["export A=B\n", "export A=B\nready", "ready\nexport A=B\n", "\n", "readiness\n", " ready\n"]
)
def test_what_is_not_whole_counts_as_absent(text: str) -> None:
    write(text)
    assert told.read(SCOPE) is None


def test_more_than_is_ever_written_counts_as_absent() -> None:
    write("export A=B\n" * told.MAX + "ready\n")
    assert told.read(SCOPE) is None


def test_a_failure() -> None:
    failure = Told.failed(NotFound("there is no\n such thing", reference="https://h/x"))
    assert failure.last == "failed 66 https://h/x: there is no such thing"
    assert (failure.state, failure.failure) == ("failed", "https://h/x: there is no such thing")
    assert Told((), "ready").failure == ""


def test_a_failure_names_its_image_once() -> None:
    assert (
        Told.failed(NotFound("https://h/x is not there", reference="https://h/x")).failure == "https://h/x is not there"
    )


def test_who_stages() -> None:
    alive = staging(current(), 5, 10, "https://h/x", "/y")
    assert (alive.stager, alive.progress, alive.wanted) == (current(), (5, 10), ("https://h/x", "/y"))


@pytest.mark.parametrize("words", [("1.1." + "0" * 8, 1, 2), ("nobody", 1, 2), (), (f"{os.getpid()}.1.{boot_id()}",)])
def test_who_does_not_live_stages_nothing(words: tuple[object, ...]) -> None:
    assert staging(*words).stager is None


@pytest.mark.parametrize("words", [(), ("x", "y"), (-1, 5), ("9" * 30, 5), (5,), ("²", 5)])
def test_progress_that_makes_no_sense(words: tuple[object, ...]) -> None:
    assert staging(current(), *words).progress == (0, 0)


def test_only_who_stages_wants_something() -> None:
    ended = Told((), f"failed 66 {current()} 1 2 https://h/x")
    assert (ended.stager, ended.wanted, ended.progress) == (None, (), (0, 0))


def test_waiting_ends_with_the_staging() -> None:
    clock, tell = FakeClock(), SilentTeller()
    told.write(SCOPE, staging(current(), 0, 0, "/x"), ME)
    clock.after(3, lambda: told.write(SCOPE, Told(["export A=B"], "ready"), ME))
    begun = clock.now()
    found = told.await_stager(SCOPE, clock, tell)
    assert found is not None
    assert (found.lines, found.state) == (("export A=B",), "ready")
    assert 3 <= clock.now() - begun <= 3 + 2 * LOOK
    assert (tell.waited_for, tell.said) == ([os.getpid()], [])


def test_nobody_is_waited_for_who_is_not_there() -> None:
    clock, tell = FakeClock(), SilentTeller()
    assert told.await_stager(SCOPE, clock, tell) is None
    told.write(SCOPE, staging("1.1." + "0" * 8, 0, 0), ME)
    assert told.await_stager(SCOPE, clock, tell) is not None
    assert clock.sleeps == []


def test_waiting_ends_with_the_jobs_directory(run: Path) -> None:
    clock = FakeClock()
    told.write(SCOPE, staging(current(), 0, 0), ME)
    clock.after(1, lambda: os.unlink(run / SCOPE / "tasks"))
    assert told.await_stager(SCOPE, clock, SilentTeller()) is None


def test_silence_ends_the_waiting() -> None:
    clock, tell = FakeClock(), SilentTeller()
    told.write(SCOPE, staging(current(), 0, 0), ME)
    begun = clock.now()
    assert told.await_stager(SCOPE, clock, tell) is not None
    assert SILENT <= clock.now() - begun <= SILENT + 2 * LOOK
    assert "stopped moving" in tell.said[0]


def beat(clock: FakeClock, number: int = 1) -> None:
    """Have the file written anew every SILENT - 1 seconds."""
    os.utime(told.path(SCOPE), ns=(number, number))
    clock.after(SILENT - 1, lambda: beat(clock, number + 1))


def test_a_sign_of_life_prolongs_it_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "LONGEST", 5 * SILENT)
    clock = FakeClock()
    told.write(SCOPE, staging(current(), 0, 0), ME)
    begun = clock.now()
    beat(clock)
    assert told.await_stager(SCOPE, clock, SilentTeller()) is not None
    assert 5 * SILENT <= clock.now() - begun <= 5 * SILENT + 2 * LOOK


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, SCOPE),
        ({"SLURM_HET_SIZE": "2", "SLURM_JOB_ID_HET_GROUP_0": "7", "SLURM_JOB_ID_HET_GROUP_1": "8"}, "slurm-8"),
        ({"SLURM_HET_SIZE": "1", "SLURM_JOB_ID_HET_GROUP_0": "7", "SLURM_JOB_ID_HET_GROUP_1": "8"}, SCOPE),
        ({"SLURM_HET_SIZE": "2", "SLURM_JOB_ID_HET_GROUP_1": "../slurm-8"}, SCOPE),
        ({"SLURM_HET_SIZE": "-2", "SLURM_JOB_ID_HET_GROUP_1": "8"}, SCOPE),
        ({"SLURM_HET_SIZE": "9999999999", "SLURM_JOB_ID_HET_GROUP_1": "8"}, SCOPE),
    ],
)
def test_a_component_of_a_heterogeneous_job_goes_by_its_own_number(environ: dict[str, str], expected: str) -> None:
    told.write("slurm-8", Told((), "ready"), ME)
    assert told.scope_of(SCOPE, environ) == expected
    told.write(SCOPE, Told((), "ready"), ME)
    assert told.scope_of(SCOPE, environ) == SCOPE, "the number that a task has comes first"


def test_what_is_not_on_this_node_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "image").touch()
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / UNMOUNTED).touch()
    here = {"STAGE_IMAGE_PATH": str(tmp_path / "image"), "STAGE_IMAGE_ROOT": str(tmp_path), "STAGE_IMAGE_PATH_9": "/no"}
    assert told.stale(here, is_told=False) == []
    assert told.stale(here, is_told=True) == [f"unset STAGE_IMAGE_{name}" for name in ("PATH", "DIGEST", "ROOT")]
    gone = {"STAGE_IMAGE_PATH_2": str(tmp_path / "gone"), "STAGE_IMAGE_DIGEST_2": "x", "STAGE_IMAGE_REFERENCE_2": "y"}
    assert told.stale(here | gone, is_told=False) == ["unset STAGE_IMAGE_PATH_2", "unset STAGE_IMAGE_DIGEST_2"]
    assert told.stale({"STAGE_IMAGE_ROOT_8": str(tmp_path / "bare")}, is_told=False) == ["unset STAGE_IMAGE_ROOT_8"]
    assert told.stale({"STAGE_IMAGE_ROOT": str(tmp_path / "gone")}, is_told=False) == ["unset STAGE_IMAGE_ROOT"]
