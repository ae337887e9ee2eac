"""What a thousand and ten thousand nodes would take: the coordinator's real rules, with what one machine can measure.

Measured here: a hop (a chunk through one node, the processes idle otherwise) and a report to the coordinator. The rest
is arithmetic, and the model of tests/support/relay_model.py, which the same coordinator decides for. Alone:
`python -m tests.bench.scaling`, with `--write` for the page.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from math import ceil, log2
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING

from stager.clock import SystemClock
from stager.coordinator import Coordinator
from stager.relay.control import Control
from stager.relay.holding import Holding
from stager.relay.secret import Guard, Secret
from stager.relay.server import Server
from stager.relay.upstream import Upstream
from stager.roster import INTERVAL, REPORTS
from stager.roster_messages import CHUNK
from stager.roster_shape import fan_of
from tests.support.relay_model import Model, Setting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "scaling.md"
BEGIN = "<!-- From here: written by `python -m tests.bench.scaling --write`. -->"
END = "<!-- To here. -->"

STAGING = "5ca1" * 8
SECRET = Secret(b"s" * 32)
HOPS = 8
CHUNKS = 60
PAUSE = 0.03
"""Seconds between two chunks of which hops are measured: nothing queues."""
ASKED = 3000

NODES = (1000, 10_000)
SIZES = (1, 10, 50)
LINKS = {"25 Gbit/s": 25e9 / 8, "100 Gbit/s": 100e9 / 8}
VERIFIED = 1e9
"""Bytes per second that one node receives, verifies, writes and sends: the goal; sha256 alone is 1.16 GB/s a core."""
GRAINS = 64
"""Pieces of an image in the model: hops are modelled apart."""
GIB = 1 << 30


@dataclass(frozen=True)
class Costs:
    """What was measured: seconds of a hop, CPU seconds of the coordinator for a report."""

    hop: float
    report: float


@dataclass(frozen=True)
class Case:
    """One line: so many nodes, an image of `size` bytes, links of `link` bytes/s."""

    nodes: int
    size: int
    link: float
    costs: Costs

    @property
    def rate(self) -> float:
        return min(self.link, VERIFIED)

    @property
    def hop(self) -> float:
        return CHUNK / self.rate + self.costs.hop

    @property
    def fan(self) -> int:
        return fan_of(self.nodes, self.size, self.rate)

    @property
    def depth(self) -> int:
        return self.nodes - 1 if self.fan == 1 else ceil(log2(self.nodes))

    @property
    def joined(self) -> float:
        """Seconds until the coordinator has answered everybody's first message."""
        return self.nodes * self.costs.report

    @property
    def streamed(self) -> float:
        """Seconds from the first byte at the head to the last at the last node."""
        return self.fan * self.size / self.rate + self.fan * self.depth * self.hop

    def simulated(self) -> float:
        """Return the same from the model, joins included."""
        how = Setting(
            nodes=self.nodes, size=self.size, rate=self.rate, hop=self.hop, grain=self.size // GRAINS, limit=1e5
        )
        joins = [number * self.costs.report for number in range(self.nodes)]
        Random(self.nodes).shuffle(joins)
        return Model(how).run(joins)


# What is measured.


def measure_hop() -> float:
    """Return the seconds that a chunk takes through one node, of a chain of HOPS of them."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, ExitStack() as stack:
        first = _holding(stack, folder, 0)
        os.ftruncate(first.data, CHUNKS * CHUNK)
        address = _serving(stack, first)
        arrived: dict[int, float] = {}

        def noted(verified: int) -> None:
            arrived[verified] = time.perf_counter()

        for number in range(1, HOPS + 1):
            holding = _holding(stack, folder, number)
            upstream = Upstream(
                address,
                staging=STAGING,
                generation=1,
                secret=SECRET,
                holding=holding,
                advance=noted if number == HOPS else _ignored,
            )
            address = _serving(stack, holding)
            upstream.start()
            stack.callback(upstream.stop)
        return median(_delays(first, arrived)) / HOPS


def _ignored(_: int) -> None:
    """Take no note of progress."""


def _delays(first: Holding, arrived: dict[int, float]) -> Iterator[float]:
    sha = sha256(bytes(CHUNK)).digest()
    for number in range(1, CHUNKS + 1):
        time.sleep(PAUSE)
        begun = time.perf_counter()
        first.append(sha, CHUNK)
        while number * CHUNK not in arrived:
            if time.perf_counter() - begun > 10:
                raise TimeoutError("a chunk did not arrive")
            time.sleep(0.001)
        yield arrived[number * CHUNK] - begun


def _holding(stack: ExitStack, folder: str, number: int) -> Holding:
    fd = os.open(f"{folder}/{number}", os.O_RDWR | os.O_CREAT, 0o600)
    holding = Holding(fd, staging=STAGING, generation=1, secret=SECRET, folder=folder)
    os.close(fd)
    holding.size = (CHUNKS + 1) * CHUNK
    stack.callback(holding.close)
    return holding


def _serving(stack: ExitStack, holding: Holding) -> str:
    server = Server("127.0.0.1", guard=Guard(SECRET, SystemClock()), log=_complained)
    server.start()
    stack.callback(server.close)
    server.offer(STAGING, 1, holding)
    return server.address


def _complained(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def measure_report() -> float:
    """Return the CPU seconds that the coordinator's process spends on a report: HTTP, proof, JSON and decision."""
    coordinator = Coordinator(STAGING, "https://origin/image")
    server = Server("127.0.0.1", guard=Guard(SECRET, SystemClock()), log=_complained)
    server.start()
    server.control(STAGING, lambda verb, message: coordinator.answer(verb, message, time.monotonic()))
    asking = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.scaling", "ask", server.address], stdout=subprocess.PIPE
    )
    try:
        assert asking.stdout is not None
        asking.stdout.readline()
        before = _cpu()
        asking.wait(120)
        return (_cpu() - before) / ASKED
    finally:
        asking.kill()
        asking.wait()
        server.close()


