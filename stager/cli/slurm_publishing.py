"""What `slurm features` does: compares what the store holds with what Slurm knows, and tells it the difference."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager import report
from stager.cli.node import Node
from stager.layout import Layout
from stager.reference import Digest
from stager.schedulers import features, scontrol
from stager.store import folder, images

if TYPE_CHECKING:
    from collections.abc import Sequence


def publish(flags: dict[str, object], *, name: str, extra: bool, dry: bool) -> list[dict[str, object]]:
    """Tell Slurm, unless `dry`; return what has changed, for each of the names that Slurm has for this host, or `name`.

    Raises AccessDenied, NotStaged for a node that Slurm does not know, ClusterUnavailable, and what a store raises.
    """
    node = Node(flags)
    images_here, prefix = held_here(node), node.config.slurm_features_prefix
    held = _Held(len(images_here), known_as(node, images_here))
    names = (name,) if name else scontrol.names_here()
    return [_publish(each, held, prefix, with_extra=extra, dry=dry) for each in names]


def held_here(node: Node) -> list[Digest]:
    """Return the images that every job finds on this node: those of root's store used last, features.MOST at most."""
    layout = _layout(node)
    if layout is None:
        return []
    found = [images.lookup(layout, digest) for digest in images.digests(layout)]
    held = [image.digest for image in found if image is not None and not image.private]
    held.sort(key=lambda digest: images.last_used(layout, digest), reverse=True)
    return held[: features.MOST]


def known_as(node: Node, held: Sequence[Digest]) -> list[Digest]:
    """Return what Slurm is to be told of these images: their digests, and those of the manifests they are made of."""
    layout = _layout(node)
    made_of = report.manifests(layout) if layout is not None else {}
    manifests = [Digest(digits) for image in held for digits in sorted(made_of.get(image.hex, ()))]
    return list(dict.fromkeys((*held, *manifests)))[: features.MOST]


def _layout(node: Node) -> Layout | None:
    site = node.config.store
    if site and folder.is_shared_by_root(site):
        return Layout(site)
    return node.layout if os.path.isdir(node.root) else None


@dataclass(frozen=True, slots=True)
class _Held:
    """How many images are here, and by which digests Slurm is told of them."""

    images: int
    told: Sequence[Digest]


def _publish(name: str, held: _Held, prefix: str, *, with_extra: bool, dry: bool) -> dict[str, object]:
    known = scontrol.show_node(name)
    change = features.change(held.told, known.available, known.active, prefix)
    updates = list(change.updates) if change else []
    extra = features.merged(held.told, known.extra, prefix) if with_extra else None
    if extra is not None:
        updates.append((f"Extra={extra}",))
    for settings in () if dry else updates:
        scontrol.update_node(name, settings)
    return {
        "node": name,
        "images": held.images,
        "added": list(change.added) if change else [],
        "removed": list(change.removed) if change else [],
        "extra": extra is not None,
    }
