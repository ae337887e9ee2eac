from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stager import jobenv
from stager.jobenv import JobEnvironment, from_environ
from stager.node_names import expand

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
    ("flux, as it writes it", {"FLUX_JOB_ID": "\u01922Xk1"}, "flux-f2Xk1"),
    ("flux, in an ASCII locale", {"FLUX_JOB_ID": "\udcc6\udc922Xk1"}, "flux-f2Xk1"),
    ("flux, in a locale of Latin 1", {"FLUX_JOB_ID": "\u00c6\u00922Xk1"}, "flux-f2Xk1"),
    ("flux, the letter alone", {"FLUX_JOB_ID": "\u0192"}, "flux-f"),
    ("condor", {"_CONDOR_SCRATCH_DIR": "/var/lib/condor/execute/dir_4711"}, "condor-dir_4711"),
    ("condor, in a container", {"_CONDOR_SCRATCH_DIR": "/srv"}, ""),
    ("condor, no number", {"_CONDOR_SCRATCH_DIR": "/x/dir_"}, ""),
    ("condor, a directory below", {"_CONDOR_SCRATCH_DIR": "/x/dir_1/tmp"}, ""),
    ("condor in slurm", {"_CONDOR_SCRATCH_DIR": "/x/dir_1", "SLURM_JOB_ID": "9"}, "slurm-9"),
    ("empty is unset", {"SLURM_JOB_ID": "", "PBS_JOBID": "", "LSB_JOBID": "5"}, "lsf-5"),
]

JOB_IDS = ("SLURM_JOB_ID", "LSB_JOBID", "JOB_ID", "FLUX_JOB_ID", "_CONDOR_SCRATCH_DIR")

HOSTILE = [
    *("../../etc", ".", "..", ".hidden", "1/2", "1 2", "1\n2", "$(id)", "`id`", "1;2", "*", "?", "%", "\0", "~"),
    *("\u0661", "\udcff", "12_\u00e9", "a" * 65, "1" * 100_000, "[[", "@", "1,2", "1:2", "1+2", "1=2", "-e\x7f"),
]


@pytest.mark.parametrize(("environ", "scope"), [row[1:] for row in SCOPES], ids=[row[0] for row in SCOPES])
def test_scope(environ: dict[str, str], scope: str) -> None:
    job = from_environ(environ)
    assert job.scope == scope
    assert (job.scheduler, job.job) == tuple(scope.split("-", 1) if scope else ("", ""))


@pytest.mark.parametrize("name", [*JOB_IDS, "LSB_JOBINDEX", "SGE_TASK_ID"])
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


SLURM = {"SLURM_JOB_ID": "12"}
PBS = {"PBS_JOBID": "12.host"}
LSF = {"LSB_JOBID": "7"}
SGE = {"SGE_ROOT": "/sge", "JOB_ID": "77"}
FLUX = {"FLUX_JOB_ID": "f2"}
CONDOR = {"_CONDOR_SCRATCH_DIR": "/x/dir_1"}
Known = dict[str, str | int]

