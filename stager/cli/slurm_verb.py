"""`stage-image slurm …`: what Slurm runs at the beginning and end of a job, and what its administrators ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.cli import actions
from stager.cli.actions import run

if TYPE_CHECKING:
    import argparse

__all__ = ["EPILOG", "add_arguments", "run"]

EPILOG = """\
  Prolog=/usr/local/share/stage-image/slurm/prolog        in slurm.conf, likewise epilog and task-prolog
  stage-image slurm doctor                                what this cluster lacks, and what is dangerous

The hooks exit with 0 whatever happens, unless slurm.strict is set: a failing Prolog drains its node. All of them do
nothing while there is a file /etc/stage-image/disabled. See docs/how-to/slurm.md.
"""

HOOKS = {
    "prolog": ("slurm_prolog", "stage what the job asked for, as root, before its first task"),
    "task-prolog": ("slurm_tasks", "tell a task what the Prolog has staged, in TaskProlog's lines"),
}
"""Action → module of this package, and what it does. They run with each job, so their modules wait until they do."""

OTHERS = {
    "epilog": ("slurm_epilog", "take back what the job had on this node"),
    "doctor": ("slurm_doctor", "say what is missing or dangerous in Slurm's configuration"),
    "features": ("slurm_features", "tell Slurm which images this node holds"),
    "submit": ("sbatch_front", "submit a job with its image resolved and pinned; see sbatch-wrapper/sbatch"),
}
"""The same, of which each adds its own arguments."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments: one parser for each action."""
    actions.add(parser, HOOKS, OTHERS)
