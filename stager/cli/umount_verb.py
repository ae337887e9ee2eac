"""`stage-image umount REF | --scope ID | --all`: end the use of mounts, and unmount what nobody else uses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from stager import lease
from stager.cli.local import digest_of
from stager.cli.node import Node
from stager.cli.options import add_json, add_platform, add_store, flags
from stager.cli.output import write_json
from stager.errors import InUse, UsageError
from stager.mount import places
from stager.progress import write_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from stager.mount import MountPlace

EPILOG = """\
  stage-image umount https://example.org/tool.sqsh     end this job's (or session's) use of it
  stage-image umount --scope slurm-1234                end all that a job uses here: mounts and leases
  stage-image umount --all --force                     unmount everything, whoever uses it

What another job still uses stays mounted. A busy mount is tried again for some seconds and then reported (exit code
79); --lazy detaches it: it vanishes from the tree at once, and from the kernel when the last user has gone.
Unmounting what is not mounted is no error.
"""

BUSY_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("reference", metavar="REF", nargs="?", help="a reference or digest")
    what.add_argument("--scope", metavar="ID", help="a job (slurm-1234) or session, as `list` shows them")
    what.add_argument("--all", action="store_true", help="every mount of this store")
    parser.add_argument("--force", action="store_true", help="also what other jobs still use")
    parser.add_argument("--lazy", action="store_true", help="detach what stays busy")
    add_platform(parser)
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Release, unmount, and say what stayed."""
    node = Node(flags(arguments))
    if arguments.scope is not None and not _is_scope(arguments.scope):
        raise UsageError(f"{arguments.scope!r} is not a scope", hint="`stage-image list --json` shows the scopes")
    found = _places(node, arguments)
    scope = arguments.scope or node.scope
    if not arguments.all:
        for place in found:
            lease.release(place.users, scope)
    if arguments.scope:
        _release_images(node, scope)
    unmounted: list[str] = []
    kept: list[str] = []
    busy: list[str] = []
    for place in found:
        try:
            closed = close(node, place, force=arguments.force, lazy=arguments.lazy)
            (unmounted if closed else kept).append(place.root)
        except InUse as error:
            busy.append(f"{place.root}: {error.message}")
    if arguments.json:
        write_json({"unmounted": unmounted, "in_use": kept, "busy": busy})
    if busy or (kept and arguments.all):
        raise InUse(
            f"still mounted: {'; '.join(busy + kept)}", hint="see `stage-image list`; --force and --lazy insist"
        )
    return 0


def _places(node: Node, arguments: argparse.Namespace) -> list[MountPlace]:
    if arguments.reference is None:
        return places(node.layout)
    digest = digest_of(node, arguments.reference)
    return [place for place in places(node.layout) if digest is not None and place.digest == digest]


def _is_scope(text: str) -> bool:
    return 0 < len(text) <= 100 and not text.startswith(".") and all(c.isalnum() or c in "._-" for c in text)


def _release_images(node: Node, scope: str) -> None:
    from stager.store import images

    for digest in images.digests(node.layout):
        lease.release(node.layout.leases(digest), scope)


def close(
    node: Node,
    place: MountPlace,
    *,
    force: bool = False,
    lazy: bool = False,
    patience: float = BUSY_SECONDS,
    say: Callable[[str], None] = write_line,
) -> bool:
    """Unmount unless leased, and tell whether it is gone.

    A busy mount is tried for `patience` seconds, then detached if `lazy`, and `say` told so; else InUse is raised.
    """
    give_up = time.monotonic() + patience
    while True:
        with node.election.lead(place.lock) as leads:
            if leads:
                try:
                    return place.close(node.way_of(place.kind), lazy=False, force=force)
                except InUse:
                    if time.monotonic() >= give_up and lazy:
                        say(f"{place.root} is busy, and detached: it goes when its last user does")
                        return place.close(node.way_of(place.kind), lazy=True, force=force)
                    if time.monotonic() >= give_up:
                        raise
            elif time.monotonic() >= give_up:
                raise InUse("another process is mounting or unmounting it")
        time.sleep(0.1)
