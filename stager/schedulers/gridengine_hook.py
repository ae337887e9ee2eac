"""What Grid Engine tells its prolog and epilog, of which root believes only what the qmaster wrote.

    prolog  root@/usr/share/stage-image/gridengine/prolog $job_owner $job_id $ja_task_id

A hook runs in the environment of the job, which is the user's (`qsub -v`, sge_conf(5), SECURITY): so as root the job is
named by these arguments alone, the settings are the files', and of the environment only STAGE_IMAGE_REFERENCE and
_2 to _8 count, as what a user says. Run as the job's user it has the user's rights only, and may be told all by them.

Its exit code decides over more than the job (shepherd.c; each was tried with 8.1.9): 99 puts the job back into the
queue, 100 into the error state, and anything else but 0 takes the queue instance out of service.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager import errors
from stager.errors import ConfigError
from stager.jobenv import from_environ
from stager.schedulers.request import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stager.config import Config
    from stager.errors import StageImageError
    from stager.schedulers.request import Request
    from stager.schedulers.site import Site

AGAIN, WRONG = 99, 100
"""Exit codes of a prolog: the job is rescheduled; the job is in error until somebody clears it."""

_PASSES = (
    errors.OriginUnavailable,
    errors.OriginStalled,
    errors.NoSpace,
    errors.StoreUnusable,
    errors.MountFailed,
    errors.InUse,
    errors.LeaderLost,
    errors.ClusterUnavailable,
    errors.TooFewNodes,
)
"""What another node, or the same one later, may do better."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = ("SGE_ROOT", "SGE_CELL")
"""What execd sets after the user's variables have been set, and qconf needs."""

_MAX_JOB = 12
"""Digits. The qmaster's own limit is 7 to 10 (`max_jobid` wraps at 9,999,999)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridEngineHook:
    """A job, or a task of an array, as its prolog and epilog see it; `texts` are what the user asks for."""

    job: str
    scope: str
    uid: int | None
    gid: int | None
    restarted: bool
    texts: tuple[str, ...]
    as_root: bool

    @classmethod
    def read(cls, words: Sequence[str], environ: Mapping[str, str], euid: int) -> GridEngineHook:
        """Return the job of `$job_owner $job_id $ja_task_id`, and of the environment where that may be believed.

        Raises ConfigError if they name no job, or root is given no arguments.
        """
        owner, job, task = _told(words, environ, as_root=euid == 0)
        if not (job.isascii() and job.isdigit() and job[0] != "0" and len(job) <= _MAX_JOB):
            raise ConfigError(f"{job[:40]!a} is not the number of a job", hint=_HINT)
        if not (task.isascii() and task.isdigit() and len(task) <= _MAX_JOB):
            task = ""
        known = {"SGE_ROOT": "/", "JOB_ID": job, "SGE_TASK_ID": task.lstrip("0")}
        uid, gid = _ids(owner) if euid == 0 else (euid, os.getegid())
        texts = tuple(environ[name] for name in VARIABLES if environ.get(name))
        found = from_environ(known)
        return cls(
            job=found.job,
            scope=found.scope,
            uid=uid,
            gid=gid,
            restarted=environ.get("RESTARTED") == "1",
            texts=texts,
            as_root=euid == 0,
        )

    @property
    def restart(self) -> int:
        """1 if it was started before: Grid Engine does not count."""
        return int(self.restarted)

    @property
    def private_tmp(self) -> bool:
        """No: a prolog cannot give a job's tasks a namespace."""
        return False

    @property
    def node_rank(self) -> int | None:
        """None: of a parallel job, only the first node has a prolog."""
        return None

    def request(self) -> Request:
        """Return the images that the job asks for. Raises InvalidReference."""
        from stager.schedulers.request import gathered

        return gathered(self.texts)

    def site(self, config: Config) -> Site:
        """Return the settings of `[gridengine]`; a user's own hook needs nobody's leave."""
        from stager.schedulers.site import Site

        return Site(
            table="gridengine",
            allow=config.gridengine_allow if self.as_root else None,
            budget=config.gridengine_budget,
            strict=config.gridengine_strict,
        )


_HINT = "write `prolog root@/…/gridengine/prolog $job_owner $job_id $ja_task_id`, likewise epilog"


def _told(words: Sequence[str], environ: Mapping[str, str], *, as_root: bool) -> tuple[str, str, str]:
    if len(words) == 3:
        return words[0], words[1], words[2]
    if words or as_root:
        raise ConfigError("Grid Engine does not say by arguments which job it is", hint=_HINT)
    return "", environ.get("JOB_ID", ""), environ.get("SGE_TASK_ID", "")


def _ids(owner: str) -> tuple[int | None, int | None]:
    try:
        entry = pwd.getpwnam(owner)
    except (KeyError, ValueError):
        return None, None
    return entry.pw_uid, entry.pw_gid


def trusted(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of a hook's environment root goes on with: neither settings nor what libraries heed."""
    return {"PATH": _PATH} | {name: environ[name] for name in _KEPT if name in environ}


def exit_code(failure: StageImageError, *, restarted: bool) -> int:
    """Return AGAIN or WRONG: a job is rescheduled once, for what may pass."""
    return AGAIN if isinstance(failure, _PASSES) and not restarted else WRONG
