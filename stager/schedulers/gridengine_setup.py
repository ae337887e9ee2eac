"""What Grid Engine's configuration has to become for images, and how it is without; pure, on the texts of qconf.

Everything of ours is known by its name (complexes) or its path (scripts). What somebody else has put where ours would
go stays, and is told of: a prolog that vanishes from a cluster is noticed in all its jobs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager.schedulers.sensor import BUSY, CUT, FREE, IMAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

COMPLEXES = (
    *(f"{name} stimg{name.removeprefix('stage_images')} RESTRING == YES NO NONE 0" for name in IMAGES),
    f"{CUT} stcut INT == YES NO 0 0",
    f"{FREE} stfree MEMORY <= YES NO 0 0",
    f"{BUSY} stbusy INT >= YES NO 0 0",
)
"""Name, shortcut, type, relation, requestable, consumable, default, urgency (complex(5)).

A request is compared as `requested RELATION offered`: `-l stage_busy=2` is for nodes with no more than two stagings.
"""

SCRIPTS = {"load_sensor": "load-sensor", "prolog": "prolog", "epilog": "epilog", "starter_method": "starter"}
"""Setting → the script of ours."""

TOLD = "$job_owner $job_id $ja_task_id"
"""What Grid Engine puts in for the prolog and epilog, since the environment is the user's."""

PARTS = ("complexes", "sensor", "hooks", "starter")
NOTHING = ("none", "NONE")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a setting should be with us: the value, `listed` if it is one of several, or with `undo` gone."""

    setting: str
    value: str
    listed: bool = False
    undo: bool = False

    @property
    def path(self) -> str:
        """The script, without the user that it is run as and its arguments."""
        return script(self.value)


def complexes(text: str, *, undo: bool) -> str:
    """Return what `qconf -sc` printed, with our complexes or without them; the very text where nothing is to change."""
    ours = {row.split()[0]: row for row in COMPLEXES}
    lines = text.splitlines(keepends=True)
    there = {line.split()[0]: line.split() for line in lines if line.strip() and not line.startswith("#")}
    if undo:
        return "".join(line for line in lines if line.partition(" ")[0] not in ours)
    if all(there.get(name) == row.split() for name, row in ours.items()):
        return text
    kept = [line for line in lines if line.partition(" ")[0] not in ours]
    at = next((place for place in range(len(kept), 0, -1) if not kept[place - 1].startswith("#")), 0)
    return "".join((*kept[:at], *(f"{row}\n" for row in ours.values()), *kept[at:]))


def settings(text: str, wanted: Sequence[Wanted]) -> tuple[str, list[str]]:
    """Return a configuration's or queue's text with these settings, and what stays of others in their place.

    Lines are a name, blanks and a value, each on one line (SGE_SINGLE_LINE).
    """
    notes, lines = [], text.splitlines()
    for each in wanted:
        place = next((number for number, line in enumerate(lines) if line.split(None, 1)[:1] == [each.setting]), None)
        before = (lines[place].partition(each.setting)[2].strip() if place is not None else "") or "none"
        after = _value(before, each)
        if after is None:
            notes.append(f"{each.setting} is {before}, and stays so; ours would be {each.value}")
        elif after != before and place is not None:
            behind = lines[place][len(each.setting) :]
            gap = behind[: len(behind) - len(behind.lstrip())] or " "
            lines[place] = f"{each.setting}{gap}{after}"
        elif after != before:
            lines.append(f"{each.setting} {after}")
    return "".join(f"{line}\n" for line in lines), notes


def _value(before: str, wanted: Wanted) -> str | None:
    """Return the new value; None where another's has to stay."""
    empty = before if before in NOTHING else "NONE" if wanted.setting == "starter_method" else "none"
    if wanted.listed:
        there = [path.strip() for path in before.split(",")]
        kept = [path for path in there if path and path not in (*NOTHING, wanted.value)]
        if not wanted.undo and wanted.value in there:
            return before
        return ",".join(kept if wanted.undo else [*kept, wanted.value]) or empty
    is_ours = script(before) == wanted.path
    if wanted.undo:
        return empty if is_ours else before
    return wanted.value if is_ours or before in NOTHING else None


def script(value: str) -> str:
    """Return the path in the value of a hook: `root@/path argument`, as sge_conf(5) has it."""
    head, at, rest = value.partition("@")
    return (rest if at and "/" not in head else value).partition(" ")[0]


def wanted(hooks: str, *, parts: Sequence[str], user: str, undo: bool) -> tuple[list[Wanted], list[Wanted]]:
    """Return what the global configuration should have, and what queues should have.

    `parts` are of PARTS; the prolog and epilog run as `user`, or as each job's if that is empty.
    """
    run_as = f"{user}@" if user else ""
    paths = {name: os.path.join(hooks, script) for name, script in SCRIPTS.items()}
    configuration = []
    if "sensor" in parts:
        configuration.append(Wanted("load_sensor", paths["load_sensor"], listed=True, undo=undo))
    if "hooks" in parts:
        hook = (Wanted(name, f"{run_as}{paths[name]} {TOLD}", undo=undo) for name in ("prolog", "epilog"))
        configuration += hook
    starter = [Wanted("starter_method", paths["starter_method"], undo=undo)] if "starter" in parts else []
    return configuration, starter


def pushed(text: str) -> list[str]:
    """Return our complexes that a host has values for, as `qconf -se` printed it."""
    ours = {row.split()[0] for row in COMPLEXES}
    return [name for name in (each.partition("=")[0] for each in _complex_values(text)) if name in ours]


def without(text: str, names: Sequence[str]) -> str:
    """Return a host's text without values for these complexes."""
    kept = [each for each in _complex_values(text) if each.partition("=")[0] not in names]
    lines = (
        f"complex_values {','.join(kept) or 'NONE'}" if line.split()[:1] == ["complex_values"] else line
        for line in text.splitlines()
    )
    return "".join(f"{line}\n" for line in lines)


def _complex_values(text: str) -> list[str]:
    lines = (line.split(None, 1) for line in text.splitlines())
    found = next((line[1] for line in lines if len(line) == 2 and line[0] == "complex_values"), "")
    return [each for each in found.strip().split(",") if each not in (*NOTHING, "")]
