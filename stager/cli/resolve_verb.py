"""`stage-image resolve REF`: which image a reference means now, as a reference that will always mean that one."""

from __future__ import annotations

import argparse
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from stager.cli.node import Node
from stager.cli.obtain import obtain
from stager.cli.options import REFERENCE, SETTINGS, add_json, add_platform, add_store, flags
from stager.cli.output import write, write_json
from stager.errors import InvalidReference, OriginUnavailable, StageImageError
from stager.interfaces import Validators
from stager.reference import ON_DISK, REGISTRIES
from stager.store import memory

if TYPE_CHECKING:
    from stager.reference import Digest, Reference
    from stager.store.memory import Seen

EPILOG = """\
  stage-image resolve https://example.org/tool.sif      https://example.org/tool.sif@sha256:…

Whoever is given the answer uses exactly that image, whatever the reference comes to mean later. The origin is always
asked. It may say the digest itself, by a Repr-Digest or Digest header; or that it still has the image that was known
here; if it says neither, the image is staged here. A file is read where it lies. A registry is asked for the manifest,
whose digest then stands behind the tag: docker://ubuntu:22.04 becomes docker://docker.io/library/ubuntu:22.04@sha256:…
--json also says which it was: pinned, declared, known, staged, hashed or registry. What oci:, oci-archive: and
docker-archive: mean cannot be said in that way: it is whatever lies there.
"""

MOVING = "moving"
"""How images on disk are resolved: not at all."""


