"""`stage-image gridengine …`: what Grid Engine runs before and after a job, and how jobs ask for images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.cli import actions
from stager.cli.actions import run

if TYPE_CHECKING:
    import argparse

__all__ = ["EPILOG", "add_arguments", "run"]

EPILOG = """\
  prolog  root@/usr/share/stage-image/gridengine/prolog $job_owner $job_id $ja_task_id
  epilog  root@/usr/share/stage-image/gridengine/epilog $job_owner $job_id $ja_task_id
  stage-image gridengine setup --dry-run                 these lines and more, as a diff; --apply makes it so
  starter_method /usr/share/stage-image/gridengine/starter          in the queue, see sge_queue_conf(5)

The prolog exits with 0 whatever happens, unless gridengine.strict is set: then with 100 for a job that asks for what
cannot be had, and once with 99 for what may pass. Any other code would take the queue out of service. All hooks do
nothing while there is a file /etc/stage-image/disabled. See docs/how-to/grid-engine.md.
"""

ACTIONS = {
    "prolog": ("gridengine_prolog", "stage what the job asked for, before its script starts"),
    "epilog": ("gridengine_epilog", "take back what the job had on this host"),
    "setup": ("gridengine_setup", "show, make or undo what Grid Engine's configuration needs"),
    "submit": ("gridengine_submit", "submit a job with its image resolved and pinned; see sbatch-wrapper/README.md"),
}
"""Action → module of this package, and what it does; each adds its own arguments."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments: one parser for each action."""
    actions.add(parser, {}, ACTIONS)
