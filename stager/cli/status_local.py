"""What is being staged on this node alone, by the notes that its leaders leave for those who wait."""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from stager import standing
from stager.cli.status_table import show_share
from stager.layout import Layout
from stager.store import files
from stager.store.memory import read_leader
from stager.store.room import show_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.cli.node import Node
    from stager.reference import Reference

_NOTE = re.compile(r"([0-9a-f]{64})\.leader")


@dataclass(frozen=True, slots=True)
class LocalStaging:
    """A staging whose leader lives. `offset` and `size` in bytes, 0 where unknown; `since` in wall-clock seconds."""

    reference: str
    key: str
    store: str
    pid: int
    phase: str
    since: float
    offset: int
    size: int
    layers: tuple[int, int] | None = None
    """Of a container image, while they are pulled: how many are here, and how many there are."""

    def describe(self) -> dict[str, object]:
        """Return it for --json."""
        here = {"done": self.layers[0], "total": self.layers[1]} if self.layers else None
        known = {**asdict(self), "size": self.size or None, "layers": here}
        return {"scope": "node", "host": os.uname().nodename, **known}

    def lines(self) -> Iterator[str]:
        """Yield what there is to say."""
        done = show_bytes(self.offset)
        if self.size:
            done += f" of {show_bytes(self.size)} ({show_share(self.offset, self.size)})"
        begun = time.strftime("%H:%M:%S", time.localtime(self.since))
        yield self.reference or f"an image that was never staged here before ({self.key[:12]})"
        layers = f", {self.layers[0]} of {self.layers[1]} layers" if self.layers else ""
        yield f"  {self.phase}, {done}{layers}, by pid {self.pid} since {begun}"


def stagings(node: Node, wanted: Reference | None) -> list[LocalStaging]:
    """Return what is being staged now, the oldest first. Makes no store."""
    layouts = [Layout(node.root), *node.tiers]
    found = [each for layout in layouts for each in _of_store(layout, wanted)]
    return sorted(found, key=lambda each: each.since)


def _of_store(layout: Layout, wanted: Reference | None) -> Iterator[LocalStaging]:
    for name in files.names(f"{layout.root}/locks"):
        match = _NOTE.fullmatch(name)
        note = read_leader(f"{layout.root}/locks/{name}") if match else None
        if match is None or note is None or not note.holder.alive or (wanted and wanted.key != match[1]):
            continue
        seen = (files.read_record(layout.reference_record(match[1])) or {}).get("reference", "")
        yield LocalStaging(
            reference=wanted.shown if wanted else standing.text(seen, 4096),
            key=match[1],
            store=layout.root,
            pid=note.holder.pid,
            phase=standing.phase(note.phase),
            layers=standing.layers(note.phase),
            since=note.since,
            offset=note.done,
            size=note.total,
        )
