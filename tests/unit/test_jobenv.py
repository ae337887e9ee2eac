from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stager import jobenv
from stager.jobenv import JobEnvironment, from_environ

ROOT = Path(__file__).parents[2]

SCOPES: list[tuple[str, dict[str, str], str]] = [
    ("nothing", {}, ""),
    ("slurm", {"SLURM_JOB_ID": "1234"}, "slurm-1234"),
    ("slurm, array task", {"SLURM_JOB_ID": "1240", "SLURM_ARRAY_JOB_ID": "1234"}, "slurm-1240"),
    ("slurm, requeued", {"SLURM_JOB_ID": "1234", "SLURM_RESTART_COUNT": "2"}, "slurm-1234"),
    ("slurm, prolog of a requeued job", {"SLURM_JOB_ID": "1234", "SLURM_JOB_RESTART_COUNT": "2"}, "slurm-1234"),
    ("slurm, without a job id", {"SLURM_NODELIST": "n[1-3]", "SLURM_STEP_ID": "0"}, ""),
    ("pbs", {"PBS_JOBID": "12.host"}, "pbs-12.host"),
    ("pbs, array task", {"PBS_JOBID": "123[4].server"}, "pbs-123_4_.server"),
    ("pbs, whole array", {"PBS_JOBID": "123[].server"}, "pbs-123__.server"),
    ("lsf", {"LSB_JOBID": "7"}, "lsf-7"),
    ("lsf, no array", {"LSB_JOBID": "7", "LSB_JOBINDEX": "0"}, "lsf-7"),
    ("lsf, array", {"LSB_JOBID": "7", "LSB_JOBINDEX": "2"}, "lsf-7.2"),
    ("lsf, empty index", {"LSB_JOBID": "7", "LSB_JOBINDEX": ""}, "lsf-7"),
    ("sge", {"SGE_ROOT": "/sge", "JOB_ID": "77", "SGE_TASK_ID": "undefined"}, "sge-77"),
    ("sge, array", {"SGE_ROOT": "/sge", "JOB_ID": "77", "SGE_TASK_ID": "3"}, "sge-77.3"),
    ("sge, task not set", {"SGE_ROOT": "/sge", "JOB_ID": "77"}, "sge-77"),
    ("some other JOB_ID", {"JOB_ID": "77"}, ""),
    ("an interactive shell with SGE set up", {"SGE_ROOT": "/sge"}, ""),
    ("flux", {"FLUX_JOB_ID": "f2Xk1"}, "flux-f2Xk1"),
    ("flux in slurm", {"FLUX_JOB_ID": "f2Xk1", "SLURM_JOB_ID": "9"}, "slurm-9"),
    ("everything", {"FLUX_JOB_ID": "1", "SGE_ROOT": "/", "JOB_ID": "2", "LSB_JOBID": "3", "PBS_JOBID": "4"}, "pbs-4"),
    ("empty is unset", {"SLURM_JOB_ID": "", "PBS_JOBID": "", "LSB_JOBID": "5"}, "lsf-5"),
]

HOSTILE = [
    *("../../etc", ".", "..", ".hidden", "1/2", "1 2", "1\n2", "$(id)", "`id`", "1;2", "*", "?", "%", "\0", "~"),
    *("\u0661", "\udcff", "12_\u00e9", "a" * 65, "1" * 100_000, "[[", "@", "1,2", "1:2", "1+2", "1=2", "-e\x7f"),
]


@pytest.mark.parametrize(("environ", "scope"), [row[1:] for row in SCOPES], ids=[row[0] for row in SCOPES])
def test_scope(environ: dict[str, str], scope: str) -> None:
    job = from_environ(environ)
    assert job.scope == scope
    assert (job.scheduler, job.job) == tuple(scope.split("-", 1) if scope else ("", ""))


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "LSB_JOBID", "JOB_ID", "FLUX_JOB_ID", "LSB_JOBINDEX", "SGE_TASK_ID"])
@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_hostile_values_mean_no_job(name: str, value: str) -> None:
    environ = {"SGE_ROOT": "/sge"}
    if name in ("LSB_JOBINDEX", "SGE_TASK_ID"):
        environ["LSB_JOBID" if name.startswith("LSB") else "JOB_ID"] = "1"
        value = value if value not in (".", "..", ".hidden") else "/"  # "1..hidden" is odd but harmless
    assert from_environ(environ | {name: value}).scope == ""


def test_a_hostile_value_does_not_pass_the_decision_on() -> None:
    assert from_environ({"SLURM_JOB_ID": "../x", "PBS_JOBID": "12"}).scope == ""


def test_the_longest_id() -> None:
    assert from_environ({"SLURM_JOB_ID": "1" * 64}).scope == "slurm-" + "1" * 64
    assert from_environ({"LSB_JOBID": "1" * 63, "LSB_JOBINDEX": "2"}).scope == ""


RANKS: list[tuple[dict[str, str], int | None]] = [
    ({}, None),
    ({"SLURM_LOCALID": "3"}, 3),
    ({"SLURM_LOCALID": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "5"}, 5),
    ({"SLURM_LOCALID": "0", "MPI_LOCALRANKID": "2"}, 2),
    ({"PALS_LOCAL_RANKID": "x", "SLURM_LOCALID": "1"}, 1),
    ({"LOCAL_RANK": "-1"}, None),
    ({"LOCAL_RANK": ""}, None),
    ({"LOCAL_RANK": "9" * 5000}, None),
    ({"LOCAL_RANK": "\u0661"}, None),
    ({"SLURM_PROCID": "7", "PMI_RANK": "7", "PMIX_RANK": "7"}, None),
]


@pytest.mark.parametrize(("environ", "rank"), RANKS)
def test_local_rank(environ: dict[str, str], rank: int | None) -> None:
    assert from_environ(environ).local_rank == rank


def test_node_rank() -> None:
    assert from_environ({"SLURM_JOB_ID": "1", "SLURM_NODEID": "12"}).node_rank == 12
    assert from_environ({"PBS_JOBID": "1", "PBS_NODENUM": "3"}).node_rank == 3
    assert from_environ({"PBS_JOBID": "1", "PBS_NODENUM": "0", "PALS_NODEID": "5"}).node_rank == 5
    assert from_environ({"SLURM_JOB_ID": "1"}).node_rank is None


def test_ranks_do_not_change_the_scope() -> None:
    environ = {"SLURM_JOB_ID": "1"}
    scopes = {from_environ(environ | {name: str(n)}).scope for name in jobenv.LOCAL_RANKS for n in range(3)}
    assert scopes == {"slurm-1"}


def test_it_does_not_change() -> None:
    job = JobEnvironment("slurm", "1")
    with pytest.raises(AttributeError):
        job.job = "2"
    assert job == JobEnvironment("slurm", "1") != JobEnvironment("slurm", "1", local_rank=0)
    assert len({job, JobEnvironment("slurm", "1")}) == 1
    assert repr(job) == "JobEnvironment('slurm', '1', node_rank=None, local_rank=None)"


def test_the_table_names_every_variable() -> None:
    rows = [line for line in (jobenv.__doc__ or "").splitlines() if line.startswith("| ")]
    variables = {name for _, environ, scope in SCOPES if scope for name in environ}
    for variable in variables - {"SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_RESTART_COUNT"}:
        assert any(variable in row for row in rows)


def test_importing_it_is_light() -> None:
    heavy = {"dataclasses", "typing", "re", "enum", "collections", "functools"}
    code = "import sys; before = set(sys.modules); import stager.jobenv; print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not heavy.intersection(run.stdout.split())
