"""`stage-image slurm …`: what Slurm runs at the beginning and end of a job, and what its administrators ask."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

EPILOG = """\
  Prolog=/usr/share/stage-image/slurm/prolog              in slurm.conf, likewise epilog and task-prolog
  stage-image slurm doctor                                what this cluster lacks, and what is dangerous

The hooks exit with 0 whatever happens, unless slurm.strict is set: a failing Prolog drains its node. All of them do
nothing while there is a file /etc/stage-image/disabled. See docs/how-to/slurm.md.
"""

HOOKS = {
    "prolog": ("slurm_prolog", "stage what the job asked for, as root, before its first task"),
    "epilog": ("slurm_epilog", "take back what the job had on this node"),
    "task-prolog": ("slurm_tasks", "tell a task what the Prolog has staged, in TaskProlog's lines"),
}
"""Action → module of this package, and what it does. They run with each job, so their modules wait until they do."""

OTHERS = {
    "doctor": ("slurm_doctor", "say what is missing or dangerous in Slurm's configuration"),
    "features": ("slurm_features", "tell Slurm which images this node holds"),
    "submit": ("sbatch_front", "submit a job with its image resolved and pinned; see sbatch-wrapper/sbatch"),
}
"""The same, of which each adds its own arguments."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments: one parser for each action."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, parser_class=type(parser))
    for action, (name, summary) in (HOOKS | OTHERS).items():
        child = actions.add_parser(action, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        child.set_defaults(module=f"stager.cli.{name}", parser=child)
        if action in OTHERS:
            importlib.import_module(f"stager.cli.{name}").add_arguments(child)
        elif action == "epilog":
            child.add_argument("--job", metavar="ID", help="a job's number (default: $SLURM_JOB_ID)")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    code: int = importlib.import_module(arguments.module).run(arguments)
    return code
