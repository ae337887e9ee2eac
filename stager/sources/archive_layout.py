"""Images in OCI layouts (image-layout.md of the OCI image specification 1.1), in directories or archives."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from stager.errors import DamagedImage, InvalidReference, NotAnImage, NotFound
from stager.oci import (
    INDEXES,
    MANIFEST_MAX,
    Descriptor,
    choose,
    is_index,
    named_manifests,
    pick,
    read_manifest,
)
from stager.reference import Digest
from stager.sources.archive_files import Directory, whole

if TYPE_CHECKING:
    from stager.interfaces import Stream
    from stager.oci import Manifest, Platform
    from stager.sources.archive_files import Files

NESTING_MAX = 4
"""Indexes inside one another: buildx writes two, and the specification sets no limit."""


class LayoutOrigin:
    """One image of a layout: a ContainerOrigin.

    `ref` is an image's name in index.json, `@sha256:<hex>` for a manifest or index by its digest, or empty for the
    only image that there is.
    """

    def __init__(self, files: Files, ref: str, platform: Platform) -> None:
        self.name = files.path
        self.private = False
        self._files = files
        self._ref = ref
        self._platform = platform

    def manifest(self, unless: str = "") -> Manifest | None:
        """As ContainerOrigin.manifest; also raises ImageRefused. Of layers, presence and size are looked at."""
        top = self._top()
        if str(top.digest) == unless:
            return None
        found = self._resolved(top)
        for descriptor in (found.config, *found.layers):
            self.blob(descriptor).close()
        return found

    def blob(self, descriptor: Descriptor, start: int = 0) -> Stream:
        """As ContainerOrigin.blob; also raises ImageRefused."""
        stream = self._open(f"blobs/sha256/{descriptor.digest.hex}", start)
        if stream is None:
            raise DamagedImage(f"{self.name} lacks {descriptor.digest}, which it names")
        if stream.size != descriptor.size:
            stream.close()
            raise DamagedImage(
                f"in {self.name}, {descriptor.digest} has {stream.size} bytes; {descriptor.size} were said"
            )
        return stream

    def _top(self) -> Descriptor:
        if self._ref.startswith("@"):
            return self._by_digest(self._ref[1:])
        index = self._index()
        entries = named_manifests(index)
        names = sorted({name for given, _ in entries for name in given})
        fitting = [one for given, one in entries if not self._ref or self._ref in given]
        if not fitting:
            raise NotFound(f"{self.name} holds no image {self._ref[:120]!a}", hint=_named(names))
        if not self._ref and len({given for given, _ in entries}) > 1:
            raise NotFound(f"{self.name} holds several images, and none of them is named", hint=_named(names))
        return fitting[0] if len(fitting) == 1 and fitting[0].platform is None else pick(fitting, self._platform)

    def _index(self) -> bytes:
        stream = self._open("index.json")
        if stream is None:
            raise self._no_layout()
        return whole(stream, MANIFEST_MAX, f"the index of {self.name}")

    def _no_layout(self) -> NotAnImage:
        other = self._open("manifest.json")
        if other is None:
            return NotAnImage(f"{self.name} is no OCI layout: it has no index.json")
        other.close()
        hint = f"write docker-archive:{self.name} if `docker save` made it"
        if isinstance(self._files, Directory):
            hint = f"if it is skopeo's, copy it to a layout: `skopeo copy dir:{self.name} oci:…`"
        return NotAnImage(f"{self.name} is no OCI layout: it has manifest.json, but no index.json", hint=hint)

    def _by_digest(self, text: str) -> Descriptor:
        try:
            digest = Digest(text)
        except InvalidReference as error:
            raise NotFound(f"in {self.name}, {error.message}") from error
        stream = self._open(f"blobs/sha256/{digest.hex}")
        if stream is None:
            raise NotFound(f"{self.name} holds no {digest}")
        stream.close()
        return Descriptor("", digest, stream.size or 0)

    def _resolved(self, top: Descriptor) -> Manifest:
        current = top
        for _ in range(NESTING_MAX):
            data = self._document(current)
            if not is_index(data, current.media_type):
                return read_manifest(data, current.media_type, current.digest, top.digest)
            current = choose(data, self._platform)
        raise DamagedImage(f"{self.name} nests indexes more than {NESTING_MAX} deep")

    def _document(self, descriptor: Descriptor) -> bytes:
        what = f"the {'index' if descriptor.media_type in INDEXES else 'manifest'} {descriptor.digest}"
        data = whole(self.blob(descriptor), MANIFEST_MAX, what)
        if hashlib.sha256(data).hexdigest() != descriptor.digest.hex:
            raise DamagedImage(f"in {self.name}, {what} is not what its name says")
        return data

    def _open(self, name: str, start: int = 0) -> Stream | None:
        stream = self._files.open(name, start)
        self.private |= stream is not None and stream.private
        return stream


def _named(names: list[str]) -> str:
    if not names:
        return "its images have no names: name one by @sha256:<digest of its manifest>"
    shown = ", ".join(ascii(name)[1:-1] for name in names[:20])
    return f"name one of these behind a colon: {shown[:400]}{', …' if len(names) > 20 else ''}"
