"""Telling qmaster which images this host has, at once, instead of waiting for a load sensor's next report.

By `qconf -mattr exechost complex_values`: seen after 26 ms where a sensor takes half a report interval (measured). Such
values win over a sensor's, each change is written to qmaster's disk, and they stay when the host dies; so it is for
sites that want it (`gridengine.push`), and root's stagings alone push: users may not change hosts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stager import report
from stager.errors import ClusterUnavailable, StageImageError
from stager.progress import write_line
from stager.schedulers import qconf, sensor
from stager.store import files

if TYPE_CHECKING:
    from stager.cli.node import Node

LOCK_SECONDS = 30.0
"""For another process of this host that is telling qmaster: with two qconf in flight the older might come last."""


def push(node: Node) -> None:
    """Tell qmaster, if the site wants it and something has changed since. Never raises: images are there without it."""
    if not node.config.gridengine_push or os.geteuid() != 0:
        return
    try:
        _push(node, again=False)
    except (StageImageError, OSError) as error:
        write_line(f"warning: Grid Engine was not told what this node holds now: {error}")


def push_now(node: Node) -> None:
    """Tell qmaster, whatever it was told before. Raises AccessDenied, ClusterUnavailable, StoreUnusable, OSError."""
    report.rebuild(node.layout, create=True)
    _push(node, again=True)


def _push(node: Node, *, again: bool) -> None:
    layout = node.layout
    if not os.path.lexists(layout.report):
        report.rebuild(layout, create=True)
    with report.locked(layout.lock("push"), LOCK_SECONDS) as is_ours:
        if not is_ours:
            raise ClusterUnavailable("another process is still telling it")
        values = sensor.named_values(name for name, _ in report.read(layout))
        told = ",".join(f"{name}={value}" for name, value in values.items())
        pushed = f"{layout.root}/report.pushed"
        if again or files.read_text(pushed) != told:
            qconf.ask("-mattr", "exechost", "complex_values", told, os.uname().nodename)
            files.write_text(pushed, told)
