"""`stage-image REF`: stage an image and print its path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.cli.obtain import obtain
from stager.cli.options import add_json, add_staging
from stager.cli.output import write, write_json

if TYPE_CHECKING:
    import argparse

EPILOG = """\
The path is the only thing on stdout, so that a script can write, on each node that is to have the image:

  IMG=$(stage-image https://example.org/tool.sif) || exit
  apptainer exec "$IMG" ./app

The image is leased until the calling job step (or login session) ends: until then it is neither evicted nor removed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_staging(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Stage, and print the path."""
    obtained = obtain(arguments, own=False, mode="none")
    if arguments.json:
        write_json(obtained.describe())
    else:
        write(obtained.image.path)
    return 0
