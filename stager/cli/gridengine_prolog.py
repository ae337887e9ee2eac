"""`stage-image gridengine prolog`: what a job asked for is staged before its script starts.

As root into the site's store, as Slurm's Prolog does; as the job's user into the user's own. A process of its own
stages, and goes on when the budget is spent: Grid Engine would wait for ever, with the job's slots taken (8.1.9 let a
prolog of 170 s have its way).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stager.cli import slurm_prolog
from stager.schedulers.gridengine_hook import GridEngineHook, exit_code, trusted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what Grid Engine is to tell: all or, for a hook that runs as the job's user, nothing."""
    parser.add_argument("told", metavar="OWNER JOB TASK", nargs="*", help="$job_owner $job_id $ja_task_id")


def run(arguments: argparse.Namespace) -> int:
    """Do all that a prolog does; 0, or 99 or 100 for what failed where the site is strict."""
    environ = dict(os.environ)
    failure = slurm_prolog.attempt(lambda: read(arguments.told))
    return exit_code(failure, restarted=environ.get("RESTARTED") == "1") if failure is not None else 0


def read(words: Sequence[str]) -> GridEngineHook:
    """Return the job; as root, go on without the user's environment. Raises ConfigError."""
    hook = GridEngineHook.read(words, os.environ, os.geteuid())
    if hook.as_root:
        kept = trusted(os.environ)
        os.environ.clear()
        os.environ.update(kept)
    return hook
