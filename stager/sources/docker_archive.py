"""Images as `docker save` and `skopeo copy … docker-archive:` write them: `docker-archive:FILE[:name]`.

The format is that of Docker's image specification 1.2, "Combined Image JSON + Filesystem Changeset Format". It has no
manifests of the kind registries have, so one is made up: its digest is the sha256 of
`{"config":"sha256:…","layers":["sha256:…",…]}`, without blanks, of the blobs as they lie in the archive.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from stager import image_names
from stager.errors import DamagedImage, InvalidReference, NotAnImage, NotFound
from stager.oci import CONFIG_MAX, CONFIGS, LAYERS_MAX, MANIFEST_MAX, Descriptor, Manifest, read_config
from stager.reference import Digest
from stager.sources.archive_files import Archive, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.interfaces import Stream
    from stager.oci import Platform

LAYER = "application/vnd.docker.image.rootfs.diff.tar"
"""Uncompressed as a rule; whoever reads a layer looks at its first bytes (crane and bazel write gzip here)."""

_MAGICS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")


class DockerArchiveOrigin:
    """A ContainerOrigin: one image of the archive at `path`.

    `ref` is one of its tags, `@<number>` for an image by its place in manifest.json from 0 on, or empty for the only
    image that there is. An archive holds an image for one platform and does not name others; `platform` is not
    asked for.
    """

    def __init__(self, path: str, ref: str, platform: Platform) -> None:
        self.name = path
        self.private = False
        self._files = Archive(path)
        self._ref = ref
        self._platform = platform
        self._places: dict[Digest, str] = {}
        self._hashes: dict[tuple[str, str], Digest] = {}

    def manifest(self, unless: str = "") -> Manifest | None:
        """As ContainerOrigin.manifest; also raises ImageRefused.

        The digest of an uncompressed layer is the diff_id that the configuration gives; compressed ones are read.
        """
        config_name, layer_names = _entry(self._chosen())
        data = whole(self._open(config_name), CONFIG_MAX, f"the configuration in {self.name}")
        config = Descriptor(CONFIGS[1], Digest(hashlib.sha256(data).hexdigest()), len(data))
        diff_ids = read_config(data).diff_ids
        if len(diff_ids) != len(layer_names):
            raise DamagedImage(f"{self.name} has {len(layer_names)} layers; its configuration has {len(diff_ids)}")
        layers = tuple(map(self._layer, layer_names, diff_ids))
        top = _digest_of(config, layers)
        self._places.update({layer.digest: name for layer, name in zip(layers, layer_names, strict=True)})
        self._places[config.digest] = config_name
        return None if str(top) == unless else Manifest(top, config, layers, top)

    def blob(self, descriptor: Descriptor, start: int = 0) -> Stream:
        """As ContainerOrigin.blob; also raises ImageRefused. Knows what `manifest` named."""
        if descriptor.digest not in self._places:
            self.manifest()
        name = self._places.get(descriptor.digest)
        if name is None:
            raise NotFound(f"{self.name} holds nothing of the digest {descriptor.digest}")
        stream = self._open(name, start)
        if stream.size != descriptor.size:
            stream.close()
            raise DamagedImage(f"in {self.name}, {name[:120]!a} changed its size")
        return stream

    def _chosen(self) -> object:
        entries = self._entries()
        if self._ref:
            wanted = _canonical(self._ref)
            fitting = [
                entry
                for number, entry in enumerate(entries)
                if self._ref == f"@{number}" or wanted in map(_canonical, _tags(entry))
            ]
            problem = f"{self.name} holds no image {self._ref[:120]!a}"
        else:
            fitting = entries if len(entries) == 1 else []
            problem = f"{self.name} holds {len(entries)} images, and none of them is named"
        if not fitting:
            raise NotFound(problem, hint=_named(entries))
        return fitting[0]

    def _entries(self) -> list[Any]:
        stream = self._files.open("manifest.json")
        if stream is None:
            raise self._no_archive()
        self.private |= stream.private
        try:
            content = json.loads(whole(stream, MANIFEST_MAX, f"manifest.json of {self.name}"))
        except (ValueError, RecursionError) as error:
            raise DamagedImage(f"manifest.json of {self.name} is not JSON") from error
        if not isinstance(content, list) or not content:
            raise DamagedImage(f"manifest.json of {self.name} names no images")
        return content

    def _no_archive(self) -> NotAnImage:
        index = self._files.open("index.json")
        if index is None:
            return NotAnImage(f"{self.name} was not written by `docker save`: it has no manifest.json")
        index.close()
        return NotAnImage(
            f"{self.name} is an OCI archive: it has no manifest.json", hint=f"write oci-archive:{self.name}"
        )

    def _layer(self, name: str, diff_id: str) -> Descriptor:
        stream = self._open(name)
        try:
            key = (name, stream.validators.modified)
            if key not in self._hashes:
                self._hashes[key] = _hash(stream.chunks(), diff_id)
            return Descriptor(LAYER, self._hashes[key], stream.size or 0)
        finally:
            stream.close()

    def _open(self, name: str, start: int = 0) -> Stream:
        stream = self._files.open(name, start)
        if stream is None:
            raise DamagedImage(f"{self.name} lacks {name[:120]!a}, which it names")
        self.private |= stream.private
        return stream


def _hash(pieces: Iterator[bytes], diff_id: str) -> Digest:
    """Return the digest of a layer's bytes as they lie there, without reading them if `diff_id` is that."""
    try:
        claimed = Digest(diff_id)
    except InvalidReference as error:
        raise DamagedImage(f"in the image's configuration, {error.message}") from None
    first = next(pieces, b"")
    if not first.startswith(_MAGICS):
        return claimed
    hasher = hashlib.sha256(first)
    for piece in pieces:
        hasher.update(piece)
    return Digest(hasher.hexdigest())


def _entry(entry: object) -> tuple[str, list[str]]:
    """Return the names of the configuration and of the layers."""
    fields = entry if isinstance(entry, dict) else {}
    config, layers = fields.get("Config"), fields.get("Layers")
    layers = [] if layers is None else layers
    if not isinstance(config, str) or not isinstance(layers, list) or not all(isinstance(one, str) for one in layers):
        raise DamagedImage("manifest.json does not name a configuration and layers")
    if len(layers) > LAYERS_MAX:
        raise DamagedImage(f"the image has {len(layers)} layers; more than {LAYERS_MAX} are not taken")
    return config, layers


def _tags(entry: object) -> list[str]:
    tags = entry.get("RepoTags") if isinstance(entry, dict) else None
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _canonical(tag: str) -> str:
    """Return a tag with all that Docker leaves out."""
    try:
        return str(image_names.parse(tag))
    except InvalidReference:
        return tag


def _digest_of(config: Descriptor, layers: tuple[Descriptor, ...]) -> Digest:
    said = {"config": str(config.digest), "layers": [str(layer.digest) for layer in layers]}
    return Digest(hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest())


def _named(entries: list[Any]) -> str:
    names = [ascii(tag)[1:-1] for entry in entries for tag in _tags(entry)]
    if not names:
        return f"its images have no names: name one by its number, @0 to @{len(entries) - 1}"
    return f"name one of these behind a colon: {', '.join(names[:20])[:400]}{', …' if len(names) > 20 else ''}"
