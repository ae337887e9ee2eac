"""`stage-image mount REF`: stage and mount an image and print the mountpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.cli.obtain import obtain
from stager.cli.options import add_json, add_mounting, add_staging
from stager.cli.output import write, write_json
from stager.errors import MountUnavailable

if TYPE_CHECKING:
    import argparse

EPILOG = """\
  ROOT=$(stage-image mount https://example.org/tool.sqsh) || exit
  "$ROOT/usr/bin/app"

The mount is read-only, nosuid, nodev and shared by all tasks and jobs on the node. It stays until the job step (or
login session) that asked for it has ended and somebody calls stage-image again, or until `stage-image umount`.
auto takes loop devices or EROFS as root, squashfuse_ll otherwise. loop falls back to fuse when no device is to be had.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_staging(parser)
    add_mounting(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Stage, mount, and print the mountpoint."""
    obtained = obtain(arguments, own=False, mode=arguments.mount)
    if obtained.mounted is None:
        raise MountUnavailable("--mount=none leaves nothing to print", hint="use `stage-image REF` for the path")
    if arguments.json:
        write_json(obtained.describe())
    else:
        write(obtained.mounted.root)
    return 0