SAID: list[tuple[str, dict[str, str], Known]] = [
    ("slurm, array task", SLURM | {"SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3"}, {"array": "3"}),
    ("slurm, step", SLURM | {"SLURM_STEP_ID": "0", "SLURMD_NODENAME": "n3"}, {"step": "0", "node": "n3"}),
    ("slurm, requeued", SLURM | {"SLURM_RESTART_COUNT": "2"}, {"restart": 2}),
    ("slurm, requeued, in the Prolog", SLURM | {"SLURM_JOB_RESTART_COUNT": "1"}, {"restart": 1}),
    ("slurm, nodes", SLURM | {"SLURM_JOB_NODELIST": "n[001-128,140]"}, {"node_list": "n[001-128,140]"}),
    ("slurm, nodes by the old name", SLURM | {"SLURM_NODELIST": "n1,n2"}, {"node_list": "n1,n2"}),
    ("slurm, ranks", SLURM | {"SLURM_PROCID": "7", "SLURM_LOCALID": "1"}, {"rank": 7, "local_rank": 1}),
    ("slurm, half-set", SLURM | {"SLURM_STEP_ID": "", "SLURMD_NODENAME": "", "SLURM_PROCID": ""}, {}),
    ("openpbs, array", PBS | {"PBS_ARRAY_INDEX": "4"}, {"array": "4"}),
    ("torque, array", PBS | {"PBS_ARRAYID": "4", "PBS_NODENUM": "1"}, {"array": "4", "node_rank": 1}),
    ("pbs, nodes", PBS | {"PBS_NODEFILE": "/var/spool/pbs/aux/12.host"}, {"node_file": "/var/spool/pbs/aux/12.host"}),
    ("pbs with PALS", PBS | {"PALS_APID": "0a-1", "PALS_RANKID": "9"}, {"step": "0a-1", "rank": 9}),
    ("lsf, array", LSF | {"LSB_JOBINDEX": "2"}, {"array": "2"}),
    ("lsf, no array", LSF | {"LSB_JOBINDEX": "0", "LSB_RESTART": "N"}, {"restart": 0}),
    ("lsf, restarted", LSF | {"LSB_RESTART": "Y"}, {"restart": 1}),
    ("lsf, nodes", LSF | {"LSB_HOSTS": "a a b b b"}, {"node_list": "a,b"}),
    ("lsf, nodes and slots", LSF | {"LSB_MCPU_HOSTS": "a 2 b 32"}, {"node_list": "a,b"}),
    (
        "lsf, many nodes",
        LSF | {"LSB_DJOB_HOSTFILE": "/home/u/.lsbatch/1.hostfile"},
        {"node_file": "/home/u/.lsbatch/1.hostfile"},
    ),
    (
        "lsf with jsrun",
        LSF | {"JSM_NAMESPACE_RANK": "5", "JSM_NAMESPACE_LOCAL_RANK": "1"},
        {"rank": 5, "local_rank": 1},
    ),
    ("sge, array", SGE | {"SGE_TASK_ID": "3", "RESTARTED": "1"}, {"array": "3", "restart": 1}),
    (
        "sge, no array",
        SGE | {"SGE_TASK_ID": "undefined", "HOSTNAME": "n1", "RESTARTED": "0"},
        {"node": "n1", "restart": 0},
    ),
    (
        "sge, nodes",
        SGE | {"PE_HOSTFILE": "/spool/n1/active_jobs/7.1/pe_hostfile"},
        {"node_file": "/spool/n1/active_jobs/7.1/pe_hostfile"},
    ),
    (
        "flux",
        FLUX | {"FLUX_JOB_CC": "4", "FLUX_TASK_RANK": "6", "FLUX_TASK_LOCAL_ID": "2"},
        {"array": "4", "rank": 6, "local_rank": 2},
    ),
    ("condor, parallel universe", CONDOR | {"_CONDOR_PROCNO": "2"}, {"node_rank": 2}),
    (
        "what others say is of no job here",
        SLURM | {"SGE_TASK_ID": "3", "HOSTNAME": "n1", "LSB_HOSTS": "a", "PBS_NODEFILE": "/x"},
        {},
    ),
    ("nothing is said outside of a job", {"SLURM_STEP_ID": "0", "PBS_NODEFILE": "/x", "FLUX_JOB_CC": "1"}, {}),
    ("open mpi", {"OMPI_COMM_WORLD_RANK": "9", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, {"rank": 9, "local_rank": 1}),
    ("mpich, intel mpi", {"PMI_RANK": "9", "MPI_LOCALRANKID": "1"}, {"rank": 9, "local_rank": 1}),
    ("mvapich", {"MV2_COMM_WORLD_RANK": "9", "MV2_COMM_WORLD_LOCAL_RANK": "1"}, {"rank": 9, "local_rank": 1}),
    (
        "pals",
        {"PALS_RANKID": "9", "PALS_LOCAL_RANKID": "1", "PALS_NODEID": "4"},
        {"rank": 9, "local_rank": 1, "node_rank": 4},
    ),
    ("torchrun", {"RANK": "9", "LOCAL_RANK": "1"}, {"rank": 9, "local_rank": 1}),
    ("some other RANK", {"RANK": "9"}, {}),
    (
        "torchrun below a batch script",
        SLURM | {"RANK": "9", "LOCAL_RANK": "1", "SLURM_PROCID": "0"},
        {"rank": 9, "local_rank": 1},
    ),
    ("mpirun below a batch script", SLURM | {"SLURM_PROCID": "0", "PMIX_RANK": "5"}, {"rank": 5}),
]

ABSURD: list[tuple[str, dict[str, str]]] = [
    ("step", SLURM | {"SLURM_STEP_ID": "../0"}),
    ("array", SLURM | {"SLURM_ARRAY_TASK_ID": "3 4"}),
    ("restart", SLURM | {"SLURM_RESTART_COUNT": "-1"}),
    ("restart", LSF | {"LSB_RESTART": "yes"}),
    ("node", SLURM | {"SLURMD_NODENAME": "n1;id"}),
    ("node_list", SLURM | {"SLURM_JOB_NODELIST": "n1\n"}),
    ("node_list", SLURM | {"SLURM_JOB_NODELIST": "$(id)"}),
    ("node_list", SLURM | {"SLURM_JOB_NODELIST": "n," * 40_000}),
    ("node_file", PBS | {"PBS_NODEFILE": "nodes"}),
    ("node_file", PBS | {"PBS_NODEFILE": "/a\nb"}),
    ("node_file", PBS | {"PBS_NODEFILE": "/\udcff"}),
    ("rank", {"PMI_RANK": "1e3"}),
    ("rank", {"PMI_RANK": "9" * 5000}),
    ("rank", {"RANK": "1", "LOCAL_RANK": "x"}),
    ("node_rank", {"SLURM_NODEID": "\u0661"}),
]

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
    ({"SLURM_PROCID": "7", "PMI_RANK": "7", "PMIX_RANK": "7", "RANK": "7"}, None),
]


