"""`stage-image slurm epilog`: what the job had on this node goes, and what jobs of before the last boot had."""

from __future__ import annotations

import os
from time import monotonic
from typing import TYPE_CHECKING

from stager.cli.slurm_job import JobNode
from stager.cli.slurm_release import Release
from stager.errors import InUse, StageImageError
from stager.progress import write_line
from stager.schedulers import hook
from stager.schedulers.hook import HookEnvironment
from stager.schedulers.registry import JobRecord

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> int:
    """Do all that an Epilog does; 0, or 79 where something stayed and the site is strict."""
    if hook.is_off():
        return 0
    node: JobNode | None = None
    try:
        environ = dict(os.environ) | ({"SLURM_JOB_ID": arguments.job} if arguments.job else {})
        node = JobNode(HookEnvironment.read(environ))
        stayed = _release(node)
    except (StageImageError, OSError) as error:
        stayed = [str(error)]
    for problem in stayed:
        write_line(f"error: {problem} (on {os.uname().nodename})")
    return InUse.exit_code if stayed and node is not None and node.config.slurm_strict else 0


def _release(node: JobNode) -> list[str]:
    begun = monotonic()
    stayed: list[str] = []
    found = list(node.registry.records())
    # A job that asked for nothing may have mounted its images itself.
    if node.hook.uid is not None and node.hook.gid is not None and node.registry.read(node.scope) is None:
        found.append(JobRecord(scope=node.scope, uid=node.hook.uid, gid=node.hook.gid))
    for record in found:
        if record.scope == node.scope or not record.of_this_boot:
            release = Release(node, record)
            release.run()
            stayed += release.problems
    error = StageImageError("; ".join(stayed)) if stayed else None
    node.log("epilog", error, seconds=monotonic() - begun)
    return stayed