def ask(address: str) -> None:
    """Be a member that reports ASKED times; say so when it has joined."""
    control = Control(address, staging=STAGING, secret=SECRET, timeout=10)
    who = {"node": "n1/123", "host": "n1", "address": "10.0.0.1:7000", "order": 1, "scope": "slurm-1", "since": 1.0}
    control.ask("join", {**who, "offset": 0, "generation": None, "version": None})
    version = {"etag": "1", "modified": "", "size": GIB, "origin": "origin", "private": False}
    report = {"node": "n1/123", "generation": 1, "silence": 0.0, "upstream": "origin", "lost": None, "version": version}
    sys.stdout.write("joined\n")
    sys.stdout.flush()
    for number in range(ASKED):
        control.ask("report", {**report, "state": "receiving", "offset": number * CHUNK % GIB, "downstream": 1})
    control.close()


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# The page.

HEAD = "| nodes | image | link | one link alone | shape | last node | the model says | every node asks the origin |"
RULE = "|---:|---:|---:|---:|---|---:|---:|---:|"

COSTS_HEAD = "| nodes | a node reports every | coordinator's CPU for it | to answer all first messages |"
COSTS_RULE = "|---:|---:|---:|---:|"


def line(case: Case, name: str) -> str:
    """Return a row: what it takes, and what two other ways would."""
    alone, naive = case.size / case.link, case.nodes * case.size / case.link
    shape = "chain" if case.fan == 1 else "tree"
    times = [seconds(alone), shape, seconds(case.joined + case.streamed), seconds(case.simulated()), seconds(naive)]
    return f"| {case.nodes:,} | {case.size // GIB} GiB | {name} | {' | '.join(times)} |"


def costs_line(nodes: int, costs: Costs) -> str:
    """Return a row: what the coordinator has to do."""
    interval = max(INTERVAL, nodes / REPORTS)
    share = nodes / interval * costs.report
    return f"| {nodes:,} | {interval:g} s | {share:.0%} of a core | {seconds(nodes * costs.report)} |"


def seconds(value: float) -> str:
    """Return a time for people, with two digits that mean something."""
    if value >= 3600:
        return f"{value / 3600:.1f} h"
    return f"{value / 60:.0f} min" if value >= 600 else f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"


def table(costs: Costs) -> str:
    """Return what stands between the marks of the page."""
    cases = [(Case(n, s * GIB, link, costs), name) for n in NODES for s in SIZES for name, link in LINKS.items()]
    hop, report = f"{costs.hop * 1e3:.2f} ms", f"{costs.report * 1e6:.0f} µs"
    measured = f"Measured: {hop} for a chunk through one node, {report} of the coordinator's CPU for a report."
    rows = [HEAD, RULE, *(line(case, name) for case, name in cases)]
    loads = [COSTS_HEAD, COSTS_RULE, *(costs_line(nodes, costs) for nodes in (100, *NODES))]
    return "\n".join([measured, "", *rows, "", *loads])


def main(arguments: Sequence[str]) -> None:
    """Print the tables, and put them into the page if asked to."""
    if arguments[:1] == ["ask"]:
        ask(arguments[1])
        return
    text = table(Costs(hop=median(measure_hop() for _ in range(3)), report=median(measure_report() for _ in range(3))))
    sys.stdout.write(f"{text}\n")
    if "--write" in arguments:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
