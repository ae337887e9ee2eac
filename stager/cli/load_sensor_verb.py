"""`stage-image load-sensor`: tells Grid Engine which images this node holds, whenever it asks."""

from __future__ import annotations

import gc
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager import config, report
from stager.cli.options import add_store, flags
from stager.errors import StageImageError
from stager.layout import Layout
from stager.schedulers import sensor
from stager.schedulers.sensor_loop import Bounded, serve
from stager.schedulers.syslog import WARNING, Syslog
from stager.store import files, folder, memory, room

if TYPE_CHECKING:
    import argparse

EPILOG = """\
  echo | stage-image load-sensor                     what this node would say now

For execd, which starts sensors without arguments: through the script of that name, which goes on when this process
dies. The protocol is that of Grid Engine's load sensors: a line on stdin asks for a report, `quit` or the end of input
ends it, and nothing else does. Nothing is written to stderr. Private images are not told.
--push tells qmaster once instead, as the setting gridengine.push does at each staging and eviction.
"""

SECONDS = 1.0
"""For the store to answer. Three seconds are seen by users: jobs start later on such a host (measured)."""

REBUILD_SECONDS = 600.0
"""Between two looks at all images, for what a report cannot know: their order of use, writers that were killed."""

GC_OBJECTS = 700
"""Python's own threshold; the entry has raised it, for a process that ends soon."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a store holds now. `free` in bytes."""

    items: list[str]
    free: int
    busy: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("--push", action="store_true", help="tell qmaster by complex_values now, and end")
    add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Answer until nobody asks any more."""
    if arguments.push:
        from stager.cli.gridengine_push import push_now
        from stager.cli.node import Node

        push_now(Node(flags(arguments)))
        return 0
    _keep_quiet()
    loop = Sensor(flags(arguments), sensor.host_name(os.environ, os.uname().nodename))
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS)
    serve(loop.answer)
    return 0


def _keep_quiet() -> None:
    # Ctrl-C and the end of a terminal reach execd's children too, when it runs in the foreground.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)


class Sensor:
    """Answers for the store that `given` settings and the site's file name, which is looked up each time anew."""

    def __init__(self, given: dict[str, object], host: str) -> None:
        self._given = given
        self._host = host
        self._look = Bounded(lambda: look(given), SECONDS)
        self._rebuild = Bounded(lambda: refresh(given), SECONDS)
        self._rebuilt = time.monotonic()
        self._is_well: bool | None = None
        self._rebuild.start()

    def answer(self) -> str:
        """Return the report; that of a node without images while the store does not answer."""
        status = self._look.ask()
        self._tell(is_well=status is not None)
        status = status or Status([], 0, 0)
        if time.monotonic() >= self._rebuilt + REBUILD_SECONDS and self._rebuild.start():
            self._rebuilt = time.monotonic()
        return sensor.report(self._host, status.items, free=status.free, busy=status.busy)

    def _tell(self, *, is_well: bool) -> None:
        if is_well != self._is_well:
            self._is_well = is_well
            result = "ok" if is_well else "the store does not answer, or settings are wrong"
            severity = {} if is_well else {"severity": WARNING}
            Syslog().line(action="load-sensor", host=self._host, result=result, **severity)


def look(given: dict[str, object]) -> Status:
    """Return what the store holds: by its report, without any lock. Raises StageImageError, OSError."""
    layout = store(given)
    if not os.path.lexists(layout.report):
        refresh(given)  # the store has come to be since, or somebody has removed it
    items = [name for name, _ in report.read(layout)]
    return Status(items, room.free_bytes(_nearest(layout.root)), _stagings(layout))


def refresh(given: dict[str, object]) -> bool:
    """Write the store's report anew; made if the store is ours. Whether it is right now."""
    layout = store(given)
    if not os.path.lexists(f"{layout.root}/VERSION"):
        return False
    try:
        folder.check(layout)
    except StageImageError:
        return False  # somebody else's: then its owner keeps the report
    return report.rebuild(layout, create=True)


def store(given: dict[str, object]) -> Layout:
    """Return the store that jobs find on this node: the site's, which is root's, or else our own."""
    settings = config.load(os.environ, given)
    own = folder.default_root({}, os.geteuid())
    return Layout(os.path.abspath(settings.store or own))


def _nearest(path: str) -> str:
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _stagings(layout: Layout) -> int:
    locks = f"{layout.root}/locks"
    notes = (memory.read_leader(f"{locks}/{name}") for name in files.names(locks) if name.endswith(".leader"))
    return sum(1 for note in notes if note is not None and note.holder.alive)