@pytest.mark.parametrize(("environ", "rank"), RANKS)
def test_local_rank(environ: dict[str, str], rank: int | None) -> None:
    assert from_environ(environ).local_rank == rank


@pytest.mark.parametrize(("environ", "known"), [row[1:] for row in SAID], ids=[row[0] for row in SAID])
def test_what_is_said_beside_the_job(environ: dict[str, str], known: Known) -> None:
    job = from_environ(environ)
    assert job == JobEnvironment(job.scheduler, job.job, **known)


@pytest.mark.parametrize(("field", "environ"), ABSURD)
def test_what_is_absurd_is_not_known(field: str, environ: dict[str, str]) -> None:
    job = from_environ(environ)
    assert job == JobEnvironment(job.scheduler, job.job, local_rank=job.local_rank)
    assert not getattr(job, field)


def test_lists_of_nodes_are_taken_apart() -> None:
    pytest.importorskip("ClusterShell")
    nodes = expand(from_environ(SLURM | {"SLURM_JOB_NODELIST": "n[008-010,14],gpu7"}).node_list)
    assert sorted(nodes) == ["gpu7", "n008", "n009", "n010", "n14"]
    assert expand(from_environ(LSF | {"LSB_MCPU_HOSTS": "b 2 a 2"}).node_list) == ["b", "a"]


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
    assert repr(job) == "JobEnvironment('slurm', '1')"
    assert repr(JobEnvironment("pbs", "1", restart=0, node="n1")) == "JobEnvironment('pbs', '1', restart=0, node='n1')"


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


def test_the_page_of_variables_has_them_all() -> None:
    page = (ROOT / "docs/reference/environment-variables.md").read_text(encoding="utf-8")
    names = {name for table in jobenv.OF_SCHEDULERS.values() for names in table.values() for name in names}
    assert {name for name in (*names, *jobenv.RANKS, *jobenv.NODE_RANKS, *JOB_IDS) if f"`{name}`" not in page} == set()
