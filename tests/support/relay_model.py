"""Nodes, links and time without any of them: the real coordinator decides, what it decides about is simulated.

Bytes move in grains: a node has a grain at the earliest one grain's time at its rate after the one before, and one hop
after its upstream has it. With grains of one chunk and a hop of one chunk's time, that is a chain of stores and
forwards; larger grains with the same hop give the same times for less work. A node that sends to several shares its
uplink among them, as far as each can take it. Reports, answers and connections take time, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from stager.coordinator import Coordinator
from stager.roster_messages import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MTU_1500 = 1.046
"""Bytes on the wire for each byte of the image: what one bare TCP stream took, of the time that the link allows."""

ORIGIN = "origin"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is simulated: `size` bytes, links of `rate` bytes/s of payload both ways, `hop` seconds to pass a chunk on.

    `told` is the time that a report or an answer takes, `connect` that of a new stream, until its first bytes.
    """

    nodes: int
    size: int
    rate: float
    hop: float
    grain: int = CHUNK
    origin_rate: float = 0.0
    told: float = 0.001
    connect: float = 0.005
    limit: float = 1000.0

    @property
    def grains(self) -> int:
        return -(-self.size // self.grain)

    @property
    def ideal(self) -> float:
        """Seconds that the bare links need for the image: what all measured times are multiples of."""
        return self.size / (self.rate * MTU_1500)


def setting(nodes: int, mbit: float, *, size: int = 256 << 20, chunk: int = CHUNK) -> Setting:
    """Return the setting of a measurement with links of `mbit` Mbit/s, where a hop was one chunk's time."""
    rate = mbit * 1e6 / 8 / MTU_1500
    return Setting(nodes=nodes, size=size, rate=rate, hop=chunk / rate, grain=2 << 20)


@dataclass(eq=False)
class Node:
    """One simulated node; `up` and `down` in bytes/s."""

    name: str
    order: int
    up: float
    down: float
    grains: int = 0
    upstream: str | None = None
    wanted: str | None = None
    lost: str | None = None
    alive: bool = True
    mute: bool = False
    joined: bool = False
    head: bool = False
    due: bool = False
    flight: int = 0
    """Counts the streams: what a stream that was given up would still bring is ignored."""
    busy: bool = False
    last: float = 0.0
    """When the last grain came, or the stream began."""
    finished: float | None = None
    error: dict[str, Any] | None = None
    dismissed: bool = False
    pulling: dict[str, Node] = field(default_factory=dict)


class Model:
    """A staging of `setting`, run by `run`; faults are what a test does to the nodes, by `at`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.coordinator = Coordinator("0" * 32, "https://origin/image", own="elsewhere")
        self.now = 0.0
        self.nodes = {f"n{i:04}": Node(f"n{i:04}", i, setting.rate, setting.rate) for i in range(setting.nodes)}
        self.origin = Node(ORIGIN, -1, setting.origin_rate or setting.rate, 0.0, grains=setting.grains)
        self.sent = 0
        """Grains that left the origin."""
        self.uploaded: dict[str, int] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._awaited: set[Node] = set()

    def node(self, number: int) -> Node:
        return self.nodes[f"n{number:04}"]

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Have something happen then."""
        self._count += 1
        heappush(self._events, (when, self._count, what))

    def run(self, joins: Sequence[float] = (), *, but: Sequence[int] = ()) -> float:
        """Let all nodes join (at 0 if not said otherwise); return when the last one has the image.

        Those that die, and `but`, are not waited for.
        """
        for number, node in enumerate(self.nodes.values()):
            self.at(joins[number] if joins else 0.0, lambda node=node: self._join(node))  # type: ignore[misc]
        self.at(0.05, self._tick)
        self._awaited = {node for node in self.nodes.values() if node.order not in but}
        while self._events and self.now < self.setting.limit and self._awaited:
            self.now, _, what = heappop(self._events)
            what()
        return self.last(*but)

    def last(self, *but: int) -> float:
        """Return when the last node had the image, apart from the dead and `but`; infinite if never."""
        counted = [n for n in self.nodes.values() if n.alive and not n.mute and n.order not in but]
        return max(n.finished if n.finished is not None else float("inf") for n in counted)

    # Faults.

    def kill(self, number: int) -> None:
        """SIGKILL: connections break at once, later ones are refused."""
        victim = self.node(number)
        victim.alive = False
        self._awaited.discard(victim)
        self._give_up(victim)
        for child in list(victim.pulling.values()):
            self._lose(child, "reset")

    def cut(self, number: int) -> None:
        """Take the cable away: silence both ways, and nobody is told."""
        victim = self.node(number)
        victim.mute = True
        self._awaited.discard(victim)
        self._give_up(victim)
        for child in victim.pulling.values():
            child.flight += 1
            child.busy = True

    def slow(self, number: int, factor: float) -> None:
        """Make both directions slower."""
        self.node(number).up /= factor
        self.node(number).down /= factor

    # Control.

    def _tick(self) -> None:
        self.coordinator.tick(self.now)
        self.at(self.now + 0.05, self._tick)

    def _ask(self, node: Node, verb: str, message: dict[str, Any]) -> None:
        def answered() -> None:
            if node.alive and not node.mute:
                answer = self.coordinator.answer(verb, message, self.now)
                self.at(self.now + self.setting.told, lambda: self._told(node, answer))

        self.at(self.now + self.setting.told, answered)

    def _join(self, node: Node) -> None:
        if node.alive and not node.mute:
            node.joined = True
            generation = self.coordinator.generation if node.grains else None
            told = {"node": node.name, "host": node.name, "address": f"10.0.0.1:{node.order + 1}", "order": node.order}
            held = {"offset": self._offset(node), "generation": generation, "version": None, "upstream": node.upstream}
            self._ask(node, "join", {**told, **held, "scope": "job", "since": 0.0})

    def _report(self, node: Node) -> None:
        node.due = False
        if not node.alive or node.mute or node.dismissed:
            return
        version = {"etag": "1", "modified": "", "size": self.setting.size, "origin": "o", "private": False}
        done = node.finished is not None
        starving = not done and node.upstream not in {None, ORIGIN} and not self._flows(node)
        report = {"node": node.name, "generation": self.coordinator.generation, "offset": self._offset(node)}
        link = {"silence": self.now - node.last if starving else 0.0, "upstream": node.upstream, "lost": node.lost}
        state = {"state": "done" if done else "receiving", "downstream": len(node.pulling)}
        said = "0" * 64 if done else None
        head = {"version": version, "digest": said, "root": said} if node.head else {}
        node.lost = None
        self._ask(node, "report", {**report, **link, **state, **head})

    def _told(self, node: Node, answer: dict[str, Any]) -> None:
        if not node.alive or node.mute:
            return
        if answer["unknown"]:
            self._join(node)
            return
        node.error, node.dismissed = answer["error"], answer["dismissed"]
        upstream = answer["upstream"]
        wanted = {"origin": ORIGIN, "node": upstream["node"], "wait": None, "keep": node.upstream}[upstream["kind"]]
        if wanted != node.upstream and node.finished is None and (wanted is None or wanted != node.wanted):
            self._connect(node, wanted)
        if not node.due:
            node.due = True
            self.at(self.now + answer["interval"], lambda: self._report(node))

    # Bytes.

    def _offset(self, node: Node) -> int:
        return min(node.grains * self.setting.grain, self.setting.size)

    def _source(self, node: Node) -> Node | None:
        return self.origin if node.upstream == ORIGIN else self.nodes.get(node.upstream or "")

    def _flows(self, node: Node) -> bool:
        """Whether bytes are on their way to the node."""
        source = self._source(node)
        return node.busy and source is not None and source.alive and not source.mute

    def _connect(self, node: Node, wanted: str | None) -> None:
        self._give_up(node)
        node.wanted = wanted
        source = self.origin if wanted == ORIGIN else self.nodes.get(wanted or "")
        flight = node.flight
        if source is not None:
            self.at(self.now + self.setting.connect, lambda: self._connected(node, source, flight))

    def _connected(self, node: Node, source: Node, flight: int) -> None:
        if node.flight != flight or not node.alive or node.mute:
            return
        node.upstream, node.wanted, node.last = source.name, None, self.now
        if not source.alive:
            self._lose(node, "refused")
            return
        source.pulling[node.name] = node
        node.head = node.head or source is self.origin
        node.busy = source.mute
        self._next(node)

    def _give_up(self, node: Node) -> None:
        source = self._source(node)
        if source is not None:
            source.pulling.pop(node.name, None)
        node.flight += 1
        node.upstream, node.wanted, node.busy, node.last = None, None, False, self.now

    def _lose(self, child: Node, how: str) -> None:
        above = child.upstream
        self._give_up(child)
        child.lost, child.upstream = how, above
        self._report(child)
        child.upstream = None

    def _next(self, node: Node) -> None:
        """Begin the next grain, if the upstream has it."""
        source = self._source(node)
        if source is None or node.busy or node.finished is not None or source.grains <= node.grains:
            return
        node.busy = True
        flight = node.flight
        ready = max(node.last + self.setting.grain / self._rate(node, source), self.now + self._hop(source))
        self.at(max(self.now, ready), lambda: self._arrived(node, source, flight))

    def _hop(self, source: Node) -> float:
        return 0.0 if source is self.origin else self.setting.hop

    def _rate(self, node: Node, source: Node) -> float:
        """Return the node's share of its upstream's uplink, which each one uses as far as it can."""
        left, busy = source.up, [n for n in source.pulling.values() if n.busy or n.grains < source.grains]
        takers = sorted(busy, key=lambda taker: taker.down)
        for waiting, taker in zip(range(len(takers), 0, -1), takers, strict=True):
            share = min(taker.down, left / waiting)
            if taker is node:
                return share
            left -= share
        return min(node.down, left)

    def _arrived(self, node: Node, source: Node, flight: int) -> None:
        if node.flight != flight:
            return
        node.grains += 1
        node.last, node.busy = self.now, False
        self.sent += source is self.origin
        self.uploaded[source.name] = self.uploaded.get(source.name, 0) + 1
        if node.grains == self.setting.grains:
            self._give_up(node)
            node.finished = self.now
            self._awaited.discard(node)
            self._report(node)
        else:
            self._next(node)
        for child in node.pulling.values():
            self._next(child)
