"""Many nodes of one cluster, on the test bed: how near they come to what their links allow, and what a fault costs.

`python -m tests.bench.cluster [--quick] [--rounds N] [--slower N] [NAME …]` prints these rows alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from dataclasses import replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from tests.bench import cluster_run as run
from tests.bench import cluster_torrent
from tests.bench.cluster_run import Outcome, Size
from tests.bench.cluster_usage import Usage
from tests.bench.processes import Failed
from tests.bench.samples import Goal, Sample
from tests.bench.table import Row, Unmeasured, details, markdown
from tests.support.tasks import COMMAND, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.ground import Ground
    from tests.support.cluster.bed import Cluster

MIB = 1 << 20

FULL = Size(16, 200, 256 * MIB)
LARGE = Size(32, 120, 256 * MIB)
SMALL_FILE = 32 * MIB
"""For what takes as many times as long as there are nodes: the ratio is the same for all sizes."""
QUICK = Size(3, 100, 4 * MIB)
WHOLE, QUICKLY = (FULL, LARGE), (QUICK, QUICK)
ROUNDS = 3

SHARED = (
    "All nodes start their interpreters on this machine's few cores, each of which a real node would have to itself: "
    "the time from the origin's first byte is given besides."
)


def rows(ground: Ground) -> list[Row | Unmeasured]:
    """Measure everything with the installed command line."""
    quick = not ground.scale.installed
    return measured((ground.cli,), sizes=QUICKLY if quick else WHOLE, rounds=1 if quick else ROUNDS)


def measured(
    command: tuple[str, ...], *, sizes: tuple[Size, Size], rounds: int = ROUNDS, only: Sequence[str] = ()
) -> list[Row | Unmeasured]:
    """Measure these rows, all by default."""
    size, large = sizes
    stage = partial(run.staged, command=command)
    plan: dict[str, Callable[[], Row]] = {
        "healthy": lambda: _row(f"image on all of {size}", size, stage, 1.08, rounds),
        "large": lambda: _row(f"image on all of {large}", large, stage, 1.10, rounds),
        "killed": lambda: _row(
            "the same, one node killed half-way", size, partial(stage, fault=run.killed), 1.1, rounds
        ),
        "silent": lambda: _row(
            "the same, one node cut off half-way", size, partial(stage, fault=run.silent), 1.2, rounds
        ),
        "slow": lambda: _row("the same, one link ten times slower", size, partial(stage, fault=run.slow), 1.18, rounds),
        "origin": lambda: _row("every node from the origin by curl", _little(size), run.downloaded, None, 1),
        "torrent": lambda: _row("the same file by libtorrent, full mesh", size, torrent, None, 1),
    }
    return [_measured(name, make) for name, make in plan.items() if not only or name in only]


def torrent(size: Size) -> Outcome:
    """Share the file by libtorrent. Raises Failed."""
    if importlib.util.find_spec("libtorrent") is None:
        raise Failed("libtorrent is not installed")
    with run.cluster_of(size, zookeepers=0) as cluster, Usage(cluster.nodes) as usage:
        content = run.content_of(size.image)
        cluster.origin.put("bench.sqsh", content)
        seconds = _shared(cluster)
        egress = cluster.origin.host.sent / len(content)
        upload = max(node.sent for node in cluster.nodes) / len(content)
    return Outcome(seconds, seconds, egress, upload, median(usage.cpu()), max(usage.memory()), usage.busy)


def _shared(cluster: Cluster) -> float:
    folder = cluster.origin.host.folder
    described = str(folder / "torrent")
    cluster_torrent.describe(str(folder / "www" / "bench.sqsh"), described)
    program = (sys.executable, cluster_torrent.__file__)
    addresses = [cluster.switch.address(cluster.origin.host), *(node.address for node in cluster.nodes)]
    environ = {"PYTHONPATH": ":".join(sys.path)}
    seed = cluster.origin.host.start(*program, str(folder / "www"), described, "seed", env=environ)
    until(lambda: "done" in seed.out, "the seed")
    began = time.monotonic()
    peers = [
        node.start(*program, str(node.home), described, "leech", *addresses[: number + 1], env=environ)
        for number, node in enumerate(cluster.nodes)
    ]
    until(lambda: all("done" in peer.out for peer in peers), "all peers", 600)
    return time.monotonic() - began


def _row(what: str, size: Size, action: Callable[[Size], Outcome], goal: float | None, rounds: int) -> Row:
    outcomes = [action(size) for _ in range(rounds)]
    return Row(
        what=what,
        measured=Sample([outcome.seconds for outcome in outcomes]),
        against="size / rate of a link",
        reference=Sample([size.seconds]),
        goal=Goal(times=goal) if goal else None,
        obstacle=SHARED,
        notes=tuple(_note(number, outcome, size) for number, outcome in enumerate(outcomes, 1)),
    )


def _note(number: int, outcome: Outcome, size: Size) -> str:
    gigabytes = size.image / 1e9
    return (
        f"round {number}: from the origin's first byte {outcome.flowing / size.seconds:.3f}×; "
        f"the origin sent {outcome.egress:.3f}×, the busiest node {outcome.upload:.2f}×; "
        f"{outcome.cpu:.2f} CPU-s ({outcome.cpu / gigabytes:.1f} per GB) and at most {outcome.memory / MIB:.0f} MiB "
        f"on a node; this machine was busy to {outcome.busy:.0%}"
    )


def _little(size: Size) -> Size:
    return replace(size, image=min(size.image, SMALL_FILE))


def _measured(name: str, make: Callable[[], Row]) -> Row | Unmeasured:
    sys.stderr.write(f"bench: cluster: {name} …\n")
    try:
        return make()
    except Failed as error:
        return Unmeasured(name, str(error))


def main(arguments: list[str]) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="everything tiny, to see that it works; no numbers")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--slower", type=float, default=1, help="divide the rates, on a machine with other work")
    parser.add_argument("name", nargs="*", help="of healthy, large, killed, silent, slow, origin, torrent")
    asked = parser.parse_args(arguments)
    one, large = QUICKLY if asked.quick else WHOLE
    sizes = replace(one, rate=one.rate / asked.slower), replace(large, rate=large.rate / asked.slower)
    found = measured(COMMAND, sizes=sizes, rounds=asked.rounds, only=asked.name)
    sys.stdout.write(f"{markdown(found)}\n\n{details(found)}\n")
    return int(any(isinstance(row, Unmeasured) for row in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
