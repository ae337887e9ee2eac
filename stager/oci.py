"""Images made of layers, as registries, layouts and archives have them: manifests, configurations, platforms.

Read from JSON that a stranger wrote (OCI image specification 1.1, image-index.md, manifest.md, config.md; Docker's
image manifest version 2, schema 2): nothing of it is believed before it has the right shape.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from stager.errors import DamagedImage, InvalidReference, NotAnImage, NotFound
from stager.reference import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from stager.interfaces import Stream

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")

MANIFEST_MAX = 4 << 20
"""Bytes of a manifest or index that are read: what registries accept at most (distribution-spec 1.1, pushing)."""

CONFIG_MAX = 8 << 20
"""Bytes of a configuration that are read; it grows with the image's history."""

LAYERS_MAX = 500
"""Docker builds 127 layers at most (moby, layer store)."""

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm/v7", "ppc64le": "ppc64le"}


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in Go's words: `linux/amd64`, `linux/arm/v7`."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Take `os/architecture[/variant]` or an architecture alone; raise InvalidReference for anything else."""
        parts = text.lower().split("/")
        known = _MACHINES.get(parts[0], parts[0]).split("/")
        if len(parts) == 1:
            parts = ["linux", *known]
        if not 2 <= len(parts) <= 3 or not all(part.isascii() and part.isalnum() and len(part) <= 32 for part in parts):
            raise InvalidReference(f"{text[:80]!a} is not a platform", hint="write linux/amd64 or linux/arm64/v8")
        return cls(*parts)

    @classmethod
    def host(cls) -> Platform:
        """Return what this node is."""
        machine = os.uname().machine
        return cls.parse(f"linux/{_MACHINES.get(machine, machine)}")

    def serves(self, wanted: Platform) -> bool:
        """Whether an image of this platform is one of the wanted; arm64 without a variant is v8 (image-index.md)."""
        return (self.os, self.architecture) == (wanted.os, wanted.architecture) and (
            self._variant == wanted._variant or not wanted.variant
        )

    @property
    def _variant(self) -> str:
        return self.variant or ("v8" if self.architecture == "arm64" else "")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob: `size` in bytes; `title` is the annotation org.opencontainers.image.title, for files in registries."""

    media_type: str
    digest: Digest
    size: int
    title: str = ""
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """One platform's image. `layers` from the lowest up.

    `top` is the digest of what the reference was found to mean, an index perhaps: it changes when the tag moves.
    """

    digest: Digest
    config: Descriptor
    layers: tuple[Descriptor, ...]
    top: Digest

    @property
    def size(self) -> int:
        """Bytes of all layers, as they come."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """How the image's maker wants it run (config.md of the OCI image specification)."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""
    diff_ids: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return it as a JSON object, by the names of the specification; `read_described` takes it back."""
        return {
            "Env": list(self.env),
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "WorkingDir": self.working_dir,
            "User": self.user,
            "Labels": dict(self.labels),
            "Platform": self.platform,
        }


class ContainerOrigin(Protocol):
    """Where an image's manifest and blobs are: a registry, a directory, an archive. Used by several threads at once."""

    @property
    def name(self) -> str:
        """For people: a host or a path, never with credentials."""

    @property
    def private(self) -> bool:
        """Whether credentials were needed so far, so that the image is nobody else's business."""

    def manifest(self, unless: str = "") -> Manifest | None:
        """Ask, once, what the reference means for the platform; None if that is still `unless` (a Manifest's `top`).

        Raises NotFound, AccessDenied, OriginUnavailable (with `retry_after`), OriginStalled, NotAnImage, DamagedImage.
        """

    def blob(self, descriptor: Descriptor, start: int = 0) -> Stream:
        """Ask for a blob's bytes from `start` on, once, without retries; they are not verified.

        The stream begins at 0 where the origin cannot do otherwise. Raises as `manifest`.
        """


def read_manifest(data: bytes, media_type: str, digest: Digest, top: Digest) -> Manifest:
    """Return the manifest in `data`, whose digest has been verified. Raises DamagedImage, NotAnImage."""
    content = _object(data, "the manifest")
    if content.get("schemaVersion") == 1:
        raise NotAnImage("the registry has the image in Docker's old format (schema 1) only", hint="push it again")
    kind = content.get("mediaType") or media_type
    if kind in INDEXES:
        raise DamagedImage("an index names an index where a manifest should be")
    layers = content.get("layers")
    if not isinstance(layers, list) or not isinstance(content.get("config"), dict):
        raise NotAnImage(f"the registry has something of the type {str(kind)[:80]!a}, which is no image")
    if len(layers) > LAYERS_MAX:
        raise DamagedImage(f"the manifest has {len(layers)} layers; more than {LAYERS_MAX} are not taken")
    config = _descriptor(content["config"])
    return Manifest(digest, config, tuple(_descriptor(layer) for layer in layers), top)


