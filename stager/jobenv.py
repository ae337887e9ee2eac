"""Scheduler and launcher variables → which job and task this is. Only a scheduler's own hooks know more of them.

The first row whose variable is set (and not empty) decides, whatever else is set:

| scheduler | variable            | job id                                                           | scope           |
|-----------|---------------------|------------------------------------------------------------------|-----------------|
| slurm     | SLURM_JOB_ID        | as it is: array tasks have an id of their own                    | slurm-1234      |
| pbs       | PBS_JOBID           | every `[` and `]` becomes `_`                                    | pbs-12_3_.host  |
| lsf       | LSB_JOBID           | and `.LSB_JOBINDEX`, unless that is empty or `0`                 | lsf-7.2         |
| sge       | JOB_ID              | if SGE_ROOT is set; and `.SGE_TASK_ID` unless empty, `undefined` | sge-77.3        |
| flux      | FLUX_JOB_ID         | a first letter U+0192, Flux's own, becomes `f`                   | flux-f2Xk1      |
| condor    | _CONDOR_SCRATCH_DIR | its last part, if that is `dir_` and digits: the starter's pid   | condor-dir_4711 |

An id that is longer than 64 characters, begins with `.` or holds anything but `A-Z a-z 0-9 . _ -` means: not in a
job. It is never repaired (but for the brackets of PBS arrays and that letter), so that two jobs cannot come to share a
scope. HTCondor has no variable with the job's id, so there it is the one of its directory, which two jobs of a node do
not have at the same time; in a container it has another name, and the job is then told by its session.
The restart count is no part of the scope: Slurm's hooks and its tasks are told it by different variables, or not at
all (`_build_env` of prep_script_slurmd.c against env.c), and a requeued job may well go on with its first image.
The shell wrapper knows the same six rows.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

MAX_ID = 64
"""Longest job id, in characters. Real ones have up to about 40: a PBS id ends in the server's host name."""

MAX_LIST = 1 << 16
"""Longest list of nodes, in characters: half of what the kernel lets one variable hold (MAX_ARG_STRLEN, 128 KiB)."""

OF_SCHEDULERS: dict[str, dict[str, tuple[str, ...]]] = {
    "slurm": {
        "array": ("SLURM_ARRAY_TASK_ID",),
        "step": ("SLURM_STEP_ID",),
        "restart": ("SLURM_RESTART_COUNT", "SLURM_JOB_RESTART_COUNT"),
        "node": ("SLURMD_NODENAME",),
        "node_list": ("SLURM_JOB_NODELIST", "SLURM_NODELIST"),
    },
    "pbs": {
        "array": ("PBS_ARRAY_INDEX", "PBS_ARRAYID"),  # OpenPBS, Torque
        "step": ("PALS_APID",),
        "node_file": ("PBS_NODEFILE",),
    },
    "lsf": {
        "array": ("LSB_JOBINDEX",),
        "restart": ("LSB_RESTART",),
        "node_list": ("LSB_HOSTS", "LSB_MCPU_HOSTS"),
        "node_file": ("LSB_DJOB_HOSTFILE",),
    },
    "sge": {
        "array": ("SGE_TASK_ID",),
        "restart": ("RESTARTED",),
        "node": ("HOSTNAME",),
        "node_file": ("PE_HOSTFILE",),
    },
    "flux": {"array": ("FLUX_JOB_CC",)},
    "condor": {},
}
"""What a scheduler says of its jobs, and only of those: a variable that came along from elsewhere is of no job here."""

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

RANKS = (
    "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_RANK",
    "PALS_RANKID",
    "JSM_NAMESPACE_RANK",
    "PMIX_RANK",
    "PMI_RANK",  # MPICH, Intel MPI
    "FLUX_TASK_RANK",
    "SLURM_PROCID",
)
"""A task's place in its whole step, in the same order. torchrun's RANK is believed only beside its LOCAL_RANK."""

NODE_RANKS = (
    "PALS_NODEID",  # Cray PALS below PBS; Flux and Slurm set it as well where they stand in for PALS
    "SLURM_NODEID",
    "PBS_NODENUM",
    "_CONDOR_PROCNO",  # parallel universe: a node of a job is a process of it
)
"""A node's place in the job's list of nodes, where its neighbours are near in the network too."""

_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_LIST = _SAFE | frozenset("[],/ ")
_HOOKED_F = ("\u0192", "\udcc6\udc92", "\u00c6\u0092")  # in UTF-8 locales, in ASCII ones, in those of Latin 1
_NO_ARRAY = {"lsf": "0", "sge": "undefined"}

_UNKNOWN: dict[str, str | int | None] = {
    "array": "",
    "step": "",
    "restart": None,
    "node": "",
    "node_list": "",
    "node_file": "",
    "node_rank": None,
    "rank": None,
    "local_rank": None,
}


