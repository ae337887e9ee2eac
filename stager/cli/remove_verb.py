"""`stage-image remove REF…`: remove images from the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager import collect, lease
from stager.cli.local import digest_of
from stager.cli.node import Node
from stager.cli.node_records import make_known
from stager.cli.options import add_json, add_platform, add_store, flags
from stager.cli.output import write_json
from stager.errors import InUse, NotStaged
from stager.store import images

if TYPE_CHECKING:
    import argparse

    from stager.reference import Digest

EPILOG = """\
An image that a job or session uses stays (exit code 79), unless --force; a mounted one stays in any case. The calling
job's or session's own lease does not count. The layers that a container image was made of stay, for others that share
them: `stage-image prune --blobs` removes those.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("references", metavar="REF", nargs="+", help="a reference, a digest, or the beginning of one")
    parser.add_argument("--force", action="store_true", help="also if it is in use (but not while mounted)")
    add_platform(parser)
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Remove each image. Raises NotStaged, InUse at the first that cannot be removed."""
    node = Node(flags(arguments))
    node.collector.run()
    chosen = [(text, _staged(node, text)) for text in arguments.references]
    removed: list[dict[str, object]] = []
    try:
        for text, digest in chosen:
            removed.append({"digest": str(digest), "freed": _remove(node, digest, text, force=arguments.force)})
    finally:
        if removed:
            make_known(node)
    if arguments.json:
        write_json(removed)
    return 0


def _staged(node: Node, text: str) -> Digest:
    digest = digest_of(node, text)
    if digest is None or digest not in set(images.digests(node.layout)):
        raise NotStaged("it is not staged here", reference=text)
    return digest


def _remove(node: Node, digest: Digest, text: str, *, force: bool) -> int:
    lease.release(node.layout.leases(digest), node.scope)
    freed = collect.evict(node.layout, digest, force=force)
    if digest in set(images.digests(node.layout)):
        users = sorted({user.scope for user in lease.living(node.layout.leases(digest))})
        raise InUse(f"it is used by {', '.join(users) or 'a mount'}", reference=text)
    return freed
