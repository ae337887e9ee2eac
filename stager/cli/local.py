"""Finding staged images by what people call them: a reference, a digest or the beginning of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.errors import NotStaged, UsageError
from stager.store import files, images, memory

if TYPE_CHECKING:
    from stager.cli.node import Node
    from stager.reference import Digest
    from stager.store.images import StagedImage

SHORTEST_PREFIX = 6


def digest_of(node: Node, text: str) -> Digest | None:
    """Return the digest that `text` means here, staged or not; None if nothing is known of it."""
    prefix = text.lower().removeprefix("sha256:")
    if len(prefix) >= SHORTEST_PREFIX and not set(prefix) - set("0123456789abcdef"):
        matching = [digest for digest in images.digests(node.layout) if digest.hex.startswith(prefix)]
        if len(matching) > 1:
            raise UsageError(f"{text} is the beginning of {len(matching)} digests", hint="write more of it")
        if matching:
            return matching[0]
    reference = node.reference(text)
    if reference.digest is not None:
        return reference.digest
    pinned = memory.read_pin(node.layout.pin(node.scope, reference.key), node.clock.now())
    seen = memory.read_seen(node.layout.reference_record(reference.key))
    return pinned or (seen.digest if seen else None)


def image_of(node: Node, text: str) -> StagedImage:
    """Return the staged image that `text` means. Raises NotStaged."""
    digest = digest_of(node, text)
    image = images.lookup(node.layout, digest) if digest else None
    if image is None:
        raise NotStaged("it is not staged here, or no longer as it was published", reference=text)
    return image


def references(node: Node) -> dict[str, list[str]]:
    """Return digest → references that meant it when last seen, each once, for however many platforms."""
    found: dict[str, dict[str, None]] = {}
    for key in files.names(f"{node.layout.root}/refs"):
        record = files.read_record(node.layout.reference_record(key))
        if record and "digest" in record:
            found.setdefault(record["digest"], {})[record.get("reference", "")] = None
    return {digest: list(names) for digest, names in found.items()}
