"""Scheduler variables → which job this is. Only a scheduler's own hooks (stager.schedulers) know more of its variables.

The first row whose variable is set (and not empty) decides, whatever else is set:

| scheduler | variable     | job id                                                           | scope          |
|-----------|--------------|------------------------------------------------------------------|----------------|
| slurm     | SLURM_JOB_ID | as it is: array tasks have an id of their own                    | slurm-1234     |
| pbs       | PBS_JOBID    | every `[` and `]` becomes `_`                                    | pbs-12_3_.host |
| lsf       | LSB_JOBID    | and `.LSB_JOBINDEX`, unless that is empty or `0`                 | lsf-7.2        |
| sge       | JOB_ID       | if SGE_ROOT is set; and `.SGE_TASK_ID` unless empty, `undefined` | sge-77.3       |
| flux      | FLUX_JOB_ID  | as it is                                                         | flux-f2Xk1     |

An id that is longer than 64 characters, begins with `.` or holds anything but `A-Z a-z 0-9 . _ -` means: not in a
job. It is never repaired (but for the brackets of PBS arrays), so that two jobs cannot come to share a scope.
The restart count is no part of the scope: Slurm's hooks and its tasks are told it by different variables, or not at
all (`_build_env` of prep_script_slurmd.c against env.c), and a requeued job may well go on with its first image.
HTCondor has no variable with the job's id. The shell wrapper knows the same five rows.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

MAX_ID = 64
"""Longest job id, in characters. Real ones have up to about 40: a PBS id ends in the server's host name."""

LOCAL_RANKS = (
    "OMPI_COMM_WORLD_LOCAL_RANK",  # Open MPI
    "MV2_COMM_WORLD_LOCAL_RANK",  # MVAPICH2
    "MPI_LOCALRANKID",  # MPICH, Intel MPI
    "PALS_LOCAL_RANKID",  # Cray PALS
    "PMI_LOCAL_RANK",
    "JSM_NAMESPACE_LOCAL_RANK",  # IBM jsrun
    "LOCAL_RANK",  # torchrun
    "FLUX_TASK_LOCAL_ID",
    "SLURM_LOCALID",
)
"""Launchers before schedulers: a batch script is itself a task with SLURM_LOCALID=0, and mpirun passes that on."""

NODE_RANKS = (
    "PALS_NODEID",  # Cray PALS below PBS; Flux and Slurm set it as well where they stand in for PALS
    "SLURM_NODEID",
    "PBS_NODENUM",
)
"""A node's place in the job's list of nodes, where its neighbours are near in the network too."""

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class JobEnvironment:
    """Which job and task this is; immutable.

    `scheduler` is a name of the table above and `job` the id, both empty outside of a job. The ranks count from 0 and
    are None where unknown. They are inherited by whatever a task starts, so they may choose who prints and who goes
    first, but never who may do something.
    """

    __slots__ = ("job", "local_rank", "node_rank", "scheduler")

    scheduler: str
    job: str
    node_rank: int | None
    local_rank: int | None

    def __init__(
        self, scheduler: str = "", job: str = "", *, node_rank: int | None = None, local_rank: int | None = None
    ) -> None:
        put = object.__setattr__
        put(self, "scheduler", scheduler)
        put(self, "job", job)
        put(self, "node_rank", node_rank)
        put(self, "local_rank", local_rank)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a JobEnvironment does not change: {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobEnvironment) and other._fields == self._fields

    def __hash__(self) -> int:
        return hash(self._fields)

    def __repr__(self) -> str:
        return "JobEnvironment({!r}, {!r}, node_rank={!r}, local_rank={!r})".format(*self._fields)

    @property
    def _fields(self) -> tuple[str, str, int | None, int | None]:
        return self.scheduler, self.job, self.node_rank, self.local_rank

    @property
    def scope(self) -> str:
        """`<scheduler>-<job>`, a safe file name of at most 70 characters; empty outside of a job."""
        return f"{self.scheduler}-{self.job}" if self.job else ""


def from_environ(environ: Mapping[str, str]) -> JobEnvironment:
    """Return what the variables say; never raises, whatever they hold."""
    scheduler, job = _scheduler_and_job(environ)
    if not _is_safe(job):
        scheduler = job = ""
    node_rank, local_rank = _first_number(environ, NODE_RANKS), _first_number(environ, LOCAL_RANKS)
    return JobEnvironment(scheduler, job, node_rank=node_rank, local_rank=local_rank)


def _scheduler_and_job(environ: Mapping[str, str]) -> tuple[str, str]:
    get = environ.get
    if job := get("SLURM_JOB_ID"):
        return "slurm", job
    if job := get("PBS_JOBID"):
        return "pbs", job.replace("[", "_").replace("]", "_")
    if job := get("LSB_JOBID"):
        return "lsf", _with_task(job, get("LSB_JOBINDEX"), "0")
    if get("SGE_ROOT") and (job := get("JOB_ID")):
        return "sge", _with_task(job, get("SGE_TASK_ID"), "undefined")
    if job := get("FLUX_JOB_ID"):
        return "flux", job
    return "", ""


def _with_task(job: str, task: str | None, none: str) -> str:
    return f"{job}.{task}" if task and task != none else job


def _is_safe(job: str) -> bool:
    return len(job) <= MAX_ID and not job.startswith(".") and _SAFE.issuperset(job)


def _first_number(environ: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        text = environ.get(name, "")
        if text.isascii() and text.isdigit() and len(text) < 10:
            return int(text)
    return None
