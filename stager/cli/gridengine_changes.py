"""What `gridengine setup` changes: each object of Grid Engine's as it is and as it is to be."""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import unified_diff
from time import monotonic, sleep
from typing import TYPE_CHECKING

from stager.errors import InUse, UsageError
from stager.schedulers import gridengine_setup as texts
from stager.schedulers import qconf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPORT_SECONDS = 60.0
"""Longer than the 40 s between two reports of a host (load_report_time, sge_conf(5))."""


@dataclass(frozen=True, slots=True)
class Change:
    """One object of Grid Engine's, as it is and as it is to be; `make` tells qmaster."""

    title: str
    before: str
    after: str
    make: Callable[[], object]

    @property
    def diff(self) -> str:
        """What differs, as lines with `-` and `+`."""
        before, after = self.before.splitlines(), self.after.splitlines()
        return "\n".join(unified_diff(before, after, self.title, self.title, n=0, lineterm=""))


class Setup:
    """What is to be done. `notes` is what people should know of; it grows while `changes` are gone through."""

    def __init__(self, hooks: str, parts: tuple[str, ...], user: str, queues: list[str], *, undo: bool) -> None:
        self._hooks, self._parts, self._queues, self._undo = hooks, parts, queues, undo
        self._configuration, self._starter = texts.wanted(hooks, parts=parts, user=user, undo=undo)
        self.notes: list[str] = []

    def check_scripts(self) -> None:
        """Raise UsageError unless the scripts are here: a queue whose prolog cannot be started is disabled."""
        for each in (*self._configuration, *self._starter):
            if not os.access(each.path, os.X_OK):
                raise UsageError(
                    f"{each.path} cannot be started", hint="install the scripts on all hosts, or say where: --hooks DIR"
                )

    def changes(self) -> Iterator[Change]:
        """Yield each object, in the order in which Grid Engine takes them: complexes first, or last when undone."""
        steps = [self._complexes, self._global, self._starters]
        for step in reversed([*steps, self._hosts]) if self._undo else steps:
            yield from step()

    def _complexes(self) -> Iterator[Change]:
        if "complexes" in self._parts:
            before = qconf.ask("-sc")
            after = texts.complexes(before, undo=self._undo)
            yield Change("complexes", before, after, lambda: _patiently(after))

    def _global(self) -> Iterator[Change]:
        if self._configuration:
            before = qconf.ask("-sconf", "global")
            after, notes = texts.settings(before, self._configuration)
            self.notes += [f"in the global configuration, {note}" for note in notes]
            yield Change("global configuration", before, after, lambda: qconf.change("-Mconf", after, "global"))

    def _starters(self) -> Iterator[Change]:
        names = (self._queues or qconf.ask("-sql").split()) if self._starter else []
        for name in names:
            before = qconf.ask("-sq", name)
            after, notes = texts.settings(before, self._starter)
            self.notes += [f"in queue {name}, {note}" for note in notes]
            self.notes += self._own_hooks(name, before)
            yield Change(f"queue {name}", before, after, _modified(name, after))

    def _own_hooks(self, name: str, text: str) -> list[str]:
        rows = dict(line.split(None, 1) for line in text.splitlines() if len(line.split(None, 1)) == 2)
        own = {hook: rows.get(hook, "NONE").strip() for hook in ("prolog", "epilog")} if not self._undo else {}
        return [
            f"queue {name} has its own {hook}, {value}, which runs instead of the global one"
            for hook, value in own.items()
            if value not in texts.NOTHING and self._hooks not in value
        ]

    def _hosts(self) -> Iterator[Change]:
        """What hosts have pushed: a complex cannot be removed while a host has a value for it."""
        for host in qconf.ask("-sel").split():
            before = qconf.ask("-se", host)
            pushed = texts.pushed(before)
            if pushed:
                after = texts.without(before, pushed)
                yield Change(f"host {host}", before, after, _dropped(host, pushed))


def _patiently(complexes: str) -> None:
    """Give qmaster its complexes, once no host's report has a value any more for one that is to go. Raises InUse."""
    give_up = monotonic() + REPORT_SECONDS
    while True:
        try:
            return qconf.change("-Mc", complexes, "complexes")
        except InUse:
            if monotonic() > give_up:
                raise
        sleep(0.5)


def _modified(name: str, text: str) -> Callable[[], object]:
    return lambda: qconf.change("-Mq", text, name)


def _dropped(host: str, names: list[str]) -> Callable[[], object]:
    return lambda: [qconf.ask("-dattr", "exechost", "complex_values", name, host) for name in names]