class Resolved:
    """`reference` always means the same, unless `how` is MOVING.

    Else `how` is how it was found: pinned, declared, known, staged, hashed or registry.
    """

    def __init__(self, reference: Reference, how: str) -> None:
        self.reference = reference
        self.how = how

    @property
    def digest(self) -> str:
        """What it is pinned to: of a registry's image the digest of a manifest or index, else of the file."""
        if self.how == MOVING:
            return ""
        _, at, digest = str(self.reference).rpartition("@")
        return digest if at else f"sha256:{digest.rpartition('sha256.')[2]}"  # a library's tag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("reference", metavar="REF", help=REFERENCE)
    add_store(parser)
    add_platform(parser)
    parser.add_argument("--offline", metavar="HOW", help="use a known image when the origin is away: allow or refuse")
    parser.add_argument("--retry", action="store_true", help="try again at once what has just failed")
    parser.add_argument("--deadline", metavar="TIME", help="give up after so long without progress, e.g. 5m")
    parser.add_argument("--stall-timeout", metavar="TIME", help="reconnect after so long without a byte, e.g. 60s")
    parser.add_argument("--connections", metavar="N", help="connections to the origin at a time, where more pay")
    parser.add_argument("--progress", metavar="HOW", help="auto, bar, lines or none")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the reference with its pin. Raises InvalidReference for what cannot have one, and as `resolve`."""
    found = resolve(arguments)
    if found.how == MOVING:
        raise InvalidReference(
            "nothing pins what lies on a disk as layers",
            reference=found.reference.shown,
            hint="stage it, and pin the file: `stage-image REF` prints its path",
        )
    if arguments.json:
        write_json({"reference": str(found.reference), "digest": found.digest, "how": found.how})
    else:
        write(str(found.reference))
    return 0


def resolve_text(text: str) -> Resolved:
    """Return what `text` means now, by the settings alone. Raises as `resolve`."""
    return resolve(argparse.Namespace(reference=text, retry=False))


def resolve(arguments: argparse.Namespace) -> Resolved:
    """Return what `arguments.reference` means now. Raises StageImageError, with the reference filled in."""
    node = Node(flags(arguments))
    reference = node.reference(arguments.reference)
    if reference.digest is not None or reference.is_immutable:
        return Resolved(reference, "pinned")
    if reference.scheme in ON_DISK:
        return Resolved(reference, MOVING)
    try:
        if reference.scheme in REGISTRIES:
            return Resolved(*_of_registry(node, reference))
        digest, how = _of_file(node, reference) if reference.scheme == "file" else _of_url(node, reference, arguments)
    except StageImageError as error:
        error.reference = error.reference or reference.shown
        raise
    return Resolved(reference.with_digest(digest), how)


def _of_registry(node: Node, reference: Reference) -> tuple[Reference, str]:
    """Return the reference with the digest of what its tag names now: an index, if there is one, for all platforms.

    If nobody can be asked, of what it named when it was last staged here; the second is `registry` or `known`.
    """
    from stager.cli import registries
    from stager.cli.fetching import say_wait
    from stager.fetch import BRIEF_ATTEMPTS, BRIEF_SECONDS
    from stager.reference import parse
    from stager.retry import RetryPolicy, retrying

    tell = node.teller(reference.name)
    origin = registries.container_origin(node, reference)
    seen = _seen(node, reference) if node.config.offline == "allow" else None
    known = seen.etag if seen is not None and seen.etag.startswith("sha256:") else ""
    brief = RetryPolicy(attempts=BRIEF_ATTEMPTS, deadline=BRIEF_SECONDS)
    try:
        manifest = retrying(
            origin.manifest,
            policy=brief if known else RetryPolicy(deadline=node.config.deadline),
            clock=node.clock,
            on_wait=lambda error, seconds: say_wait(tell, error, seconds),
        )
    except OriginUnavailable as error:
        if not known:
            raise
        tell.say(f"{error.message}; taking what it was when last staged here")
        manifest = None
    finally:
        tell.close()
    if manifest is None and not known:
        raise OriginUnavailable(f"{origin.name} gave no answer")
    digest = known if manifest is None else str(manifest.top)
    pinned = parse(f"{reference.location}@{digest}").with_variant(reference.variant, usual=reference.usual)
    return pinned, "known" if manifest is None else "registry"


def _of_url(node: Node, reference: Reference, arguments: argparse.Namespace) -> tuple[Digest, str]:
    # Of several places, that of the staging knows which one answers; a claim is worth nothing but by the origin.
    if not any(reference.location.startswith(beginning.rstrip("/")) for beginning in node.config.mirrors):
        with suppress(OriginUnavailable):  # which staging may outlast, or do without
            found = _of_library(node, reference) if reference.scheme == "library" else _claimed(node, reference)
            if found is not None:
                return found
    given = {name: getattr(arguments, name, None) for name in SETTINGS}
    wish = argparse.Namespace(**given | {"reference": str(reference), "retry": arguments.retry, "words": []})
    # The pins of jobs and sessions are for those who run; whoever submits wants what is new, and on no other node.
    wish.freshness, wish.min_nodes = "always", "1"
    return obtain(wish, own=True, mode="none").image.digest, "staged"


def _of_library(node: Node, reference: Reference) -> tuple[Digest, str] | None:
    from stager.cli import registries
    from stager.sources.library_settings import digest_in

    stream = registries.source(node, reference).open(0, 1)
    if stream is None:
        return None
    stream.close()
    digest = digest_in(stream.validators.etag)
    return (digest, "declared") if digest else None


def _claimed(node: Node, reference: Reference) -> tuple[Digest, str] | None:
    from stager.sources import declared

    seen = _seen(node, reference)
    claim = declared.ask(reference.location, node.http_settings, _version(seen) if seen else None)
    if claim.unchanged and seen is not None:
        return seen.digest, "known"
    return (claim.digest, "declared") if claim.digest else None


def _of_file(node: Node, reference: Reference) -> tuple[Digest, str]:
    from stager.reference import Digest
    from stager.sources import HttpSettings, source_for

    seen = _seen(node, reference)
    source = source_for(reference, HttpSettings())
    stream = source.open(unless=_version(seen) if seen else None)
    if stream is None and seen is not None:
        return seen.digest, "known"
    if stream is None:
        raise OriginUnavailable(f"{reference.location} gave no answer")
    asked, tell, done, total = node.clock.now(), node.teller(reference.name), 0, sha256()
    try:
        _refuse_what_is_no_image(reference.location)
        for piece in stream.chunks():
            total.update(piece)
            done += len(piece)
            tell.progress("hashing", done, stream.size or 0)
    finally:
        stream.close()
        tell.close()
    digest = Digest(total.hexdigest())
    with suppress(StageImageError, OSError):  # the next one reads it again
        record = node.layout.reference_record(reference.key)
        memory.write_seen(record, reference.shown, digest, validators=stream.validators, at=asked)
    return digest, "hashed"


def _refuse_what_is_no_image(path: str) -> None:
    import os

    from stager.errors import AccessDenied
    from stager.images import recognise

    try:
        with open(path, "rb", buffering=0) as file:
            recognise(file.fileno(), os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise AccessDenied(f"{path} cannot be read: {error.strerror}") from error


def _seen(node: Node, reference: Reference) -> Seen | None:
    """Return what is known here; without a store that can be used, nothing is."""
    with suppress(StageImageError, OSError):
        records = (memory.read_seen(layout.reference_record(reference.key)) for layout in (node.layout, *node.tiers))
        return next((seen for seen in records if seen is not None), None)
    return None


def _version(seen: Seen) -> Validators:
    return Validators(seen.etag, seen.modified, seen.size)
