"""`stage-image exec REF [-- CMD…]`: become CMD, on a staged image, or what the image's maker wants run."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from stager.cli import container_run
from stager.cli.obtain import obtain
from stager.cli.options import add_mounting, add_staging, flags
from stager.config import load
from stager.errors import RuntimeMissing
from stager.process import become
from stager.progress import write_line

if TYPE_CHECKING:
    import argparse
    from typing import NoReturn

    from stager.cli.obtain import Obtained

EPILOG = """\
  srun stage-image exec https://example.org/tool.sif -- python3 app.py
  stage-image exec --mount=loop --runtime=none /shared/tool.sqsh -- sh -c 'ls "$STAGE_IMAGE_ROOT"'
  stage-image exec docker://example.org/lab/tool:2       its Entrypoint and Cmd, in its WorkingDir

The command replaces stage-image: exit status, signals, stdin and stdout are its own. It finds
  STAGE_IMAGE_PATH    the image file
  STAGE_IMAGE_DIGEST  sha256:<digest>
  STAGE_IMAGE_ROOT    where the image is mounted; `/` inside a container; unset if it is not mounted
With --runtime=auto it runs inside Apptainer or Singularity where one is on the PATH, else on the host.
Arguments after -- are passed on untouched; 126 and 127 mean what they mean in a shell.
Inside, an image of layers has its Env too, less what APPTAINERENV_<NAME> says; on the host nothing has. Without a
command its Entrypoint and Cmd run; with --entrypoint, its Entrypoint with the arguments after -- in place of its Cmd.
"""

RUNTIMES = ("apptainer", "singularity")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_staging(parser)
    add_mounting(parser)
    parser.add_argument("--runtime", metavar="NAME", help="auto, apptainer, singularity or none")
    parser.add_argument("--entrypoint", action="store_true", help="run the image's Entrypoint with what follows --")
    parser.usage = "stage-image exec [OPTION…] REF [-- CMD [ARG…]]"


def run(arguments: argparse.Namespace) -> int:
    """Stage, mount, and become the command."""
    config = load(dict(os.environ), flags(arguments))
    runtime = _runtime(config.runtime)
    as_made = arguments.entrypoint or not arguments.command
    if as_made and not runtime:
        _refuse(config.runtime)
    automatic = config.mount == "auto"
    mode = "none" if runtime and automatic else config.mount
    obtained = obtain(arguments, own=True, mode=mode, optional=automatic)
    environ = {name: value for name, value in os.environ.items() if name != "STAGE_IMAGE_ROOT"} | _variables(obtained)
    if not runtime:
        become(arguments.command, environ)
    command = container_run.words(obtained.image.info.config, arguments.command, entrypoint=arguments.entrypoint)
    options = _as_made(obtained) if as_made else []
    become([runtime, "exec", *options, obtained.image.path, *command], environ | _inside(obtained, runtime))


def _refuse(setting: str) -> NoReturn:
    where = "the setting runtime is `none`" if setting == "none" else "there is no Apptainer or Singularity on the PATH"
    why = "the image's own Entrypoint and Cmd run in a container only"
    hint = "load a container runtime, or give a command for this node after `--`"
    raise RuntimeMissing(f"{why}, and {where}", hint=hint)


def _as_made(obtained: Obtained) -> list[str]:
    """Return the runtime's options for what the image's maker wants run; tell what is not as that is meant."""
    config = obtained.image.info.config
    user = container_run.stranger(config)
    if user and not obtained.node.job.local_rank:
        name = user if user.isascii() and user.isprintable() else ascii(user)
        write_line(f"the image is made to run as the user {name[:80]}; it runs as you")
    return container_run.place(config)


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


def _inside(obtained: Obtained, runtime: str) -> dict[str, str]:
    """Return what makes the container's environment: the image's own, and what we say of the image."""
    about = _variables(obtained) | {"STAGE_IMAGE_ROOT": "/"}
    given = {f"{runtime.upper()}ENV_{name}": value for name, value in about.items()}
    return container_run.inside(runtime, obtained.image.info.config, os.environ) | given