def is_index(data: bytes, media_type: str) -> bool:
    """Whether a document names manifests of several platforms."""
    content = _object(data, "the manifest")
    kind = content.get("mediaType") or media_type
    return kind in INDEXES or ("manifests" in content and "layers" not in content)


def choose(data: bytes, wanted: Platform) -> Descriptor:
    """Return the manifest that an index has for a platform. Raises NotFound, saying what there is; DamagedImage."""
    return pick([one for _, one in named_manifests(data)], wanted)


def named_manifests(data: bytes) -> list[tuple[frozenset[str], Descriptor]]:
    """Return what an index names, at least one, and the names that each has in a layout. Raises DamagedImage."""
    manifests = _object(data, "the index").get("manifests")
    if not isinstance(manifests, list) or not manifests:
        raise DamagedImage("the index names no manifests")
    return [(_names(entry), _descriptor(entry)) for entry in manifests]


def pick(found: Sequence[Descriptor], wanted: Platform) -> Descriptor:
    """Return the one for a platform, an exact fit before others. Raises NotFound, saying what there is."""
    runnable = [one for one in found if one.platform is None or one.platform.os != "unknown"]
    for one in sorted(runnable, key=lambda d: str(d.platform) != str(wanted)):
        if one.platform is not None and one.platform.serves(wanted):
            return one
    if len(runnable) == 1 and runnable[0].platform is None:
        return runnable[0]
    # In ASCII: these words are a stranger's, and may hold what moves the cursor.
    names = ", ".join(sorted({ascii(str(one.platform))[1:-1] for one in runnable if one.platform})) or "none"
    raise NotFound(f"the image is not there for {wanted}; it is for {names[:200]}", hint="choose one with --platform")


def read_config(data: bytes) -> ContainerConfig:
    """Return what a configuration blob says. Raises DamagedImage."""
    content = _object(data, "the image's configuration")
    inner = content.get("config")
    inner = inner if isinstance(inner, dict) else {}
    rootfs = content.get("rootfs")
    diff_ids = _texts(rootfs.get("diff_ids")) if isinstance(rootfs, dict) else ()
    platform = "/".join(filter(None, (_text(content.get(key)) for key in ("os", "architecture", "variant"))))
    return _config(inner, platform, diff_ids)


def read_described(content: Mapping[str, Any]) -> ContainerConfig:
    """Return what `ContainerConfig.describe` made. Raises DamagedImage."""
    return _config(content, _text(content.get("Platform")), ())


def _config(inner: Mapping[str, Any], platform: str, diff_ids: tuple[str, ...]) -> ContainerConfig:
    labels = inner.get("Labels")
    pairs = labels.items() if isinstance(labels, dict) else ()
    return ContainerConfig(
        env=tuple(line for line in _texts(inner.get("Env")) if "=" in line[1:]),
        entrypoint=_texts(inner.get("Entrypoint")),
        cmd=_texts(inner.get("Cmd")),
        working_dir=_text(inner.get("WorkingDir")),
        user=_text(inner.get("User")),
        labels={key: value for key, value in pairs if _is_text(key) and _is_text(value)},
        platform=platform,
        diff_ids=diff_ids,
    )


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedImage(f"{what} is not JSON") from error
    if not isinstance(content, dict):
        raise DamagedImage(f"{what} is not a JSON object")
    return content


def _descriptor(entry: object) -> Descriptor:
    if not isinstance(entry, dict):
        raise DamagedImage("a descriptor in the manifest is not a JSON object")
    size, digest = entry.get("size"), entry.get("digest")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 50:
        raise DamagedImage(f"the manifest gives {str(size)[:40]!a} as a blob's size")
    if not isinstance(digest, str) or not digest.startswith("sha256:"):
        raise DamagedImage(f"the manifest names a blob by {str(digest)[:80]!a}, which is not a sha256 digest")
    try:
        checked = Digest(digest)
    except InvalidReference as error:
        raise DamagedImage(f"in the manifest, {error.message}") from None
    annotations = entry.get("annotations")
    title = annotations.get("org.opencontainers.image.title") if isinstance(annotations, dict) else ""
    return Descriptor(_text(entry.get("mediaType")), checked, size, _text(title), _platform(entry.get("platform")))


def _names(entry: object) -> frozenset[str]:
    # containerd and Docker 25 give the tag alone by OCI's annotation, and the whole name by their own.
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    given = annotations if isinstance(annotations, dict) else {}
    keys = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
    return frozenset(filter(None, (_text(given.get(key)) for key in keys)))


def _platform(entry: object) -> Platform | None:
    if not isinstance(entry, dict):
        return None
    return Platform(*(_text(entry.get(key))[:32] for key in ("os", "architecture", "variant")))


def _texts(value: object) -> tuple[str, ...]:
    items: Iterable[object] = value if isinstance(value, list) else [value] if isinstance(value, str) else ()
    return tuple(item for item in items if _is_text(item))


def _text(value: object) -> str:
    return value if _is_text(value) else ""


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it may go into an environment and a file: JSON can write half a surrogate pair, UTF-8 cannot."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
