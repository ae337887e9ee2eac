"""`stage-image list`: what is staged, who uses it, how it is mounted; with --cluster, on which nodes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stager import lease
from stager.cli import layers_kept
from stager.cli.local import references
from stager.cli.node import Node
from stager.cli.options import add_json, add_store, flags
from stager.cli.output import show_time, write, write_json, write_table
from stager.errors import StageImageError
from stager.mount import places
from stager.store import images
from stager.store.room import show_bytes

if TYPE_CHECKING:
    import argparse

EPILOG = """\
USED counts the jobs and sessions that lease the image or a mount of it; --json names them.
The layers of container images that are kept, for the next image which shares them, are told in one line below, and
each of them by --blobs.
--cluster asks ZooKeeper which nodes hold which images: what each of them said last, about its 500 images used last.
"""

ON_MAX = 48
"""Characters of a list of nodes in a table; --json has all of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("--cluster", action="store_true", help="which nodes of the cluster hold which images")
    parser.add_argument("--blobs", action="store_true", help="the layers of container images that are kept")
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a table, or JSON."""
    node = Node(flags(arguments))
    if arguments.cluster:
        return _run_cluster(node, as_json=arguments.json)
    if arguments.blobs:
        return _run_blobs(node, as_json=arguments.json)
    rows = _rows(node)
    if arguments.json:
        write_json(rows)
    else:
        _print(rows, layers_kept.line(node.layout))
    return 0


def _run_blobs(node: Node, *, as_json: bool) -> int:
    if as_json:
        write_json(layers_kept.described(node.layout))
    else:
        write_table(layers_kept.HEAD, layers_kept.table(node.layout))
    return 0


def _print(rows: list[dict[str, object]], below: str) -> None:
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
    if below:
        write(below)


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


def _run_cluster(node: Node, *, as_json: bool) -> int:
    from stager.cli.node_records import read

    here, names = _known_here(node)
    rows = [_held(digest, hosts, here, names) for digest, hosts in read(node).items()]
    rows.sort(key=lambda row: (-len(_list(row["nodes"])), str(row["digest"])))
    if as_json:
        write_json(rows)
    elif not rows:
        write(f"no node of the cluster {node.config.cluster_name} has said that it holds an image")
    else:
        table = [
            (
                str(row["digest"])[7:19],
                str(len(_list(row["nodes"]))),
                "here" if row["here"] else "-",
                _shortened(str(row["folded"])),
                ", ".join(str(text) for text in _list(row["references"])) or "-",
            )
            for row in rows
        ]
        write_table(("DIGEST", "NODES", "HERE", "ON", "REFERENCE"), table)
    return 0


def _known_here(node: Node) -> tuple[set[str], dict[str, list[str]]]:
    """Return this node's digests, and what references meant; nothing where there is no store, and none is made."""
    if not os.path.isdir(node.root):
        return set(), {}
    try:
        return {str(digest) for digest in images.digests(node.layout)}, references(node)
    except StageImageError:
        return set(), {}


def _held(digest: str, hosts: list[str], here: set[str], names: dict[str, list[str]]) -> dict[str, object]:
    from stager.node_names import fold, is_name

    whole = f"sha256:{digest}"
    shown = [host for host in hosts if is_name(host)]
    return {
        "digest": whole,
        "nodes": shown,
        "folded": fold(shown),
        "here": whole in here,
        "references": names.get(whole, []),
    }


def _shortened(text: str) -> str:
    return text if len(text) <= ON_MAX else f"{text[: ON_MAX - 1].rpartition(',')[0] or text[: ON_MAX - 1]},…"


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
