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

    from stager.schedulers.told import Told


def run(_arguments: argparse.Namespace) -> int:
    """Print what the tasks of this job are told, once it is known."""
    job = from_environ(os.environ)
    if hook.is_off() or not job.scope:
        return 0
    quiet = bool(job.local_rank)
    outcome = told.await_stager(job.scope, SystemClock(), teller("the job's images", "lines", quiet=quiet))
    if outcome is not None:
        _print(outcome, speaks=not job.local_rank and not job.node_rank)
    return 0


def _print(outcome: Told, *, speaks: bool) -> None:
    lines = [line for line in outcome.lines if line.startswith("export ") or (speaks and line.startswith("print "))]
    if outcome.failure:
        lines.append(f"print stage-image: the Prolog could not stage it: {outcome.failure}")
    for line in lines:
        print(line)
