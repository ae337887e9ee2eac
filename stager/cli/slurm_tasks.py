"""`stage-image slurm task-prolog`: lines for Slurm's TaskProlog; each task is told what the Prolog has staged.

Nothing else may go to stdout, and whatever happens the task shall run: it can stage its image itself.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stager.clock import SystemClock
from stager.jobenv import from_environ
from stager.progress import teller
from stager.schedulers import hook, told

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from stager.schedulers.told import Told


def run(_arguments: argparse.Namespace) -> int:
    """Print what the tasks of this job are told, once it is known."""
    job = from_environ(os.environ)
    if hook.is_off() or not job.scope:
        return 0
    scope = told.scope_of(job.scope, os.environ)
    for line in told.stale(os.environ, is_told=told.read(scope) is not None):
        print(line)
    outcome = told.await_stager(scope, SystemClock(), teller("the job's images", "lines", quiet=bool(job.local_rank)))
    if outcome is not None:
        for line in lines(outcome, os.environ):
            print(line)
    return 0


def lines(outcome: Told, environ: Mapping[str, str]) -> list[str]:
    """Return what a task's TaskProlog prints, as `sbatch-wrapper/slurm/task-prolog` does.

    A line on a task's stdout may be more than its reader bargained for: how it went is told to the batch script, whose
    stdout is the job's log, and that it failed to the first task of each node in the first step.
    """
    batch = environ.get("ENVIRONMENT") == "BATCH" and not environ.get("SLURM_STEP_ID")
    first = (environ.get("SLURM_LOCALID"), environ.get("SLURM_STEP_ID")) == ("0", "0")
    has_told = (environ.get("ENVIRONMENT"), environ.get("SLURM_NODEID")) == ("BATCH", "0")
    alarm = batch or (first and not has_told)
    found = [line for line in outcome.lines if line.startswith("export ") or (batch and line.startswith("print "))]
    if outcome.failure and alarm:
        where = environ.get("SLURMD_NODENAME", "")
        found.append(f"print stage-image: the Prolog could not stage it: {outcome.failure} (on {where})")
    return found
