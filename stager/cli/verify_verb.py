"""`stage-image verify`: hash images again; mend what can be mended, quarantine what is bad."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager import warm
from stager.cli.local import digest_of
from stager.cli.node import Node
from stager.cli.options import add_json, add_platform, add_store, flags
from stager.cli.output import write, write_json
from stager.errors import NotStaged, VerifyFailed
from stager.images import recognise
from stager.mount import places
from stager.store import images, repair
from stager.store.blobs import Blobs

if TYPE_CHECKING:
    import argparse

    from stager.reference import Digest

EPILOG = """\
Without a REF all images are read, at the speed of the disk. A bad image is moved to the store's quarantine/ and staged
again at its next use; a bad sidecar beside a sound image is written anew. The layers of container images that are kept
are read, too: bad ones are removed, to be fetched when they are needed. Exit code 84 if anything was bad.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("reference", metavar="REF", nargs="?", help="a reference or digest (default: all images)")
    add_platform(parser)
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Verify, and print a line for each image."""
    node = Node(flags(arguments))
    answers = [_verify(node, digest) for digest in _chosen(node, arguments.reference)]
    layers = [] if arguments.reference else _verify_layers(node)
    if arguments.json:
        write_json(answers + layers)
    else:
        for answer in answers:
            write(f"{answer['digest']}  {answer['found']}")
        for layer in layers:
            write(f"{layer['digest']}  {layer['found']} (a layer of container images)")
    bad = [answer for answer in answers if not answer["sound"]]
    if bad:
        raise VerifyFailed(f"{len(bad)} of {len(answers)} images were bad and are now in {node.layout.root}/quarantine")
    bad = [layer for layer in layers if not layer["sound"]]
    if bad:
        raise VerifyFailed(
            f"{len(bad)} of {len(layers)} layers of container images were bad and have been removed",
            hint="nothing: an image that needs one fetches it again",
        )
    return 0


def _verify_layers(node: Node) -> list[dict[str, object]]:
    blobs = Blobs(node.layout)
    found = [(str(blob.digest), blobs.verify(blob)) for blob in blobs.all()]
    return [{"digest": digest, "sound": not why, "found": why or "sound", "blob": True} for digest, why in found]


def _detach(node: Node, digest: Digest) -> str:
    # Whoever has files open keeps them; nobody opens another one of a bad image, nor finds it mounted later.
    bad = [place for place in places(node.layout) if place.digest == digest]
    closed = [place for place in bad if place.close(node.way_of(place.kind), lazy=True, force=True)]
    return f"; {len(closed)} mounts of it detached" if closed else ""


def _chosen(node: Node, text: str | None) -> list[Digest]:
    if text is None:
        return list(images.digests(node.layout))
    digest = digest_of(node, text)
    if digest is None or digest not in set(images.digests(node.layout)):
        raise NotStaged("it is not staged here", reference=text)
    return [digest]


def _verify(node: Node, digest: Digest) -> dict[str, object]:
    image, found = repair.verify(node.layout, digest, recognise)
    if image is None:
        warm.forget(node.layout, str(digest))
        found += _detach(node, digest)
    return {"digest": str(digest), "sound": image is not None, "found": found}
