"""What the node's Prolog has staged for this job: waited for, and meant by all of the job's tasks."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from stager.errors import InvalidReference, StageImageError
from stager.reference import REGISTRIES, Digest, parse
from stager.schedulers import told
from stager.store import memory
from stager.variables import SITE_FILE, SITE_VARIABLE

if TYPE_CHECKING:
    from stager.cli.node import Node
    from stager.interfaces import Teller
    from stager.reference import Reference
    from stager.schedulers.told import Told


SHAPING = ("platform", "convert_compression", "convert_level")
"""The settings on which it depends which file an image becomes."""


def heed(node: Node, reference: Reference, tell: Teller) -> None:
    """Wait while the Prolog stages `reference`, and pin the job to what it has staged.

    A task that would not wait would download it once more; one that asked the origin by itself might get another image
    than the job's other nodes. Not so where the user has other settings for what an image becomes: the Prolog goes by
    the site's.
    """
    if reference.variant and not _is_as_the_sites(node):
        return
    scope = told.scope_of(node.scope, node.environ)
    known = told.read(scope)
    if known is not None and any(_is_same(text, reference) for text in known.wanted):
        known = told.await_stager(scope, node.clock, tell, enough=lambda now: _digest_of(now, reference) is not None)
    digest = _digest_of(known, reference) if known is not None else None
    if digest is not None and reference.digest is None:
        with suppress(OSError, StageImageError):  # where nothing can be written, the origin is asked
            memory.write_pin(node.layout.pin(node.scope, reference.key), digest, until=None, now=node.clock.now())


def _digest_of(known: Told, reference: Reference) -> Digest | None:
    for text, digest in known.digests.items():
        digits = digest.removeprefix("sha256:")
        if _is_same(text, reference) and len(digits) == 64 and not set(digits) - set("0123456789abcdef"):
            return Digest(digits)
    return None


def _is_as_the_sites(node: Node) -> bool:
    sites = ("default", node.environ.get(SITE_VARIABLE) or SITE_FILE)
    return all(node.config.sources.get(name, "default") in sites for name in SHAPING)


def _is_same(text: str, reference: Reference) -> bool:
    try:
        other = parse(text)
    except InvalidReference:
        return False
    location = other.location
    if other.scheme in REGISTRIES and not reference.is_immutable:
        location = location.partition("@sha256:")[0]  # as it was pinned when the job was submitted
    return (other.scheme, location) == (reference.scheme, reference.location)
