"""`sbatch --stage-image=REF`, as `stage-image slurm submit`: pin images, tell Slurm of them, become the real one."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from stager.config import load
from stager.errors import UsageError
from stager.process import become
from stager.program import ProgramFailed
from stager.program import run as run_program
from stager.progress import write_line
from stager.schedulers import hook, sbatch, submit_options
from stager.schedulers.affinity import known_as
from stager.schedulers.request import VARIABLES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from stager.cli.resolve_verb import Resolved
    from stager.reference import Reference

T = TypeVar("T")

SCRIPT_MAX = 1 << 20
"""Bytes of a script that are looked at: what is asked for stands above its first command."""

STDIN_MAX = 64 << 20
"""Bytes of a script that comes through a pipe. Slurm takes 4 MiB unless `max_script_size` says otherwise."""

SECONDS = 10.0
"""For which sinfo and --help may take: without them the job is submitted all the same."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this action's arguments."""
    parser.add_argument("--real", metavar="PATH", required=True, help="Slurm's own sbatch, srun or salloc")
    parser.add_argument("line", metavar="ARG", nargs="*", help="behind --: the command line as it was given")


def run(arguments: argparse.Namespace) -> int:
    """Become `arguments.real` with `arguments.line`, of which ours is taken out and carried out."""
    real, words = arguments.real, list(arguments.line)
    program = sbatch.program_of(real)
    line = sbatch.read(words, program, Help([real, "--help"], submit_options.in_help).get)
    script = _script(line) if program == "sbatch" else ""
    if not any(part.images for part in line.components):
        line.components[0].images = sbatch.script_images(script)
    if hook.is_off():
        write_line(f"switched off by {hook.SWITCH}: submitting without images")
        become([real, *line.words()], dict(os.environ))
    _prepare(line, program, script)
    become([real, *line.words()], environ_for(line.components[0].images))


def _prepare(line: sbatch.CommandLine, program: str, script: str) -> None:
    if program == "srun" and os.environ.get("SLURM_JOB_ID") and any(part.images for part in line.components):
        raise UsageError(
            "srun in a job begins a step, for which no Prolog stages images",
            hint="srun stage-image exec REF -- CMD, or give --stage-image to sbatch or salloc",
        )
    for number, component in enumerate(line.components):
        if component.images:
            said = sbatch.script_options(script) if number == 0 else {}
            _pin(component, {**said, **component.options})


def _pin(component: sbatch.Component, options: dict[str, str]) -> None:
    found = pin(component.images, quiet="quiet" in options)
    component.images = tuple(str(each) for each in found)
    sbatch.tell(component, component.images, options.get("comment", ""))
    if component.affinity:
        prefix = load(dict(os.environ), {}).slurm_features_prefix
        digests = dict.fromkeys(digest.hex[:12] for digest in map(known_as, found) if digest is not None)
        features = [f"{prefix}{digits}" for digits in digests]
        wish = sbatch.preference(options, features, _nodes(options))
        component.words += [f"--prefer={wish}"] if wish else []


def pin(images: Sequence[str], *, quiet: bool) -> list[Reference]:
    """Return the references with their pins, each meaning once. Raises StageImageError."""
    from stager.cli.resolve_verb import resolve_text

    sbatch.check(images)
    found = [resolve_text(text) for text in dict.fromkeys(images)]
    for each in found:
        sbatch.check_tellable(str(each.reference))
        if not quiet:
            write_line(_said(each))
    return list({str(each.reference): each.reference for each in found}.values())


def _said(found: Resolved) -> str:
    if not found.digest:
        return f"{found.reference.shown} cannot be pinned: the job gets what lies there when it starts"
    return f"pinned {found.reference.shown} ({found.how})"


def _nodes(options: dict[str, str]) -> list[sbatch.Nodes]:
    where = [f"--{name}={options[name]}" for name in ("partition", "clusters") if options.get(name)]
    with suppress(ProgramFailed):
        return sbatch.read_nodes(run_program(["sinfo", "-h", "-o", "%D %c %f", *where], timeout=SECONDS))
    return []


def environ_for(references: Sequence[str]) -> dict[str, str]:
    """Return what the job inherits: what the job that submits it was told is not for it."""
    others = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return others | dict(zip(VARIABLES, references, strict=False))


class Help(Generic[T]):
    """What a program itself says of an option that no table of ours has; asked once, and only if there is one."""

    def __init__(self, command: Sequence[str], read: Callable[[str], dict[str, T]]) -> None:
        self._command = command
        self._read = read
        self._known: dict[str, T] | None = None

    def get(self, name: str) -> T | None:
        """Return what its help says of the option; None if nothing."""
        if self._known is None:
            self._known = {}
            with suppress(ProgramFailed):
                self._known = self._read(run_program(self._command, timeout=SECONDS))
        return self._known.get(name)


def _script(line: sbatch.CommandLine) -> str:
    """Return the beginning of the script that sbatch is going to read; empty if there is none to be seen."""
    if any("wrap" in component.options for component in line.components):
        return ""
    return script_of(line.command[0] if line.command else "-")


def script_of(name: str) -> str:
    """Return the beginning of a script, of stdin for `-`; empty if there is none to be seen."""
    if name == "-":
        return _from_stdin()
    path = name if os.path.exists(name) else shutil.which(name)  # as sbatch looks for it
    with suppress(OSError, ValueError):
        if path and stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                return file.read(SCRIPT_MAX).decode("utf-8", "surrogateescape")
    return ""


def _from_stdin() -> str:
    try:
        status = os.fstat(0)
        if stat.S_ISREG(status.st_mode):
            return os.pread(0, SCRIPT_MAX, os.lseek(0, 0, os.SEEK_CUR)).decode("utf-8", "surrogateescape")
        return _kept_from_pipe() if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode) else ""
    except OSError:
        return ""


def _kept_from_pipe() -> str:
    """Read all of stdin, and put it back as a file in memory: what is read from a pipe is gone."""
    fd = os.memfd_create("script")
    while (size := os.fstat(fd).st_size) <= STDIN_MAX and (piece := os.read(0, 1 << 16)):
        os.write(fd, piece)
    if size > STDIN_MAX:
        raise UsageError(f"the script on stdin has more than {STDIN_MAX >> 20} MiB")
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, 0)
    os.close(fd)
    return os.pread(0, SCRIPT_MAX, 0).decode("utf-8", "surrogateescape")
