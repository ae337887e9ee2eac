"""How stagings stand, in lines that can be read for a thousand nodes on 80 columns."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from stager.cli.output import show_time
from stager.standing import LEADS
from stager.store.room import show_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stager.standing import Doing, NodeStanding, Standing

FEW = 16
"""Nodes that are all shown without being asked for."""

MOST_STRAGGLERS = 10

VERBS = {
    LEADS: ("leads", "lead"),
    "receiving": ("receives", "receive"),
    "waiting": ("waits", "wait"),
    "verifying": ("verifies", "verify"),
    "done": ("done", "done"),
    "failed": ("failed", "failed"),
}
"""State → what one node does, and several; in the order in which they are told."""

COLUMNS = ("NODE", "STATE", "DONE", "BYTES", "RATE", "FROM", "SINCE")
_FIXED = 2 + 9 + 5 + 10 + 12 + 8 + 6 * 2
"""Characters of a line beside NODE and FROM."""
_SHORTEST = 8

LONGEST = 24
"""Characters of a name in the lines before the table."""


def lines(standing: Standing, *, width: int, verbose: bool) -> Iterator[str]:
    """Yield what there is to say of one staging. `width` of the terminal, 0 for no limit."""
    yield standing.reference or standing.staging
    coordinator = f"coordinator {_called(standing.host) or '?'} ({standing.address or '?'})"
    if standing.problem:
        yield f"  {coordinator} {standing.problem}"
        return
    yield f"  {_what(standing)}"
    yield f"  {_counts(standing)}"
    if standing.doing is not None:
        yield f"  {_doing(standing.doing)}"
    if standing.under_way:
        yield from (f"  {line}" for line in _speed(standing))
    yield from (f"  {line}" for line in _placed(_heads(standing), coordinator, width))
    if verbose or len(standing.nodes) <= FEW:
        yield from _table(sorted(standing.nodes, key=_place), standing, width)
        return
    worst = standing.stragglers(time.time())
    if worst:
        yield "  slow, late or failed:"
        yield from _table(worst[:MOST_STRAGGLERS], standing, width)
        if len(worst) > MOST_STRAGGLERS:
            yield f"  and {len(worst) - MOST_STRAGGLERS} more (-v shows all nodes)"


def show_span(seconds: float) -> str:
    """Return a time for people: `3 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def show_share(done: int, size: int | None) -> str:
    """Return how much of something is done: `43 %`, and 100 % only for all of it."""
    return f"{100 * min(done, size) // size} %" if size else "-"


def _what(standing: Standing) -> str:
    size = "size unknown" if standing.size is None else show_bytes(standing.size)
    digest = f"{standing.digest[:19]}…" if standing.digest else "digest not known yet"
    ago = f" ({show_span(max(0.0, time.time() - standing.since))})" if standing.since else ""
    return f"{digest}, {size}, since {show_time(standing.since)}{ago}"


def _counts(standing: Standing) -> str:
    counts: Counter[str] = standing.counts
    total = len(standing.nodes)
    parts = [f"{counts[state]} {verbs[counts[state] > 1]}" for state, verbs in VERBS.items() if counts[state]]
    return f"{total} node{'s' * (total != 1)}: {', '.join(parts) or 'nobody has joined yet'}"


def _doing(doing: Doing) -> str:
    done = show_bytes(doing.done)
    if doing.total:
        done += f" of {show_bytes(doing.total)} ({show_share(doing.done, doing.total)})"
    layers = f", {doing.layers[0]} of {doing.layers[1]} layers" if doing.layers else ""
    return f"{doing.phase}: {done}{layers}"


def _speed(standing: Standing) -> Iterator[str]:
    rates = standing.rates
    if rates:
        shown = [
            f"{word} {show_bytes(rate)}/s" for word, rate in zip(("slowest", "median", "fastest"), rates, strict=True)
        ]
        yield f"rate: {', '.join(shown)}"
    last = standing.last
    if last is not None:
        share = f"{show_share(last.offset, standing.size)}, " if standing.size else ""
        left = "" if standing.left is None else f"; about {show_span(standing.left)} until all have it"
        yield f"last node: {_called(last.host)} at {share}{show_bytes(last.offset)}{left}"


def _heads(standing: Standing) -> str:
    names = [_called(node.host) for node in standing.heads]
    return f"head {', '.join(names[:2])}{', …' * (len(names) > 2)}" if names else ""


def _placed(heads: str, coordinator: str, width: int) -> list[str]:
    """Return both in one line, if there is room."""
    if not heads or not width or len(heads) + len(coordinator) + 4 <= width:
        return [f"{heads}; {coordinator}" if heads else coordinator]
    return [heads, coordinator]


def _table(nodes: Sequence[NodeStanding], standing: Standing, width: int) -> Iterator[str]:
    named = _names(standing.nodes)
    rows = [COLUMNS, *(_row(node, named, standing.size) for node in nodes)]
    most = max(_SHORTEST, (width - _FIXED) // 2) if width else max(len(cell) for row in rows for cell in row)
    rows = [tuple(cut(cell, most) if column in (0, 5) else cell for column, cell in enumerate(row)) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        cells = (
            cell.rjust(size) if 2 <= column <= 4 else cell.ljust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        )
        yield f"  {'  '.join(cells)}".rstrip()


def _row(node: NodeStanding, named: dict[str, str], size: int | None) -> tuple[str, ...]:
    return (
        named.get(node.node, node.node),
        node.state,
        show_share(node.offset, size),
        show_bytes(node.offset),
        f"{show_bytes(node.rate)}/s" if node.moving else "-",
        named.get(node.upstream) or _called(node.upstream) or "-",
        time.strftime("%H:%M:%S", time.localtime(node.since)) if node.since else "-",
    )


def _called(name: str) -> str:
    """Return a host's name without its domain, and without the process of a member's."""
    return cut(name.partition("/")[0].partition(".")[0], LONGEST)


def _names(nodes: Sequence[NodeStanding]) -> dict[str, str]:
    """Return member → what it is called here: its host without the domain, or as much as tells it from others."""
    names = {node.node: _called(node.host) for node in nodes}
    for longer in ({node.node: node.host for node in nodes}, {node.node: node.node for node in nodes}):
        count = Counter(names.values())
        names = {node: longer[node] if count[name] > 1 else name for node, name in names.items()}
    return names


def cut(name: str, most: int) -> str:
    """Return a name without its middle, if it is too long: nodes differ in their ends."""
    if len(name) <= most:
        return name
    return f"{name[: (most - 1) // 2]}…{name[len(name) - most // 2 :]}"


def _place(node: NodeStanding) -> tuple[bool, int, str]:
    return node.order is None, node.order or 0, node.node
