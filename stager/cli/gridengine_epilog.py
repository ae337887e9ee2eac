"""`stage-image gridengine epilog`: what the job had on this node goes, and what jobs of before the last boot had.

The job is over, and 99 or 100 would start it anew or call it failed: this ends with 0 whatever happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.cli import slurm_epilog
from stager.cli.gridengine_prolog import add_arguments, read

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Do all that an epilog does."""
    slurm_epilog.attempt(lambda: read(arguments.told))
    return 0
