"""Waiters who are let go: how long after the image exists the last of them has it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.ground import MIB, published
from tests.bench.processes import Failed, Outputs, cpu_of, holders
from tests.bench.samples import Goal, Sample, interleaved
from tests.bench.table import Row, show
from tests.bench.warm import EXEC
from tests.support.origin import Fault, Origin, Stall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.bench.ground import Ground
    from tests.bench.processes import Command

GOAL = Goal(plus=0.1)
PATIENCE = 300.0
DATE = ("/bin/date", "+%s.%N")
"""Prints the time; the lightest program that everybody has which prints anything."""


@dataclass(frozen=True)
class Release:
    """Seconds from the image's publication to the answers of its leader and of each waiter.

    `waiting` and `release` are the CPU seconds of all waiters: until the last one waited, and from then on.
    """

    leader: float
    waiters: Sequence[float]
    waiting: float
    release: float


def rows(ground: Ground) -> list[Row]:
    """Measure with few and many waiters, and those who are to run a command against shells that only run it."""
    found = []
    for count in ground.scale.waiters:
        paths, commands, shells = interleaved(
            ground.scale.rounds,
            lambda count=count: _release(ground, count, ()),  # type: ignore[misc]
            lambda count=count: _release(ground, count, DATE),  # type: ignore[misc]
            lambda count=count: _shells(ground, count),  # type: ignore[misc]
        )
        what = f"the last of {count} waiters"
        found += [
            Row(
                what=f"{what} has the path, after publish",
                measured=_last(paths),
                goal=GOAL,
                notes=_notes(paths),
                obstacle=_obstacle(paths),
            ),
            Row(
                what=f"{what} has begun its command on the mounted image, after publish",
                measured=_last(commands),
                against=f"{count} shells that wait for a FIFO and do the same",
                reference=_last(shells),
                goal=GOAL,
                obstacle=_obstacle(commands),
                notes=(*_notes(commands), f"CPU of a shell from its release to its end: {_release_of(shells)}"),
            ),
        ]
    return found


def _last(releases: list[Release]) -> Sample:
    return Sample([max(one.waiters) for one in releases])


def _obstacle(releases: list[Release]) -> str:
    cores = os.cpu_count() or 1
    least = Sample([one.release / cores for one in releases]).median
    return f"what {len(releases[0].waiters)} waiters do from their release on takes {show(least, 's')} of {cores} cores"


def _release_of(releases: list[Release]) -> str:
    return show(Sample([one.release / len(one.waiters) for one in releases]).median, "s")


def _notes(releases: list[Release]) -> tuple[str, ...]:
    leader = Sample([one.leader for one in releases]).median
    middle = Sample([Sample(one.waiters).median for one in releases]).median
    count = len(releases[0].waiters)
    waiting = Sample([one.waiting for one in releases]).median / count
    release = Sample([one.release for one in releases]).median / count
    return (
        f"the leader itself has it after {show(leader, 's')}, half of the waiters after {show(middle, 's')}",
        f"CPU of a waiter: {show(waiting, 's')} until it waits, {show(release, 's')} from its release to its end",
    )


def _release(ground: Ground, count: int, command: Command) -> Release:
    """Hold the leader's download back half-way until all others wait for it, then let it go."""
    image = ground.image(MIB)
    stall = Stall(at=image.stat().st_size // 2)
    with Origin() as origin, ground.job() as job, Outputs(count + 1) as outputs:
        url = origin.put("/image.sqsh", image, Fault(stall=stall))
        words = (ground.front, *EXEC, url, "--", *command) if command else (ground.front, url)
        begun = time.perf_counter()
        start = (
            ground.launcher.start(words, {**job, "SLURM_LOCALID": str(rank)}, stdout=out)
            for rank, out in enumerate(outputs.files)
        )
        leader = next(start)
        _until(stall.reached.is_set, "the leader to download")
        waiters = list(start)
        _until(lambda: holders(waiters, ".wake") == count, f"{count} tasks to wait")
        waiting = cpu_of(waiters)
        stall.go.set()
        ended = [ground.launcher.wait(pid, begun) for pid in (leader, *waiters)]
        ground.launcher.check(ended, words)
        outputs.check(_is_date if command else _is_path)
        since = published(job["STAGE_IMAGE_STORE"])
        first, *others = (when - since for when in _moments(outputs, printed=bool(command)))
    return Release(first, others, waiting, sum(one.cpu for one in ended[1:]) - waiting)


def _shells(ground: Ground, count: int) -> Release:
    """Do with shells what waiters do at the least: wake, and become the command."""
    fifo = str(ground.folder / "fifo")
    os.mkfifo(fifo)
    keeper = os.open(fifo, os.O_RDWR | os.O_CLOEXEC)
    script = f"read -r _ <{fifo}; exec {' '.join(DATE)}"
    try:
        with Outputs(count) as outputs:
            begun = time.perf_counter()
            pids = [ground.launcher.start(("/bin/sh", "-c", script), stdout=out) for out in outputs.files]
            _until(lambda: holders(pids, "/fifo") == count, f"{count} shells to wait")
            waiting = cpu_of(pids)
            released = time.time()
            os.close(keeper)
            keeper = -1
            ended = [ground.launcher.wait(pid, begun) for pid in pids]
            delays = [when - released for when in _moments(outputs, printed=True)]
            return Release(0.0, delays, waiting, sum(one.cpu for one in ended) - waiting)
    finally:
        if keeper >= 0:
            os.close(keeper)
        os.unlink(fifo)


def _moments(outputs: Outputs, *, printed: bool) -> Iterator[float]:
    """Yield when each had its answer: as it says itself, or as its output tells."""
    return (float(said) for said in outputs.said()) if printed else iter(outputs.when())


def _is_path(said: bytes) -> bool:
    return os.path.isfile(said.rstrip(b"\n"))


def _is_date(said: bytes) -> bool:
    return said.strip().replace(b".", b"", 1).isdigit()


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.02)
