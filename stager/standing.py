"""How a staging stands: what its coordinator says of each node, read with suspicion and summed up.

A coordinator knows the staging's secret, but may be of another version: what is not as promised counts as not said.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from stager.quantity import MAX_SIZE

Answer = Mapping[str, Any]
"""A JSON object."""

STATES = ("waiting", "receiving", "verifying", "done", "failed")
LEADS = "leads"

STRAGGLES = 0.5
"""A node straggles below this part of the median rate, as the coordinator sees it too (stager.roster_watch.SLOW)."""
LATE = 5.0
"""Seconds after which a node that still waits for somebody to get bytes from straggles, if most others do not."""

_LAYERS = re.compile(r" ([0-9]{1,6})/([0-9]{1,6}) layers")

MOST_NODES = 100_000
LONGEST_TIME = 1e12


@dataclass(frozen=True, slots=True)
class NodeStanding:
    """One member. `offset` in bytes, `rate` in bytes per second, `since` in wall-clock seconds when it came in.

    `upstream` is another member's name, `origin`, or empty.
    """

    node: str
    host: str
    state: str
    offset: int
    rate: float
    upstream: str
    since: float
    scope: str
    order: int | None

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "failed")

    @property
    def leads(self) -> bool:
        """Whether its bytes come from the origin."""
        return self.upstream == "origin" and not self.over

    @property
    def moving(self) -> bool:
        """Whether bytes are coming in."""
        return self.state == "receiving" and self.rate >= 1


@dataclass(frozen=True, slots=True)
class Doing:
    """What is done before the first byte that nodes can have: a phase, how far it is of `total` (0: unknown).

    `layers`, of a container image: how many are there, and of how many.
    """

    phase: str
    done: int
    total: int
    layers: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A staging. `size` in bytes and `digest` once known; `since` in wall-clock seconds.

    `host` and `address` are the coordinator's, `problem` why it said nothing.
    """

    reference: str
    staging: str
    host: str
    address: str
    since: float = 0.0
    size: int | None = None
    digest: str = ""
    generation: int = 0
    nodes: tuple[NodeStanding, ...] = ()
    problem: str = ""
    doing: Doing | None = None

    def of_job(self, job: str) -> Standing:
        """Return it with the nodes of one job only: `1234`, or `slurm-1234`."""
        return replace(self, nodes=tuple(node for node in self.nodes if is_job(node.scope, job)))

    @property
    def counts(self) -> Counter[str]:
        """How many nodes are in which state; those that lead count as nothing else."""
        return Counter(LEADS if node.leads else node.state for node in self.nodes)

    @property
    def under_way(self) -> list[NodeStanding]:
        """The nodes that do not have the image yet."""
        return [node for node in self.nodes if not node.over]

    @property
    def rates(self) -> tuple[float, float, float] | None:
        """The slowest, the median and the fastest rate, of those that have one."""
        rates = sorted(node.rate for node in self.nodes if node.moving)
        return (rates[0], median(rates), rates[-1]) if rates else None

    @property
    def last(self) -> NodeStanding | None:
        """The node under way that has the fewest bytes."""
        return min(self.under_way, key=lambda node: node.offset, default=None)

    @property
    def heads(self) -> list[NodeStanding]:
        """The nodes whose bytes come from the origin."""
        return [node for node in self.nodes if node.leads]

    def seconds_left(self, node: NodeStanding) -> float | None:
        """Return how long a node will take, at its own rate, else at that of the others; None if nobody can tell."""
        rate = node.rate if node.moving else self.rates[1] if self.rates else 0.0
        return max(0, self.size - node.offset) / rate if self.size is not None and rate else None

    @property
    def left(self) -> float | None:
        """Seconds until all have it, None if nobody can tell."""
        known = [self.seconds_left(node) for node in self.under_way if node.state != "verifying"]
        return max((seconds for seconds in known if seconds is not None), default=None)

    def stragglers(self, now: float) -> list[NodeStanding]:
        """Return the nodes that failed, and those that keep the others waiting; the worst first."""
        usual = self.rates[1] if self.rates else 0.0
        idle = [node for node in self.under_way if node.state == "waiting" and not node.leads]
        most_wait = len(idle) > len(self.under_way) / 2
        slow = [node for node in self.under_way if node.moving and node.rate < STRAGGLES * usual]
        slow += [node for node in idle if not most_wait and now - node.since > LATE]
        failed = [node for node in self.nodes if node.state == "failed"]
        return failed + sorted(slow, key=lambda node: (node.offset, node.rate, node.node))


def is_job(scope: str, job: str) -> bool:
    """Whether a job's scope (`slurm-1234`) is what a person calls `job`, with or without its scheduler."""
    return bool(scope) and job in (scope, scope.partition("-")[2])


def read(answer: Answer, asked: Standing) -> Standing:
    """Return what a coordinator says of the staging that it was asked for."""
    found = answer.get("nodes")
    members = [_node(each) for each in (found if isinstance(found, list) else ())[:MOST_NODES] if _is_node(each)]
    size = answer.get("size")
    return replace(
        asked,
        reference=text(answer.get("reference")) or asked.reference,
        since=number(answer.get("since")),
        size=int(number(size, MAX_SIZE)) if size is not None else None,
        digest=_digest(answer.get("digest")),
        generation=int(number(answer.get("generation"))),
        nodes=tuple(_without_superseded(members)),
        doing=_doing(answer.get("doing")),
    )


def text(value: object, limit: int = 255) -> str:
    """Return a text that a terminal shows as it is: what others wrote may move its cursor, or worse."""
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else "?" for c in value[:limit])


def phase(value: object) -> str:
    """Return the word that says what is being done."""
    return text(value, 40).partition(" ")[0]


def layers(value: object) -> tuple[int, int] | None:
    """Return how many of a container image's layers are here, and of how many, if what is being done says so."""
    match = _LAYERS.search(text(value, 40))
    return (int(match[1]), int(match[2])) if match else None


def number(value: object, most: float = LONGEST_TIME) -> float:
    """Return a number that is not negative, 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0.0
    return float(value) if 0 <= value <= most else 0.0


def _is_node(value: object) -> bool:
    return isinstance(value, dict) and bool(text(value.get("node")))


def _doing(said: object) -> Doing | None:
    if not isinstance(said, dict) or not phase(said.get("phase")):
        return None
    done, total = (int(number(said.get(name), MAX_SIZE)) for name in ("done", "total"))
    return Doing(phase(said["phase"]), done, total, layers(said["phase"]))


def _node(said: Answer) -> NodeStanding:
    state, order = said.get("state"), said.get("order")
    return NodeStanding(
        node=text(said.get("node")),
        host=text(said.get("host")) or text(said.get("node")),
        state=str(state) if state in STATES else "waiting",
        offset=int(number(said.get("offset"), MAX_SIZE)),
        rate=number(said.get("rate")),
        upstream=text(said.get("upstream")),
        since=number(said.get("since")),
        scope=text(said.get("scope")),
        order=int(number(order)) if order is not None else None,
    )


def _without_superseded(nodes: list[NodeStanding]) -> list[NodeStanding]:
    """Leave out a failure on a host where somebody tries again, or succeeded."""
    well = {node.host for node in nodes if node.state != "failed"}
    return [node for node in nodes if node.state != "failed" or node.host not in well]


def _digest(value: object) -> str:
    digits = text(value).removeprefix("sha256:")
    return f"sha256:{digits}" if len(digits) == 64 and not set(digits) - set("0123456789abcdef") else ""
