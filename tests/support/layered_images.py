"""Container images for tests, from a description of their layers: OCI layouts, OCI archives and Docker archives.

    base = layer([directory("etc"), file("etc/motd", b"hello")])
    upper = layer([whiteout("etc/motd"), symlink("etc/issue", "motd")], "zstd")
    built = image([base, upper], env=["A=b"])
    oci_layout(tmp_path / "layout", [built], tag="latest")

Formats: OCI image specification 1.1; "Docker Image Specification v1.2" for what `docker save` writes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zstandard

from tests.support.tar_entries import (
    SPARSE_FORMS,
    Entry,
    device,
    directory,
    fifo,
    file,
    hardlink,
    opaque,
    pax_record,
    sparse,
    symlink,
    tar,
    whiteout,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "SPARSE_FORMS",
    "BuiltImage",
    "Entry",
    "Layer",
    "device",
    "digest",
    "directory",
    "docker_archive",
    "fifo",
    "file",
    "hardlink",
    "image",
    "index",
    "layer",
    "layout_files",
    "oci_archive",
    "oci_layout",
    "opaque",
    "pax_record",
    "sparse",
    "symlink",
    "tar",
    "whiteout",
]

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_TYPES = {
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "plain": "application/vnd.oci.image.layer.v1.tar",
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as a registry has it (`blob`) and expanded (`tar`)."""

    blob: bytes
    tar: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """`sha256:` and the hash of the blob."""
        return digest(self.blob)

    @property
    def diff_id(self) -> str:
        """`sha256:` and the hash of the expanded archive."""
        return digest(self.tar)


def digest(data: bytes) -> str:
    """Return what a blob is called by."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(entries: Iterable[Entry] | bytes, compression: str = "gzip", media_type: str = "") -> Layer:
    """Return the layer of these entries, or of the archive given; `compression` is `gzip`, `zstd` or `plain`."""
    archive = entries if isinstance(entries, bytes) else tar(entries)
    if compression == "gzip":
        blob = gzip.compress(archive, 1, mtime=0)
    else:
        blob = zstandard.compress(archive, 1) if compression == "zstd" else archive
    return Layer(blob, archive, media_type or MEDIA_TYPES[compression])


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """One platform's image: its layers from the lowest up, and the documents that name them."""

    layers: tuple[Layer, ...]
    config: bytes
    manifest: bytes
    platform: str
    media_type: str = OCI_MANIFEST

    @property
    def digest(self) -> str:
        """The manifest's."""
        return digest(self.manifest)

    @property
    def blobs(self) -> dict[str, bytes]:
        """Everything that a registry must hold, by digest."""
        held = (self.manifest, self.config, *(one.blob for one in self.layers))
        return {digest(data): data for data in held}

    @property
    def descriptor(self) -> dict[str, Any]:
        """What an index says of it."""
        return {**_descriptor(self.media_type, self.manifest), "platform": _platform(self.platform)}


def image(layers: Sequence[Layer], platform: str = "linux/amd64", **config: object) -> BuiltImage:
    """Return the image of these layers; `config` are the keys of its `config`, in Go's spelling or not.

    `env=["A=b"], entrypoint=["/bin/x"], working_dir="/w"` become Env, Entrypoint, WorkingDir.
    """
    inner = {"".join(part[:1].upper() + part[1:] for part in key.split("_")): value for key, value in config.items()}
    rootfs = {"type": "layers", "diff_ids": [one.diff_id for one in layers]}
    document = _json({**_platform(platform), "config": inner, "rootfs": rootfs})
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(OCI_CONFIG, document),
        "layers": [_descriptor(one.media_type, one.blob) for one in layers],
    }
    return BuiltImage(tuple(layers), document, _json(manifest), platform)


def index(images: Sequence[BuiltImage]) -> bytes:
    """Return an image index of several platforms' images."""
    manifests = [one.descriptor for one in images]
    return _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})


def oci_layout(path: Path, images: Sequence[BuiltImage], tag: str = "latest", *, nested: bool = False) -> Path:
    """Write an OCI layout at `path`. `nested`: index.json names an index of the platforms, as buildx and skopeo do."""
    files = layout_files(images, tag, nested=nested)
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def layout_files(images: Sequence[BuiltImage], tag: str = "latest", *, nested: bool = False) -> dict[str, bytes]:
    """Return the files of an OCI layout, by their names in it."""
    blobs = {name: data for one in images for name, data in one.blobs.items()}
    if nested:
        blobs[digest(index(images))] = index(images)
        manifests = [_descriptor(OCI_INDEX, index(images))]
    else:
        manifests = [one.descriptor for one in images]
    named = (
        [{**one, "annotations": {"org.opencontainers.image.ref.name": tag}} for one in manifests] if tag else manifests
    )
    files = {"blobs/sha256/" + name.removeprefix("sha256:"): data for name, data in blobs.items()}
    return {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": named}),
        **files,
    }


def oci_archive(path: Path, images: Sequence[BuiltImage], tag: str = "latest", *, nested: bool = False) -> Path:
    """Write an OCI archive at `path`: the tar of a layout, as `skopeo copy … oci-archive:` makes it."""
    return _archived(path, layout_files(images, tag, nested=nested))


def docker_archive(path: Path, images: Mapping[str, BuiltImage]) -> Path:
    """Write at `path` what `docker save` up to Docker 24 does: plain layers, manifest.json; images by name."""
    files: dict[str, bytes] = {}
    manifest = []
    for name, one in images.items():
        config = digest(one.config).removeprefix("sha256:") + ".json"
        layers = {part.diff_id.removeprefix("sha256:") + "/layer.tar": part.tar for part in one.layers}
        files |= {config: one.config, **layers}
        manifest.append({"Config": config, "RepoTags": [name] if name else None, "Layers": list(layers)})
    return _archived(path, {**files, "manifest.json": _json(manifest)})


def _archived(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


def _platform(text: str) -> dict[str, str]:
    return dict(zip(("os", "architecture", "variant"), text.split("/"), strict=False))


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
