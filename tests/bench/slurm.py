"""From `sbatch` to the tasks, on a real Slurm: with and without staging, warm and cold, and against `sbcast`.

`python -m tests.bench.slurm [--rounds N] [--nodes N] [--tasks N] [--mib N] [--rate MBIT]`. Every row is the same job,
on shaped links, the median of all rounds: seconds from the call of sbatch until the first and the last task has begun
with the image at hand, and how often the image has left its origin. Cold rows take an image that nobody has seen.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tests.support import capabilities
from tests.support.slurm import slurm
from tests.support.tasks import image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.slurm import Bed

ALIGNED = 4096
"""A loop device wants whole sectors."""

AT = re.compile(r"^at ([0-9.]+)$", re.MULTILINE)
SAY = "sh -c 'echo at $(date +%s.%N)'"
HEAD = ("the job", "first task, s", "last task, s", "images from the origin")


@dataclass(frozen=True)
class Shape:
    """What all jobs of a run have in common; `rate` in Mbit/s."""

    nodes: int
    tasks: int
    mib: int
    rate: float


@dataclass(frozen=True)
class Row:
    """One way to have the image. `options` and `body` of the job by the image's URL and file name."""

    name: str
    cold: bool
    options: Callable[[str], tuple[str, ...]]
    body: Callable[[str, str], str]


def _exec(url: str) -> str:
    return f"srun stage-image exec --runtime=none {url} -- {SAY}"


def _curl(url: str, name: str) -> str:
    return f"srun --ntasks=$SLURM_JOB_NUM_NODES --ntasks-per-node=1 curl -sS -o /var/tmp/{name} {url}; srun {SAY}"


ROWS = (
    Row("without any image", False, lambda _url: (), lambda _url, _name: f"srun {SAY}"),
    Row("Prolog, cold", True, lambda url: (f"--comment=stage-image={url}",), lambda _url, _name: f"srun {SAY}"),
    Row("Prolog, warm", False, lambda url: (f"--comment=stage-image={url}",), lambda _url, _name: f"srun {SAY}"),
    Row("`srun stage-image exec`, cold", True, lambda _url: (), lambda url, _name: _exec(url)),
    Row("`srun stage-image exec`, warm", False, lambda _url: (), lambda url, _name: _exec(url)),
    Row(
        "`sbcast`, then `srun`",
        True,
        lambda _url: (),
        lambda _url, name: f"sbcast -f {name} /var/tmp/{name}; srun {SAY}",
    ),
    Row("every node by `curl`, then `srun`", True, lambda _url: (), _curl),
)


class Run:
    """One cluster on which all rows are run."""

    def __init__(self, bed: Bed, shape: Shape) -> None:
        self._bed = bed
        self._shape = shape
        self._count = 0
        self._warm = self._new()

    def _new(self) -> tuple[str, str]:
        """Put an image at the origin that nobody has seen, and a copy where sbcast finds it; return URL and name."""
        self._count += 1
        name = f"tool-{self._count}.sqsh"
        content = image(self._shape.mib << 20, seed=self._count)
        content += bytes(-len(content) % ALIGNED)
        (self._bed.user.home / name).write_bytes(content)
        return self._bed.origin.put(name, content), name

    def measure(self, row: Row) -> tuple[float, float, float]:
        """Return seconds until the first and the last task, and how many images have left the origin."""
        url, name = self._new() if row.cold else self._warm
        bed, shape = self._bed, self._shape
        before = bed.origin.bytes_served
        began = time.time()
        script = f"#!/bin/sh\n{row.body(url, name)}\n"
        job = bed.sbatch(script, f"-N{shape.nodes}", f"--ntasks-per-node={shape.tasks}", *row.options(url))
        state = bed.await_job(job, patience=600)
        found = [float(text) for text in AT.findall(bed.output(job))]
        if state != "COMPLETED" or len(found) != shape.nodes * shape.tasks:
            raise RuntimeError(f"{row.name}: {state}\n{bed.output(job)}")
        sent = bed.origin.bytes_served - before
        (bed.user.home / name).unlink() if row.cold else None
        for node in bed.nodes:
            node.run("rm", "-f", f"/var/tmp/{name}")
        return min(found) - began, max(found) - began, sent / (shape.mib << 20)


def measured(shape: Shape, rounds: int) -> list[tuple[str, ...]]:
    """Return the rows of the table."""
    with tempfile.TemporaryDirectory(prefix="stage-image-bench-") as folder:
        site = {"cluster.linger": "1s", "slurm.budget": "5m"}
        with slurm(Path(folder), nodes=shape.nodes, hooks=True, zookeeper=True, site=site, rate=shape.rate) as bed:
            run = Run(bed, shape)
            for row in ROWS[1], ROWS[4]:
                run.measure(Row(row.name, False, row.options, row.body))  # what is warm has been there before
            found = {row.name: [run.measure(row) for _ in range(rounds)] for row in ROWS}
    return [
        (name, *(f"{median(each[column] for each in values):.2f}" for column in range(3)))
        for name, values in found.items()
    ]


def main(arguments: Sequence[str]) -> int:
    """Print the table; return 0 unless the machine cannot."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.slurm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--mib", type=int, default=128)
    parser.add_argument("--rate", type=float, default=400.0)
    asked = parser.parse_args(arguments)
    if lacking := capabilities.missing(["slurm", "zookeeper", "nginx"]):
        sys.stderr.write(f"bench: this machine lacks: {', '.join(lacking)}\n")
        return 2
    shape = Shape(asked.nodes, asked.tasks, asked.mib, asked.rate)
    rows = [HEAD, ("---", *("---:" for _ in HEAD[1:])), *measured(shape, asked.rounds)]
    sys.stdout.write("".join(f"| {' | '.join(row)} |\n" for row in rows))
    sys.stdout.write(f"\none link alone: {shape.mib * 8 * 1.048576 / shape.rate:.2f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
