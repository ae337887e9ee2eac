"""A job as a site's hook sees it: this node with the job's own lease, and what is told to its tasks."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from stager import lease
from stager.cli.node import Node
from stager.layout import Layout
from stager.process import current
from stager.schedulers import told
from stager.schedulers.registry import Registry
from stager.schedulers.syslog import INFO, WARNING, Syslog
from stager.schedulers.told import Told

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stager.errors import StageImageError
    from stager.interfaces import Teller
    from stager.lease import Lease
    from stager.reference import Reference
    from stager.schedulers.site import Hook

BEAT_SECONDS = 1.0
"""Between two signs of life to the tasks that wait; they give up after told.SILENT."""


class JobNode(Node):
    """This node, for one job, and not for the process that runs the hook."""

    def __init__(self, hook: Hook) -> None:
        if (rank := hook.node_rank) is not None:
            os.environ["SLURM_NODEID"] = str(rank)  # hooks are not told, and neighbours should be neighbours
        super().__init__({}, scope=hook.scope)
        self.hook = hook
        self.site = hook.site(self.config)
        self.registry = Registry(Layout(self.root))
        self.story: Story | None = None

    def teller(self, subject: str) -> Teller:
        """Return who tells the job's tasks."""
        return self.story or super().teller(subject)

    def lease(self, *, own: bool) -> Lease:
        """Return the lease of the job itself."""
        return lease.of_job(self.scope)

    def heed_hooks(self, reference: Reference, tell: Teller) -> None:
        """Nothing: this is the hook."""

    def tell_tasks(self, told_now: Told) -> None:
        """Tell the job's tasks how it stands: as root, for who else could be believed. Raises OSError."""
        if not os.geteuid():
            told.write(self.scope, told_now, self.hook.uid or 0)

    def log(self, action: str, error: StageImageError | None = None, **about: object) -> None:
        """Leave a line in the system's log."""
        log_line(self.hook.job, action, error, **about)


def log_line(job: str, action: str, error: StageImageError | None = None, **about: object) -> None:
    """Leave a line in the system's log of what was done for a job, and whether it went well."""
    result = f"error {error.exit_code}: {error.message}" if error is not None else "ok"
    Syslog().line(severity=INFO if error is None else WARNING, job=job, action=action, result=result, **about)


class Story:
    """What the tasks of a job are told while its images are staged.

    A Teller. It has no thread of its own, since a cluster's staging forks: whoever stages tells it twice a second how
    far it is, and that is its sign of life.
    """

    def __init__(self, references: Sequence[str], tell_tasks: Callable[[Told], None]) -> None:
        self._references = references
        self._tell_tasks = tell_tasks
        self._lines: list[str] = []
        self._moved = (0, 0)
        self._phase, self._since = "", monotonic()
        self._phases: dict[str, float] = {}
        self._written = 0.0
        self._lock = threading.Lock()
        self.said: list[str] = []

    def begin(self) -> None:
        """Tell that it is being staged, from now on."""
        self._write()

    def add(self, *lines: str) -> None:
        """Add lines for TaskProlog."""
        self._lines += lines

    def end(self, last: str) -> None:
        """Tell how it ended."""
        with self._lock:
            self._written = float("inf")
        self._tell_tasks(Told(self._lines, last))

    def parts(self) -> str:
        """Return how long each part took since this was last asked, for people."""
        self._turn("")
        spent = [f"{phase} {seconds:.1f} s" for phase, seconds in self._phases.items() if phase and seconds >= 0.05]
        self._phases = {}
        return ", ".join(spent)

    def say(self, text: str) -> None:
        """Keep one line that matters."""
        self.said.append(text)

    def waiting(self, pid: int, since: float) -> None:
        """Another process of this node is at it."""
        self.said.append(f"waiting for pid {pid}, which stages it for another job")

    def progress(self, phase: str, done: int, total: int) -> None:
        """Take in how far it is."""
        self._moved = (done, total)
        if phase != self._phase:
            self._turn(phase)
        with self._lock, suppress(OSError):  # a full /run is no reason to lose an image
            if monotonic() - self._written >= BEAT_SECONDS:
                self._write()

    def close(self) -> None:
        """Nothing: the story goes on with the next image."""

    def _turn(self, phase: str) -> None:
        now, part = monotonic(), self._phase.partition(" ")[0]  # of `pulling 3/8 layers of`, all is one part
        self._phases[part] = self._phases.get(part, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def _write(self) -> None:
        done, total = self._moved
        self._written = monotonic()
        self._tell_tasks(Told(self._lines, f"staging {current()} {done} {total} {' '.join(self._references)}"))
