"""`stage-image prune`: evict unused images, longest unused first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stager import collect
from stager.cli.node import Node
from stager.cli.node_records import make_known
from stager.cli.options import add_json, add_store, flags
from stager.cli.output import show_time, write, write_json
from stager.errors import UsageError
from stager.quantity import parse_duration, parse_size
from stager.store import room
from stager.store.room import show_bytes

if TYPE_CHECKING:
    import argparse

    from stager.store.room import Evictable

EPILOG = """\
  stage-image prune                      everything that nothing uses
  stage-image prune --max-size 100GiB    until all images together are no larger
  stage-image prune --max-age 30d        what has not been used for 30 days
  stage-image prune --min-free 50GiB     until so much is free on the store's file system
Images in use are never evicted. Downloads that broke off, and nobody goes on with, go first. Several conditions are
met one after the other. --dry-run only says what would go.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("--max-size", metavar="SIZE", help="keep at most so much, e.g. 100GiB")
    parser.add_argument("--max-age", metavar="TIME", help="keep what was used within, e.g. 30d or 12h")
    parser.add_argument("--min-free", metavar="SIZE", help="leave so much free on the file system, e.g. 50GiB")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be evicted")
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Collect what the dead left, evict, and say what went."""
    limits = _limits(arguments)
    node = Node(flags(arguments))
    collect.Collector(node.layout, node.election, node.way_of, dry_run=arguments.dry_run).run()
    unfinished = _drop_unfinished(node, limits, dry_run=arguments.dry_run)
    chosen = _chosen(node, limits)
    if not arguments.dry_run:
        chosen = [image for image in chosen if collect.evict(node.layout, image.digest)]
        if chosen:
            make_known(node)
    freed = sum(image.size for image in chosen) + unfinished
    if arguments.json:
        evicted = [{"digest": str(i.digest), "size": i.size, "last_used": i.last_used} for i in chosen]
        write_json({"evicted": evicted, "unfinished": unfinished, "freed": freed, "dry_run": arguments.dry_run})
        return 0
    for image in chosen:
        write(f"{image.digest}  {show_bytes(image.size)}, last used {show_time(image.last_used)}")
    write(f"{'would free' if arguments.dry_run else 'freed'} {show_bytes(freed)}")
    return 0


def _limits(arguments: argparse.Namespace) -> dict[str, float | None]:
    parsers = {"max_size": parse_size, "min_free": parse_size, "max_age": parse_duration}
    limits: dict[str, float | None] = {}
    for name, parse in parsers.items():
        text = getattr(arguments, name)
        try:
            limits[name] = None if text is None else float(parse(text))
        except ValueError as error:
            raise UsageError(f"--{name.replace('_', '-')} {text}: {error}") from error
    return limits


def _drop_unfinished(node: Node, limits: dict[str, float | None], *, dry_run: bool) -> int:
    """Remove downloads that broke off and nobody goes on with, unless only age counts; return their bytes."""
    if limits["max_age"] is not None and limits["max_size"] is None and limits["min_free"] is None:
        return 0
    if any(limit is not None for limit in limits.values()) and _surplus(node, limits) <= 0:
        return 0
    return collect.drop_orphans(node.layout, dry_run=dry_run)


def _surplus(node: Node, limits: dict[str, float | None]) -> float:
    """Return the bytes by which the store is too large."""
    surplus = 0.0
    if limits["max_size"] is not None:
        surplus = room.total_size(node.layout) - limits["max_size"]
    if limits["min_free"] is not None:
        surplus = max(surplus, limits["min_free"] - room.free_bytes(node.layout.root))
    return surplus


def _chosen(node: Node, limits: dict[str, float | None]) -> list[Evictable]:
    idle = room.evictable(node.layout)
    if all(limit is None for limit in limits.values()):
        return idle
    surplus = _surplus(node, limits)
    oldest = 0.0 if limits["max_age"] is None else time.time() - limits["max_age"]
    chosen = []
    for image in idle:
        if surplus > 0 or image.last_used < oldest:
            chosen.append(image)
            surplus -= image.size
    return chosen