class JobEnvironment:
    """Which job and task this is; immutable.

    `scheduler` is a name of the table above and `job` the id, both empty outside of a job, and so are these, wherever
    they are not known: `array`, the task of a job array; `step`; `node`, this node's name; `node_list`, the job's
    nodes with commas between them, perhaps compact (`n[1-3]`: stager.node_names.expand); `node_file`, an absolute path
    of a file that lists them. `restart` counts from 0, the ranks too; all are None where unknown. LSF and Grid Engine
    tell of a restart, but not of which: 1. The ranks are inherited by whatever a task starts, so they may choose who
    prints and who goes first, but never who may do something.
    """

    __slots__ = ("job", "scheduler", *_UNKNOWN)

    scheduler: str
    job: str
    array: str
    step: str
    restart: int | None
    node: str
    node_list: str
    node_file: str
    node_rank: int | None
    rank: int | None
    local_rank: int | None

    def __init__(self, scheduler: str = "", job: str = "", **known: str | int | None) -> None:
        for name, value in {**_UNKNOWN, **known, "scheduler": scheduler, "job": job}.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a JobEnvironment does not change: {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobEnvironment) and other._fields == self._fields

    def __hash__(self) -> int:
        return hash(self._fields)

    def __repr__(self) -> str:
        known = "".join(f", {name}={value!r}" for name in _UNKNOWN if (value := getattr(self, name)) not in ("", None))
        return f"JobEnvironment({self.scheduler!r}, {self.job!r}{known})"

    @property
    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    @property
    def scope(self) -> str:
        """`<scheduler>-<job>`, a safe file name of at most 71 characters; empty outside of a job."""
        return f"{self.scheduler}-{self.job}" if self.job else ""


def from_environ(environ: Mapping[str, str]) -> JobEnvironment:
    """Return what the variables say; never raises, whatever they hold."""
    scheduler, job = _scheduler_and_job(environ)
    if not _is_safe(job):
        scheduler = job = ""
    return JobEnvironment(
        scheduler,
        job,
        **_of_scheduler(environ, scheduler),
        node_rank=_first_number(environ, NODE_RANKS),
        rank=_rank(environ),
        local_rank=_first_number(environ, LOCAL_RANKS),
    )


def _scheduler_and_job(environ: Mapping[str, str]) -> tuple[str, str]:
    get = environ.get
    if job := get("SLURM_JOB_ID"):
        return "slurm", job
    if job := get("PBS_JOBID"):
        return "pbs", job.replace("[", "_").replace("]", "_")
    if job := get("LSB_JOBID"):
        return "lsf", _with_task(job, get("LSB_JOBINDEX"), _NO_ARRAY["lsf"])
    if get("SGE_ROOT") and (job := get("JOB_ID")):
        return "sge", _with_task(job, get("SGE_TASK_ID"), _NO_ARRAY["sge"])
    if job := get("FLUX_JOB_ID"):
        return "flux", _in_ascii(job)
    return "condor", _condor_directory(get("_CONDOR_SCRATCH_DIR", ""))


def _with_task(job: str, task: str | None, none: str) -> str:
    return f"{job}.{task}" if task and task != none else job


def _in_ascii(job: str) -> str:
    for letter in _HOOKED_F:
        if job.startswith(letter):
            return "f" + job[len(letter) :]
    return job


def _condor_directory(path: str) -> str:
    name = path.rpartition("/")[2]
    return name if name[:4] == "dir_" and name.isascii() and name[4:].isdigit() else ""


def _is_safe(job: str) -> bool:
    return 0 < len(job) <= MAX_ID and not job.startswith(".") and _SAFE.issuperset(job)


def _of_scheduler(environ: Mapping[str, str], scheduler: str) -> dict[str, str | int | None]:
    table = OF_SCHEDULERS.get(scheduler, {})
    return {field: _READ[field](environ, names, scheduler) for field, names in table.items()}


def _word(environ: Mapping[str, str], names: tuple[str, ...], _: str) -> str:
    return next((text for name in names if _is_safe(text := environ.get(name, ""))), "")


def _array(environ: Mapping[str, str], names: tuple[str, ...], scheduler: str) -> str:
    text = _word(environ, names, scheduler)
    return "" if text == _NO_ARRAY.get(scheduler) else text


def _restart(environ: Mapping[str, str], names: tuple[str, ...], _: str) -> int | None:
    return {"Y": 1, "N": 0}.get(environ.get(names[0], ""), _first_number(environ, names))


def _node_list(environ: Mapping[str, str], names: tuple[str, ...], scheduler: str) -> str:
    for name in names:
        text = environ.get(name, "")
        if 0 < len(text) <= MAX_LIST and _LIST.issuperset(text):
            if scheduler != "lsf":
                return text
            # LSB_HOSTS has a host for each slot; LSB_MCPU_HOSTS has each once, and how many slots, in turns.
            return ",".join(dict.fromkeys(text.split()[:: 2 if name == "LSB_MCPU_HOSTS" else 1]))
    return ""


def _node_file(environ: Mapping[str, str], names: tuple[str, ...], _: str) -> str:
    path = environ.get(names[0], "")
    return path if path.startswith("/") and path.isprintable() else ""


_READ = {
    "array": _array,
    "step": _word,
    "restart": _restart,
    "node": _word,
    "node_list": _node_list,
    "node_file": _node_file,
}


def _rank(environ: Mapping[str, str]) -> int | None:
    torch = ("RANK",) if _first_number(environ, ("LOCAL_RANK",)) is not None else ()
    return _first_number(environ, torch + RANKS)


def _first_number(environ: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        text = environ.get(name, "")
        if text.isascii() and text.isdigit() and len(text) < 10:
            return int(text)
    return None
