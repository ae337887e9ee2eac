"""Which version of an image the members of a staging speak of: what its origin says of it, as a JSON object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.errors import DigestMismatch
from stager.interfaces import Validators

if TYPE_CHECKING:
    from stager.interfaces import Message
    from stager.reference import Digest
    from stager.store.partial import Partial


def same(copy: Partial, wanted: Validators) -> bool:
    """Whether the bytes of a copy are of the wanted version."""
    sizes = {copy.size, wanted.size} - {None}
    return len(sizes) <= 1 and (copy.validators.etag, copy.validators.modified) == (wanted.etag, wanted.modified)


def of_copy(copy: Partial) -> Message:
    """Return the version that a copy is of."""
    return {**described(copy.validators, copy.origin, private=copy.private), "size": copy.size}


def described(validators: Validators, origin: str, *, private: bool) -> Message:
    """Return a version, without its size."""
    return {"etag": validators.etag, "modified": validators.modified, "origin": origin, "private": private}


def compare(copy: Partial, found: Digest) -> None:
    """Raise DigestMismatch if an origin that names versions by their digests has named another than was `found`."""
    declared = copy.validators.etag.strip('"').replace("sha256.", "sha256:", 1).lower()
    if declared.startswith("sha256:") and declared != str(found):
        raise DigestMismatch(f"{copy.origin} sent {found}, and had said {declared}")


def validators_of(version: Message) -> Validators:
    """Return what an origin says of a version."""
    size = version.get("size")
    etag, modified = str(version.get("etag") or ""), str(version.get("modified") or "")
    return Validators(etag, modified, size if isinstance(size, int) and size >= 0 else None)
