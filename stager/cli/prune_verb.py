"""`stage-image prune`: evict unused images, longest unused first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from stager import collect
from stager.cli.node import Node
from stager.cli.node_records import make_known
from stager.cli.options import add_json, add_store, flags
from stager.cli.output import show_time, write, write_json
from stager.errors import UsageError
from stager.quantity import parse_duration, parse_size
from stager.store import room
from stager.store.blobs import Blobs, Spare
from stager.store.room import Evictable, show_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

Idle = TypeVar("Idle", Evictable, Spare)
"""What may go: it has a size and was used at some time."""

EPILOG = """\
  stage-image prune                      everything that nothing uses
  stage-image prune --max-size 100GiB    until all images together are no larger
  stage-image prune --max-age 30d        what has not been used for 30 days
  stage-image prune --min-free 50GiB     until so much is free on the store's file system
  stage-image prune --blobs              layers of container images only; images stay
Images in use are never evicted. Downloads that broke off, and nobody goes on with, go first, then the layers of
container images that are kept for the next image which shares them. Several conditions are met one after the other.
--dry-run only says what would go.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("--max-size", metavar="SIZE", help="keep at most so much, e.g. 100GiB")
    parser.add_argument("--max-age", metavar="TIME", help="keep what was used within, e.g. 30d or 12h")
    parser.add_argument("--min-free", metavar="SIZE", help="leave so much free on the file system, e.g. 50GiB")
    parser.add_argument("--blobs", action="store_true", help="only the layers of container images that nothing uses")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be evicted")
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Collect what the dead left, evict, and say what went."""
    limits = _limits(arguments)
    node = Node(flags(arguments))
    collect.Collector(node.layout, node.election, node.way_of, dry_run=arguments.dry_run).run()
    unfinished = 0 if arguments.blobs else _drop_unfinished(node, limits, dry_run=arguments.dry_run)
    surplus = _surplus(node, limits)
    layers = _oldest(Blobs(node.layout).spare(), limits, surplus)
    planned = sum(one.size for one in layers)
    chosen = [] if arguments.blobs else _oldest(room.evictable(node.layout), limits, surplus - planned)
    if not arguments.dry_run:
        layers = [one for one in layers if one.drop()]
        chosen = [image for image in chosen if collect.evict(node.layout, image.digest)]
        if chosen:
            make_known(node)
    _tell(arguments, chosen, layers, unfinished)
    return 0


def _tell(arguments: argparse.Namespace, chosen: list[Evictable], layers: list[Spare], unfinished: int) -> None:
    bytes_of_layers = sum(one.size for one in layers)
    freed = sum(image.size for image in chosen) + bytes_of_layers + unfinished
    if arguments.json:
        evicted = [{"digest": str(i.digest), "size": i.size, "last_used": i.last_used} for i in chosen]
        answer: dict[str, object] = {"evicted": evicted, "blobs": {"count": len(layers), "size": bytes_of_layers}}
        write_json(answer | {"unfinished": unfinished, "freed": freed, "dry_run": arguments.dry_run})
        return
    for image in chosen:
        write(f"{image.digest}  {show_bytes(image.size)}, last used {show_time(image.last_used)}")
    if layers:
        write(f"{len(layers)} layers of container images  {show_bytes(bytes_of_layers)}")
    write(f"{'would free' if arguments.dry_run else 'freed'} {show_bytes(freed)}")


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


def _oldest(idle: Sequence[Idle], limits: dict[str, float | None], surplus: float) -> list[Idle]:
    """Return those that are to go, of what is sorted by age: all, or as the limits have it."""
    if all(limit is None for limit in limits.values()):
        return list(idle)
    oldest = 0.0 if limits["max_age"] is None else time.time() - limits["max_age"]
    chosen = []
    for one in idle:
        if surplus > 0 or one.last_used < oldest:
            chosen.append(one)
            surplus -= one.size
    return chosen
