"""`qsub --stage-image=REF`, as `stage-image gridengine submit`: pin images, tell Grid Engine, become the real one."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from stager.cli.sbatch_front import SECONDS, Help, environ_for, pin, script_of
from stager.errors import UsageError
from stager.process import become
from stager.program import ProgramFailed
from stager.program import run as run_program
from stager.progress import write_line
from stager.schedulers import hook, qsub, sbatch

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this action's arguments."""
    parser.add_argument("--real", metavar="PATH", required=True, help="Grid Engine's own qsub or qrsh")
    parser.add_argument("line", metavar="ARG", nargs="*", help="behind --: the command line as it was given")


def run(arguments: argparse.Namespace) -> int:
    """Become `arguments.real` with `arguments.line`, of which ours is taken out and carried out."""
    real = arguments.real
    program = "qrsh" if os.path.basename(real).startswith("qrsh") else "qsub"
    line = qsub.read(arguments.line, program, Help([real, "-help"], qsub.in_help).get)
    if not line.images and line.script:
        line.images = sbatch.script_images(script_of(line.script))
    if hook.is_off():
        write_line(f"switched off by {hook.SWITCH}: submitting without images")
        become([real, *line.options, *line.rest], dict(os.environ))
    if line.images:
        _check(line, program)
    found = pin(line.images, quiet=False)
    images = [str(each) for each in found]
    ours = [*(qsub.wish(found, _complexes()) if found else ()), *qsub.tell(images)]
    become([real, *line.options, *ours, *line.rest], environ_for(images))


def _check(line: qsub.CommandLine, program: str) -> None:
    if "-inherit" in line.options:
        raise UsageError(
            "qrsh -inherit begins a task of a job, which cannot ask for images of its own",
            hint="qrsh -inherit HOST stage-image exec REF -- CMD, or give --stage-image to qsub",
        )
    if program == "qrsh" and not line.rest:
        raise UsageError(
            "qrsh without a command takes no -v, by which a job is told of its images",
            hint="qrsh --stage-image=REF -pty y bash",
        )


def _complexes() -> list[str]:
    # A request for what the site has not is refused: without an answer, the job goes without.
    with suppress(ProgramFailed):
        return qsub.requestable(run_program(["qconf", "-sc"], timeout=SECONDS))
    return []
