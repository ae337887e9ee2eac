"""Stores with many images that cost nothing: what a report is made of is there, and looks as staging leaves it."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import TYPE_CHECKING

from stager.interfaces import ImageInfo, Partition, Validators
from stager.reference import Digest, parse
from stager.store import files, folder, memory
from stager.store.images import StagedImage

if TYPE_CHECKING:
    from pathlib import Path

INFO = ImageInfo("sif", 1, "gzip", Partition(0, 1, "squashfs", primary=True))


class ToldStore:
    """A store below `path`. Images are known by numbers; higher ones were used later, unless told otherwise."""

    def __init__(self, path: Path) -> None:
        self.layout = folder.open_store(str(path))

    def digest(self, number: int) -> Digest:
        """Return the digest of an image."""
        return Digest(sha256(str(number).encode()).hexdigest())

    def add(self, number: int, *texts: str, origin: str = "", private: bool = False, used: float = 0) -> Digest:
        """Publish an image that each of `texts` means now; `used` in seconds since 1970."""
        digest = self.digest(number)
        path = self.layout.image_file(digest, "sif")
        image = StagedImage(digest, path, INFO, origin or (texts or ("/x",))[0], 0.0, 1, 1, private)
        mode = 0o600 if private else 0o644
        files.write_text(self.layout.sidecar(digest), json.dumps(image.describe()), mode)
        files.write_text(path, "x", 0o444)
        os.utime(self.layout.sidecar(digest), (used or 1e9 + number,) * 2)
        for text in texts:
            self.mean(text, number)
        return digest

    def mean(self, text: str, number: int) -> None:
        """Remember that a reference means an image."""
        reference = parse(text)
        record = self.layout.reference_record(reference.key)
        memory.write_seen(record, reference.shown, self.digest(number), validators=Validators('"1"'), at=1.0)
