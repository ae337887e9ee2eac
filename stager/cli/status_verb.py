"""`stage-image status`: what is being staged, and how far each node is."""

from __future__ import annotations

import json
import os
import sys
import time
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from stager.cli import status_asking, status_local, status_table
from stager.cli.node import Node
from stager.cli.options import add_json, add_platform, add_store, flags
from stager.cli.output import write, write_json
from stager.cli.status_json import describe

if TYPE_CHECKING:
    import argparse

    from stager.election.zookeeper import ZooKeeperRendezvous
    from stager.reference import Reference
    from stager.standing import Standing

EPILOG = """\
In cluster scope, ZooKeeper is asked for your stagings (as root: for the site's), and the coordinator of each for its
nodes. Up to 16 nodes are shown one by one; of more, those that are slow, late or failed. Without a cluster, it shows
what is being staged on this node.
--watch ends when all nodes have what they wait for. Exit code 0 also if nothing is being staged, 85 if ZooKeeper
cannot be asked.
"""

WATCH_SECONDS = 2.0

CLEAR = "\x1b[H\x1b[2J"
"""Cursor to the top left, and the screen empty (ECMA-48: CUP, ED)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("reference", metavar="REF", nargs="?", help="only the staging of this reference")
    parser.add_argument("--job", metavar="ID", help="only nodes of this job, e.g. 1234 or slurm-1234")
    parser.add_argument(
        "--watch", action="store_true", help="show it again every 2 s, until nothing is staged any more"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show every node, however many there are")
    add_platform(parser)
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask, show; again and again with --watch. Raises ClusterUnavailable."""
    node = Node(flags(arguments))
    wanted = node.reference(arguments.reference) if arguments.reference else None
    view = ClusterView(node, wanted, arguments) if node.config.is_cluster else NodeView(node, wanted)
    try:
        while view.look() and arguments.watch:
            _show(view, arguments)
            time.sleep(WATCH_SECONDS)
        _show(view, arguments)
    finally:
        view.close()
    return 0


def _show(view: ClusterView | NodeView, arguments: argparse.Namespace) -> None:
    if arguments.json:
        # One line for each look: what reads along can tell where an answer ends.
        write(json.dumps(view.described)) if arguments.watch else write_json(view.described)
        return
    shown = view.lines()
    if not arguments.watch:
        write("\n".join(shown))
        return
    head = f"{time.strftime('%H:%M:%S')}, every {WATCH_SECONDS:g} s"
    if not sys.stdout.isatty():
        write("\n".join([head, *shown, ""]))
        return
    height = get_terminal_size().lines - 2
    more = [f"… and {len(shown) - height + 1} lines more"] if len(shown) > height else []
    write("\n".join([f"{CLEAR}{head}, Ctrl-C ends", *shown[: height - len(more)], *more]))


class ClusterView:
    """The stagings of the cluster that are asked for; `stagings` as of the last look."""

    def __init__(self, node: Node, wanted: Reference | None, arguments: argparse.Namespace) -> None:
        from stager.cli.clustering import owner

        self._node = node
        self._wanted = wanted
        self._job: str = arguments.job or ""
        self._verbose: bool = arguments.verbose
        self._owner = owner()
        self._met: ZooKeeperRendezvous | None = None
        self.stagings: list[Standing] = []

    def look(self) -> bool:
        """Ask; return whether anything is going on. Raises ClusterUnavailable."""
        records = status_asking.records(self._rendezvous().stagings())
        if self._wanted is not None:
            records = [record for record in records if record.key == self._wanted.cluster_key]
        found = status_asking.ask(records)
        if self._job:
            found = [each.of_job(self._job) for each in found]
            found = [each for each in found if each.nodes or each.problem]
        self.stagings = found
        return any(each.under_way or each.problem or not each.nodes for each in found)

    def lines(self) -> list[str]:
        """Return what to show to people."""
        width = get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 0
        blocks = ["\n".join(status_table.lines(each, width=width, verbose=self._verbose)) for each in self.stagings]
        name = self._node.config.cluster_name
        return "\n\n".join(blocks or [f"nothing is being staged in the cluster {name} by {self._owner}"]).split("\n")

    @property
    def described(self) -> list[dict[str, object]]:
        """What --json shows."""
        return [describe(each) for each in self.stagings]

    def close(self) -> None:
        """End the session."""
        if self._met is not None:
            self._met.close()

    def _rendezvous(self) -> ZooKeeperRendezvous:
        if self._met is None:
            from stager.cli.clustering import rendezvous

            self._met = rendezvous(self._node)
            self._met.connect()
        return self._met


class NodeView:
    """The stagings of this node; `stagings` as of the last look."""

    def __init__(self, node: Node, wanted: Reference | None) -> None:
        self._node = node
        self._wanted = wanted
        self.stagings: list[status_local.LocalStaging] = []

    def look(self) -> bool:
        """Read the notes; return whether anything is going on."""
        self.stagings = status_local.stagings(self._node, self._wanted)
        return bool(self.stagings)

    def lines(self) -> list[str]:
        """Return what to show to people."""
        host = os.uname().nodename
        if not self.stagings:
            return [f"nothing is being staged on this node, {host} (no cluster is configured)"]
        shown = [line for each in self.stagings for line in ("", *each.lines())]
        return [f"on this node, {host} (no cluster is configured):", *shown]

    @property
    def described(self) -> list[dict[str, object]]:
        """What --json shows."""
        return [each.describe() for each in self.stagings]

    def close(self) -> None:
        """Nothing is open."""
