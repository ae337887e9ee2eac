"""`stage-image slurm epilog`: what the job had on this node goes, and what jobs of before the last boot had."""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING

from stager.cli.slurm_job import JobNode
from stager.cli.slurm_release import Release
from stager.errors import InUse, StageImageError
from stager.progress import write_line
from stager.schedulers import hook, told
from stager.schedulers.hook import HookEnvironment
from stager.schedulers.registry import JobRecord, ended, forget_ended, leave_ended, run_folder
from stager.store import files

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from stager.schedulers.site import Hook

PATIENCE = 20.0
"""Seconds for all of it: an Epilog keeps the node from its next job."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this action's arguments."""
    parser.add_argument("--job", metavar="ID", help="a job's number (default: $SLURM_JOB_ID)")


def run(arguments: argparse.Namespace) -> int:
    """Do all that an Epilog does; 0, or 79 where something stayed and the site is strict."""
    given = {"SLURM_JOB_ID": arguments.job} if arguments.job else {}
    stayed = attempt(lambda: HookEnvironment.read(dict(os.environ) | given))
    return InUse.exit_code if stayed else 0


def attempt(read: Callable[[], Hook]) -> bool:
    """Do all that a scheduler's epilog does for the job that `read` returns.

    What could not be taken back is reported; return whether anything was not, where the site is strict.
    """
    if hook.is_off():
        return False
    job: Hook | None = None
    node: JobNode | None = None
    try:
        job = read()
        node = JobNode(job)
        stayed = _release(node)
    except (StageImageError, OSError) as error:
        stayed = [str(error)]
        if job is not None:
            files.discard(told.path(job.scope))
            leave_ended(job.scope)
    for problem in stayed:
        write_line(f"error: {problem} (on {os.uname().nodename})")
    return bool(stayed) and node is not None and node.site.strict


def _release(node: JobNode) -> list[str]:
    """Take back what this job had, and those of before the last boot; return what stayed."""
    begun = monotonic()
    stayed: list[str] = []
    notes: list[str] = []
    for record in _records(node):
        # Another job's remains are no reason to keep this node waiting for long; the next Epilog goes on.
        until = begun + (PATIENCE if record.scope == node.scope else PATIENCE / 2)
        if record.scope != node.scope and monotonic() > until:
            break
        release = Release(node, record, until)
        release.run()
        stayed += release.problems
        notes += release.notes
    _forget_others(node)
    for note in notes:
        write_line(note)
    error = InUse("; ".join(stayed)) if stayed else None
    node.log("epilog", error, seconds=monotonic() - begun, note="; ".join(notes))
    return stayed


def _forget_others(node: JobNode) -> None:
    # Those that ended without ever having had a record: their tasks were only told why.
    for scope in ended():
        if node.registry.read(scope) is None:
            files.discard_tree(run_folder(scope))
            forget_ended(scope)


def _records(node: JobNode) -> list[JobRecord]:
    """Return what is to be taken back, this job's first."""
    found = [each for each in node.registry.records() if each.scope == node.scope or not each.is_alive]
    # A job that asked for nothing may have mounted its images itself.
    if node.registry.read(node.scope) is None and node.hook.uid is not None and node.hook.gid is not None:
        found.append(JobRecord(scope=node.scope, uid=node.hook.uid, gid=node.hook.gid))
    return sorted(found, key=lambda each: each.scope != node.scope)
