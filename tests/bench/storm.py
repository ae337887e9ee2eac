"""All tasks of a job start at once on a node that has nothing: how long until the last one has run."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.ground import GREETING, published
from tests.bench.processes import Outputs
from tests.bench.samples import Goal, Sample, interleaved
from tests.bench.table import Row, show
from tests.bench.throughput import FETCHED, fetched
from tests.bench.warm import EXEC
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.bench.ground import Ground

COMMAND = ("/bin/sh", "-c", 'cat "$STAGE_IMAGE_ROOT/hello"')
GOAL = Goal(times=1.15, plus=0.5)


@dataclass(frozen=True)
class Storm:
    """One start: seconds until all were started, the image was published, the first had run, and all had ended.

    `cpu`: CPU seconds of all. `requests` and `sent`: GETs that the origin has seen, bytes that have left it.
    """

    started: float
    published: float
    first: float
    last: float
    cpu: float
    requests: int
    sent: int


def rows(ground: Ground) -> list[Row]:
    """Measure against one curl: from an origin of a shaped rate, and as fast as it goes."""
    image = ground.image(ground.scale.image)
    return [_row(ground, image, ground.scale.rate, GOAL), _row(ground, image, 0, None)]


def _row(ground: Ground, image: Path, rate: int, goal: Goal | None) -> Row:
    with Nginx(image.parent, rate=rate) as origin:
        url = origin.url(f"/{image.name}")
        curls, storms = interleaved(
            ground.scale.rounds, lambda: fetched(ground, FETCHED, url), lambda: _storm(ground, origin, url)
        )
    curl = Sample([one.seconds for one in curls])
    size, tasks = image.stat().st_size / 1e6, ground.scale.tasks
    speed = f"at {rate / 1e6:.0f} MB/s" if rate else "unshaped"
    return Row(
        what=f"{tasks} tasks on one empty node, until the last one has run; {size:.0f} MB {speed}",
        measured=Sample([one.last for one in storms]),
        against="one `curl -o`",
        reference=curl,
        goal=goal,
        obstacle=_obstacle(storms, curl.median),
        broken="" if all(one.requests == 1 for one in storms) else "more than one GET",
        notes=(
            f"curl got {size / curl.median:.1f} MB/s, and took {_median(one.cpu for one in curls)} of CPU",
            *_notes(storms, tasks),
        ),
    )


def _notes(storms: list[Storm], tasks: int) -> tuple[str, ...]:
    started, exists, first = (_median(getattr(s, name) for s in storms) for name in ("started", "published", "first"))
    cpu, each = _median(one.cpu for one in storms), _median(one.cpu / tasks for one in storms)
    gets = ", ".join(f"{one.requests} ({one.sent / 1e6:.0f} MB)" for one in storms)
    return (
        f"all started after {started}, image published after {exists}, first task run after {first}",
        f"all tasks together took {cpu} of CPU, {each} each",
        f"GETs at the origin, round by round: {gets}",
    )


def _obstacle(storms: list[Storm], curl: float) -> str:
    cores = os.cpu_count() or 1
    busy = Sample([one.cpu / cores for one in storms]).median
    return f"the tasks keep {cores} cores busy for {busy:.1f} s, which the download of {curl:.1f} s shares with them"


def _storm(ground: Ground, origin: Nginx, url: str) -> Storm:
    words = (ground.front, *EXEC, url, "--", *COMMAND)
    before = len(origin.log)
    with ground.job() as job, Outputs(ground.scale.tasks) as outputs:
        begun, date = time.perf_counter(), time.time()
        pids = [
            ground.launcher.start(words, {**job, "SLURM_LOCALID": str(rank)}, stdout=out)
            for rank, out in enumerate(outputs.files)
        ]
        started = time.perf_counter() - begun
        ended = [ground.launcher.wait(pid, begun) for pid in pids]
        ground.launcher.check(ended, words)
        outputs.check(lambda said: said == GREETING)
        exists, first = published(job["STAGE_IMAGE_STORE"]) - date, min(outputs.when()) - date
    requests = origin.logged(before + 1)[before:]
    last, cpu = max(one.seconds for one in ended), sum(one.cpu for one in ended)
    return Storm(started, exists, first, last, cpu, len(requests), sum(one.size for one in requests))


def _median(values: Iterable[float]) -> str:
    return show(Sample(list(values)).median, "s")
