"""By which digest nodes tell schedulers of an image that a job wants; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager import report
from stager.reference import Digest

if TYPE_CHECKING:
    from stager.reference import Reference


def known_as(reference: Reference) -> Digest | None:
    """Return the file's digest, or that of the manifest or index it is made of; None for what is not pinned.

    Which file an image becomes is not known where a job is submitted. Nodes tell of both: features and load sensors.
    """
    manifest = report.manifest_in(reference.location)
    return reference.digest or (Digest(manifest) if manifest else None)
