"""Warm hits: the image is there, the job has its answer; all that counts is what it costs to say so."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.bench.ground import MIB, WRAPPER
from tests.bench.samples import Goal, Sample, interleaved
from tests.bench.table import Row, Unmeasured, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.ground import Ground
    from tests.bench.processes import Command, Ended

EXEC = ("exec", "--mount=loop", "--runtime=none")

WRAPPER_GOAL = Goal(times=3)
CLI_GOAL = Goal(times=2.5)


def rows(ground: Ground) -> list[Row | Unmeasured]:
    """Measure the wrapper against a shell, and the console script against an empty Python."""
    image = str(ground.image(MIB))
    shell, true = "/bin/sh", _found("true")
    wrapper = str(WRAPPER) if WRAPPER.exists() else ""
    commands: dict[str, Command] = {
        "sh": (shell, "-c", ":"),
        "sh exec": (shell, "-c", "exec true"),
        "python": (ground.python, "-I", "-c", "pass"),
        "cli": (ground.cli, image),
        "cli exec": (ground.cli, *EXEC, image, "--", true),
    }
    if wrapper:
        commands |= {"wrapper": (wrapper, image), "wrapper exec": (wrapper, *EXEC, image, "--", true)}
    with ground.job() as job:
        for name in ("cli", "cli exec"):  # the first call of each is the cold one
            ground.launcher.run(commands[name], job)
        if wrapper:
            _answers_alone(ground, (commands["wrapper"], commands["wrapper exec"]), job)
        results = interleaved(ground.scale.warm, *(_action(ground, words, job) for words in commands.values()))
    times = dict(zip(commands, results, strict=True))
    return [*_wrapper_rows(times), *_cli_rows(times)]


def _answers_alone(ground: Ground, commands: tuple[Command, ...], job: dict[str, str]) -> None:
    """Raise Failed if the wrapper needs Python for its answers."""
    for command in commands:
        ground.launcher.run(command, {**job, "STAGE_IMAGE_PYTHON": "/bin/false"})


def _action(ground: Ground, command: Command, job: dict[str, str]) -> Callable[[], Ended]:
    return lambda: ground.launcher.run(command, job)


def _wrapper_rows(times: dict[str, list[Ended]]) -> list[Row | Unmeasured]:
    if "wrapper" not in times:
        return [Unmeasured("warm hit through the wrapper", f"there is no {WRAPPER}")]
    return [
        _row("warm hit through the wrapper: the path", times["wrapper"], "`sh -c :`", times["sh"], WRAPPER_GOAL),
        _row(
            "warm hit through the wrapper: `exec --mount=loop … -- true`",
            times["wrapper exec"],
            "`sh -c 'exec true'`",
            times["sh exec"],
            WRAPPER_GOAL,
        ),
    ]


def _cli_rows(times: dict[str, list[Ended]]) -> list[Row | Unmeasured]:
    against = "`python -I -c pass`"
    return [
        _row("warm hit, Python CLI: the path", times["cli"], against, times["python"], CLI_GOAL),
        _row("warm hit, Python CLI: `exec … -- true`", times["cli exec"], against, times["python"], CLI_GOAL),
    ]


def _row(what: str, ours: list[Ended], against: str, theirs: list[Ended], goal: Goal) -> Row:
    cpu = [show(Sample([one.cpu for one in ended]).median, "s") for ended in (ours, theirs)]
    return Row(
        what=what,
        measured=Sample([one.seconds for one in ours]),
        against=against,
        reference=Sample([one.seconds for one in theirs]),
        goal=goal,
        obstacle=f"{cpu[0]} of CPU against {cpu[1]}",
        notes=(f"CPU: {cpu[0]}; {against}: {cpu[1]}",),
    )


def _found(name: str) -> str:
    return shutil.which(name, path="/usr/bin:/bin") or name
