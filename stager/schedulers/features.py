"""What a node's features say about its images, so that `--prefer` sends jobs to where an image is; pure.

A feature of ours is the prefix and the first twelve digits of an image's digest, and nothing else is: `img_viewer` is
somebody else's. Names of images would be longer than Slurm shows, and tell everybody what others run.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stager.reference import Digest

DIGITS = 12
"""Of a digest, in a feature: 48 bits, so that among 10,000 images two are alike once in five million clusters."""

MOST = 100
"""Features of ours on one node. The controller keeps a table of nodes for each: 10,000 bits on 10,000 nodes."""

_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
"""Slurm reads the others as operators: `&`, `|`, `*`, brackets; commas end a feature (sbatch(1), --constraint)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a node's features are to become.

    `added` were not active, `removed` were available or active; both are ours. `first` is what may be active before
    the available ones change, None if that makes no difference.
    """

    available: tuple[str, ...]
    active: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    first: tuple[str, ...] | None

    @property
    def updates(self) -> tuple[tuple[str, ...], ...]:
        """The arguments of each `scontrol update` that it takes, in order.

        What is removed has to stop being active before it stops being available (scontrol(1), AvailableFeatures). Then
        both are given: with AvailableFeatures alone, 22.05 lets the active ones follow if there were none, and refuses
        if they are not among them.
        """
        both = (f"AvailableFeatures={','.join(self.available)}", f"ActiveFeatures={','.join(self.active)}")
        return (both,) if self.first is None else ((f"ActiveFeatures={','.join(self.first)}",), both)


def feature(digest: Digest, prefix: str) -> str:
    """Return the feature of nodes that hold this image."""
    return f"{prefix}{digest.hex[:DIGITS]}"


def change(images: Iterable[Digest], available: Sequence[str], active: Sequence[str], prefix: str) -> Change | None:
    """Return what has to change for exactly these images to be told, or None if nothing has.

    Features of others stay, and stay in order; ours come after them. Raises ConfigError for a prefix that Slurm would
    not take for part of a name.
    """
    ours = _ours(prefix)
    wanted = {feature(digest, prefix) for digest in images}
    if all({name for name in names if ours.fullmatch(name)} == wanted for names in (available, active)):
        return None
    foreign_active = [name for name in active if not ours.fullmatch(name)]
    foreign = [name for name in available if not ours.fullmatch(name)]
    foreign += [name for name in foreign_active if name not in foreign]
    new = (*foreign_active, *sorted(wanted))
    removed = {name for name in (*available, *active) if ours.fullmatch(name)} - wanted
    return Change(
        available=(*foreign, *sorted(wanted)),
        active=new,
        added=tuple(sorted(wanted - set(active))),
        removed=tuple(sorted(removed)),
        first=tuple(name for name in new if name in available) if removed.intersection(active) else None,
    )


def merged(images: Iterable[Digest], extra: str, prefix: str) -> str | None:
    """Return what a node's Extra has to become, or None if nothing has to change.

    Extra is a JSON object where `--extra` is to match it (extra_constraints.shtml): each image is a member that is
    true, the members of others stay. Text that is no object belongs to somebody who does something else with it: it
    stays as it is. Raises ConfigError as `change` does.
    """
    ours = _ours(prefix)
    wanted = sorted(feature(digest, prefix) for digest in images)
    members = _members(extra)
    if members is None:
        return None
    kept = {name: value for name, value in members.items() if not ours.fullmatch(name)}
    new = kept | dict.fromkeys(wanted, True)
    return None if new == members else json.dumps(new, separators=(",", ":")) if new else ""


def _members(extra: str) -> dict[str, object] | None:
    if not extra.strip():
        return {}
    try:
        found = json.loads(extra)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _ours(prefix: str) -> re.Pattern[str]:
    if not _PREFIX.fullmatch(prefix):
        allowed = "letters, digits and _, not beginning with a digit, at most 32"
        raise ConfigError(f"slurm.features_prefix cannot be {ascii(prefix)[:80]}; allowed: {allowed}")
    return re.compile(rf"{prefix}[0-9a-f]{{{DIGITS}}}")
