"""How a staging stands, for --json: what the coordinator says, and the sums that people are shown."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from stager.standing import LEADS, STATES

if TYPE_CHECKING:
    from stager.standing import NodeStanding, Standing


def describe(standing: Standing) -> dict[str, object]:
    """Return a staging as an object."""
    rates, last, counts = standing.rates, standing.last, standing.counts
    return {
        "scope": "cluster",
        "reference": standing.reference,
        "staging": standing.staging,
        "coordinator": {"host": standing.host, "address": standing.address, "problem": standing.problem},
        "since": standing.since,
        "size": standing.size,
        "digest": standing.digest or None,
        "generation": standing.generation,
        "doing": _doing(standing),
        "counts": {state: counts[state] for state in (LEADS, *STATES)},
        "rates": dict(zip(("slowest", "median", "fastest"), rates, strict=True)) if rates else None,
        "last": last.node if last else None,
        "seconds_left": standing.left,
        "nodes": [_node(node, standing) for node in standing.nodes],
    }


def _doing(standing: Standing) -> dict[str, object] | None:
    doing = standing.doing
    if doing is None:
        return None
    layers = {"done": doing.layers[0], "total": doing.layers[1]} if doing.layers else None
    return {"phase": doing.phase, "done": doing.done, "total": doing.total or None, "layers": layers}


def _node(node: NodeStanding, standing: Standing) -> dict[str, object]:
    left = None if node.over else standing.seconds_left(node)
    return {**asdict(node), "upstream": node.upstream or None, "seconds_left": left}
