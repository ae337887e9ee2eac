"""`stage-image exec REF -- CMD…`: become CMD, on a staged image."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from stager.cli.obtain import obtain
from stager.cli.options import add_mounting, add_staging, flags
from stager.config import load
from stager.errors import RuntimeMissing, UsageError
from stager.process import become

if TYPE_CHECKING:
    import argparse

    from stager.cli.obtain import Obtained

EPILOG = """\
  srun stage-image exec https://example.org/tool.sif -- python3 app.py
  stage-image exec --mount=loop --runtime=none /shared/tool.sqsh -- sh -c 'ls "$STAGE_IMAGE_ROOT"'

The command replaces stage-image: exit status, signals, stdin and stdout are its own. It finds
  STAGE_IMAGE_PATH    the image file
  STAGE_IMAGE_DIGEST  sha256:<digest>
  STAGE_IMAGE_ROOT    where the image is mounted; `/` inside a container; unset if it is not mounted
With --runtime=auto it runs inside Apptainer or Singularity where one is on the PATH, else on the host.
Arguments after -- are passed on untouched; 126 and 127 mean what they mean in a shell.
"""

RUNTIMES = ("apptainer", "singularity")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_staging(parser)
    add_mounting(parser)
    parser.add_argument("--runtime", metavar="NAME", help="auto, apptainer, singularity or none")
    parser.usage = "stage-image exec [OPTION…] REF -- CMD [ARG…]"


def run(arguments: argparse.Namespace) -> int:
    """Stage, mount, and become the command."""
    if not arguments.command:
        raise UsageError("exec needs a command after `--`", hint="stage-image exec REF -- CMD [ARG…]")
    config = load(dict(os.environ), flags(arguments))
    runtime = _runtime(config.runtime)
    automatic = config.mount == "auto"
    mode = "none" if runtime and automatic else config.mount
    obtained = obtain(arguments, own=True, mode=mode, optional=automatic)
    environ = {name: value for name, value in os.environ.items() if name != "STAGE_IMAGE_ROOT"}
    if not runtime:
        become(arguments.command, environ | _variables(obtained))
    inside = {f"{runtime.upper()}ENV_{name}": value for name, value in _inside(obtained).items()}
    become([runtime, "exec", obtained.image.path, *arguments.command], environ | _variables(obtained) | inside)


def _runtime(wanted: str) -> str:
    """Return the container runtime to use, or nothing. Raises RuntimeMissing."""
    if wanted in RUNTIMES and shutil.which(wanted) is None:
        raise RuntimeMissing(f"{wanted} is not on the PATH")
    if wanted != "auto":
        return wanted if wanted in RUNTIMES else ""
    return next((name for name in RUNTIMES if shutil.which(name)), "")


def _variables(obtained: Obtained) -> dict[str, str]:
    found = {"STAGE_IMAGE_PATH": obtained.image.path, "STAGE_IMAGE_DIGEST": str(obtained.image.digest)}
    return found | ({"STAGE_IMAGE_ROOT": obtained.mounted.root} if obtained.mounted else {})


def _inside(obtained: Obtained) -> dict[str, str]:
    return _variables(obtained) | {"STAGE_IMAGE_ROOT": "/"}
