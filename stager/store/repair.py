"""Looking at every byte again: what is sound gets its sidecar back, what is not goes to quarantine."""

from __future__ import annotations

import os
from hashlib import file_digest
from typing import TYPE_CHECKING

from stager.errors import StageImageError, VerifyFailed
from stager.store import images

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.interfaces import ImageInfo
    from stager.layout import Layout
    from stager.reference import Digest
    from stager.store.images import StagedImage


def verify(
    layout: Layout, digest: Digest, recognise: Callable[[int, int], ImageInfo]
) -> tuple[StagedImage | None, str]:
    """Hash an image again. Return it, sidecar mended if need be, or None and where the bad one was put.

    The text says what was found: `sound`, `sidecar rebuilt`, or what is wrong. Raises nothing for bad images.
    """
    try:
        return _checked(layout, digest, recognise)
    except StageImageError as error:
        reason = error.message
    except OSError as error:
        reason = f"it cannot be read: {error.strerror or error}"
    try:
        return None, f"{reason}; moved to {images.quarantine(layout, digest)}"
    except OSError as error:
        return None, f"{reason}; it could not be put aside: {error.strerror or error}"


def _checked(layout: Layout, digest: Digest, recognise: Callable[[int, int], ImageInfo]) -> tuple[StagedImage, str]:
    before = images.lookup(layout, digest)
    path = next((p for p in images.image_files(layout, digest) if os.path.isfile(p) and not os.path.islink(p)), None)
    if path is None:
        raise VerifyFailed("there is no image file")
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        found = file_digest(file, "sha256").hexdigest()
        if found != digest.hex:
            raise VerifyFailed(f"its sha256 is {found}")
        if before is not None:
            return before, "sound"
        info = recognise(file.fileno(), os.fstat(file.fileno()).st_size)
    return images.mend(layout, digest, path, info), "sidecar rebuilt"
