"""`stage-image list`: what is staged, who uses it, how it is mounted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager import lease
from stager.cli.local import references
from stager.cli.node import Node
from stager.cli.options import add_json, add_store, flags
from stager.cli.output import show_time, write_json, write_table
from stager.mount import places
from stager.store import images
from stager.store.room import show_bytes

if TYPE_CHECKING:
    import argparse

EPILOG = """\
USED counts the jobs and sessions that lease the image or a mount of it; --json names them.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a table, or JSON."""
    node = Node(flags(arguments))
    rows = _rows(node)
    if arguments.json:
        write_json(rows)
        return 0
    table = [
        (
            str(row["digest"])[7:19],
            show_bytes(int(str(row["size"]))),
            str(row["format"]),
            show_time(float(str(row["last_used"]))),
            str(len(_list(row["scopes"]))),
            ",".join(str(kind) for kind in _list(row["mounts"])) or "-",
            ", ".join(str(text) for text in _list(row["references"])) or "-",
        )
        for row in rows
    ]
    write_table(("DIGEST", "SIZE", "FORMAT", "LAST USED", "USED", "MOUNTED", "REFERENCE"), table)
    return 0


def _rows(node: Node) -> list[dict[str, object]]:
    names = references(node)
    mounts = places(node.layout)
    rows: list[dict[str, object]] = []
    for digest in images.digests(node.layout):
        image = images.read_sidecar(node.layout, digest)
        mounted = {place.kind: place for place in mounts if place.digest == digest and place.mounted()}
        users = lease.living(node.layout.leases(digest))
        users += [user for place in mounted.values() for user in lease.living(place.users)]
        rows.append(
            {
                "digest": str(digest),
                "path": image.path if image else "",
                "size": image.size if image else 0,
                "format": image.info.format if image else "unknown",
                "origin": image.origin if image else "",
                "sound": images.lookup(node.layout, digest) is not None,
                "last_used": images.last_used(node.layout, digest),
                "scopes": sorted({user.scope for user in users}),
                "mounts": sorted(kind.partition("-")[0] for kind in mounted),
                "mountpoints": sorted(place.root for place in mounted.values()),
                "references": names.get(str(digest), []),
            }
        )
    return rows


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
