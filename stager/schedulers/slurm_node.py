"""What a node has of Slurm's files: hooks, plugstack.conf, plugins. Only looked at, never run."""

from __future__ import annotations

import glob
import os
import re
import stat
from typing import TYPE_CHECKING

from stager.schedulers import slurm_config
from stager.schedulers.slurm_rules import HookFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from stager.schedulers.slurm_config import SpankPlugin

LARGEST = 1 << 20
"""Bytes of a file that are read."""

DEEPEST = 8
"""Files of plugstack.conf that include each other."""

CACHED = "/run/slurm/conf"
"""Where slurmd keeps the files of a cluster without files of its own on nodes (configless_slurm.html)."""

ABSENT = "is not there"
"""The problem of a hook that slurm.conf names and this host does not have."""

_NAME = b"stage-image"
_DIRECTORY = re.compile(rb"/[\w./+-]+\.d\b")


def folder(config: Mapping[str, str]) -> str:
    """Return where this node has Slurm's configuration files."""
    path = os.path.dirname(config.get("SLURM_CONF", "")) or "/etc/slurm"
    return path if os.path.isdir(path) or not os.path.isdir(CACHED) else CACHED


def plugstack(config: Mapping[str, str]) -> str:
    """Return the path of plugstack.conf on this node."""
    named = config.get("PlugStackConfig", "") or f"{folder(config)}/plugstack.conf"
    cached = f"{CACHED}/{os.path.basename(named)}"
    return cached if not os.path.exists(named) and os.path.exists(cached) else named


def text(path: str) -> str | None:
    """Return what is in a file, None if it cannot be read."""
    found = _read(path)
    return None if found is None else found.decode("utf-8", "replace")


def plugins(path: str, depth: int = DEEPEST) -> Iterator[SpankPlugin]:
    """Yield the SPANK plugins of a plugstack.conf and of the files that it includes."""
    for found in slurm_config.plugins(text(path) or ""):
        if not isinstance(found, str):
            yield found
        elif depth:
            for included in sorted(glob.glob(os.path.join(os.path.dirname(path), found))):
                yield from plugins(included, depth - 1)


def is_there(path: str, places: Sequence[str]) -> bool:
    """Whether a plugin is there: a path, or a name below one of Slurm's directories of plugins."""
    return any(os.path.exists(os.path.join(place, path)) for place in (places or ("/",)))


def hook_files(config: Mapping[str, str], name: str) -> tuple[HookFile, ...]:
    """Return the programs of a hook; slurm.conf may name them by a pattern, or relative to its own directory."""
    found = []
    for pattern in slurm_config.paths(config, name):
        path = os.path.join(folder(config), pattern)
        found += [_hook(each) for each in sorted(glob.glob(path))] or [HookFile(path, ours=False, problem=ABSENT)]
    return tuple(found)


def _hook(path: str) -> HookFile:
    content = _read(path)
    ours = None if content is None else _NAME in content or _runs_ours(content)
    return HookFile(path, ours, _problem(path))


def _runs_ours(content: bytes) -> bool:
    """Whether a script that runs all of a directory, as `prolog.d`, finds one of ours there."""
    places = {os.fsdecode(place) for place in _DIRECTORY.findall(content)}
    paths = [path for place in places for path in glob.glob(f"{glob.escape(place)}/*")]
    return any(_NAME in (_read(path) or b"") for path in paths)


def _problem(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError as error:
        return f"cannot be looked at: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return "is not a file"
    if not status.st_mode & 0o111:
        return "is not executable"
    if status.st_uid != 0 or status.st_mode & 0o022:
        return "can be changed by others than root"
    return ""


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            return file.read(LARGEST)
    except OSError:
        return None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
