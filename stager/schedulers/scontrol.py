"""Asking and telling Slurm by `scontrol`: the one program that is there wherever slurmd is, in every release."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from stager import program
from stager.errors import AccessDenied, ClusterUnavailable, NotStaged
from stager.program import ProgramFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

TIMEOUT = 60.0
"""Seconds. scontrol itself gives up after some attempts of TCPTimeout (2 s) or MessageTimeout (10 s) each."""


@dataclass(frozen=True, slots=True)
class SlurmNode:
    """What Slurm knows of a node, as far as it concerns images. `extra` is empty where there is none."""

    name: str
    available: tuple[str, ...]
    active: tuple[str, ...]
    extra: str


def read_node(text: str) -> SlurmNode:
    """Return what `scontrol show node NAME` printed. Raises ValueError for anything else.

    Its long form, a line for each group: what people may write into it (Comment, Reason) can then not be mistaken for
    something else, as it can in the form of one line (-o).
    """
    lines = [line.strip() for line in text.splitlines()]
    if not lines or not lines[0].startswith("NodeName="):
        raise ValueError("no node")
    return SlurmNode(
        name=lines[0].split()[0].partition("=")[2],
        available=_names(_value(lines, "AvailableFeatures")),
        active=_names(_value(lines, "ActiveFeatures")),
        extra=_value(lines, "Extra"),
    )


def _value(lines: list[str], key: str) -> str:
    found = next((line.partition("=")[2] for line in lines if line.startswith(f"{key}=")), "")
    return "" if found == "(null)" else found


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def show_config() -> str:
    """Return what `scontrol show config` prints. Raises ClusterUnavailable."""
    return _run("show", "config")


def names_here() -> tuple[str, ...]:
    """Return what Slurm calls this host: several names where several slurmd run on it. Raises ClusterUnavailable.

    slurm.conf knows (NodeHostname); where it does not list this host, its name without the domain is Slurm's default.
    """
    try:
        names = tuple(program.run(["scontrol", "show", "aliases"], timeout=TIMEOUT).split())
    except ProgramFailed as failed:
        if failed.missing:
            _fail(failed)
        names = ()
    return names or (os.uname().nodename.partition(".")[0],)


def show_node(name: str) -> SlurmNode:
    """Return what Slurm knows of a node. Raises NotStaged if it knows none of this name, ClusterUnavailable."""
    text = _run("show", "node", name, unknown=name)
    try:
        return read_node(text)
    except ValueError:
        _unknown(name)


def update_node(name: str, settings: Iterable[str]) -> None:
    """Change a node. Raises AccessDenied for who may not, NotStaged for an unknown node, ClusterUnavailable."""
    _run("update", f"NodeName={name}", *settings, unknown=name)


def _run(*words: str, unknown: str = "") -> str:
    try:
        return program.run(["scontrol", *words], timeout=TIMEOUT)
    except ProgramFailed as failed:
        said = failed.stderr
        if "Invalid user id" in said or "Access/permission denied" in said:
            raise AccessDenied(f"Slurm lets only root and its operators do that: {said}", hint=_AS_ROOT) from failed
        # `show node` says it on stdout, `update` on stderr (22.05).
        if unknown and (not said or "Invalid node name" in said) and failed.returncode == 1:
            _unknown(unknown)
        _fail(failed)


_AS_ROOT = "run it as root, from the timer"


def _unknown(name: str) -> NoReturn:
    raise NotStaged(f"Slurm knows no node {name}", hint="name it as in slurm.conf: --node NAME, `scontrol show nodes`")


def _fail(failed: ProgramFailed) -> NoReturn:
    hint = "run it where Slurm's commands are, with slurmctld up: `scontrol ping`"
    raise ClusterUnavailable(f"Slurm cannot be asked: {failed}", hint=hint) from failed
