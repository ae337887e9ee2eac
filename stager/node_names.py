"""Names of nodes, as administrators write many of them: `n[001-128,140],gpu7`.

Taken apart by ClusterShell, which knows what Slurm, Flux and pdsh write; put together here, by one pass over the last
number of each name: ClusterShell folds all numbers of a name at once, which took it 14 s for 3,000 names with three.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING

from stager.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST = 100_000
"""Nodes in a list: ten times the largest clusters; `n[1-999999999]` would fill the memory."""

NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9_])?")
"""A host name by RFC 1123 and RFC 1035 (253 characters), with the underscores that sites have. Nothing in it means
anything to a shell, and as it never begins with `-` it is nobody's option."""

_ITEM = re.compile(r"(?:[^\[\],]|\[[^\[\]]*\])+")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"([0-9]{1,15})(?:-([0-9]{1,15}))?(?:/[0-9]{1,15})?")
_LAST_NUMBER = re.compile(r"([^.]*?)([0-9]{1,15})([^0-9.]*(?:\..*)?)", re.DOTALL)
"""Of the host, not of its domain."""


def expand(text: str) -> list[str]:
    """Return the nodes of a list, each once. Raises UsageError, naming what cannot be a node."""
    if "[" in text or "]" in text:
        return list(_expanded(text))
    return list(dict.fromkeys(_checked(name) for name in re.split(r"[,\s]+", text.strip(" \t\n,")) if name))


def is_name(text: str) -> bool:
    """Whether it can be the name of a node."""
    return NAME.fullmatch(text) is not None


def fold(names: Iterable[str]) -> str:
    """Return a compact list of names, each of which `is_name`: `n[1-3,7]` for n1, n2, n3 and n7."""
    groups: dict[tuple[str, int, str], set[int]] = defaultdict(set)
    plain = set()
    for name in names:
        match = _LAST_NUMBER.fullmatch(name)
        if match is None:
            plain.add(name)
        else:
            # 9 and 10 are of one group, and so are 09 and 10, but not 9 and 09.
            padded = len(match[2]) if match[2].startswith("0") and match[2] != "0" else 0
            groups[match[1], padded, match[3]].add(int(match[2]))
    _merge_padded(groups)
    folded = [_group(before, width, after, numbers) for (before, width, after), numbers in groups.items()]
    return ",".join(sorted([*plain, *folded]))


def _merge_padded(groups: dict[tuple[str, int, str], set[int]]) -> None:
    """Let 010 join 009: numbers as wide as padded ones belong to them."""
    for before, width, after in [key for key in groups if key[1]]:
        wide = {number for number in groups.get((before, 0, after), ()) if len(str(number)) == width}
        groups[before, width, after] |= wide
        if wide:
            groups[before, 0, after] -= wide
    for key in [key for key, numbers in groups.items() if not numbers]:
        del groups[key]


def _group(before: str, width: int, after: str, numbers: set[int]) -> str:
    spans = list(_spans(sorted(numbers)))
    shown = [f"{a:0{width}}" if a == b else f"{a:0{width}}-{b:0{width}}" for a, b in spans]
    return f"{before}{shown[0]}{after}" if len(numbers) == 1 else f"{before}[{','.join(shown)}]{after}"


def _spans(numbers: list[int]) -> Iterator[tuple[int, int]]:
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1]


def _expanded(text: str) -> Iterable[str]:
    _refuse_endless(text)
    try:
        from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException
    except ImportError as error:
        raise UsageError(
            f"--nodes: {ascii(text)[:80]} is a compact list, and ClusterShell, which takes it apart, is not installed",
            hint="pip install 'stage-image[cluster]', or write all names with commas between them",
        ) from error
    try:
        # Without groups: those are looked up by shell commands, with the group's name in them.
        names = [str(name) for name in NodeSet(text, resolver=RESOLVER_NOGROUP)]
    except NodeSetException as error:
        raise UsageError(f"--nodes: {ascii(text)[:80]} cannot be understood: {str(error)[:200]}") from error
    return (_checked(name) for name in names)


def _refuse_endless(text: str) -> None:
    """Count before anything is expanded, and let nothing through that ClusterShell may take for more than names."""
    if strange := re.search(r"[^A-Za-z0-9._\-\[\],/ ]", text):
        raise UsageError(f"--nodes: {strange[0]!a} cannot be part of a list of nodes")
    count = 0
    for item in _ITEM.findall(text):
        count += prod(sum(map(_length, inside.split(","))) for inside in _BRACKETS.findall(item))
    if count > MOST:
        raise UsageError(f"--nodes: {ascii(text)[:80]} are more than {MOST} nodes")


def _length(text: str) -> int:
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--nodes: {text[:80]!a} is no range of numbers")
    return max(0, int(match[2] or match[1]) - int(match[1])) + 1


def _checked(name: str) -> str:
    if not is_name(name):
        raise UsageError(f"--nodes: {name[:80]!a} cannot be the name of a node")
    return name
