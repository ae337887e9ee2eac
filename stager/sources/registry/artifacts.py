"""What kind of thing a manifest describes: layers of a container image, or a file that a registry keeps; pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stager.errors import NotAnImage
from stager.oci import CONFIGS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stager.oci import Descriptor, Manifest

_SIF = re.compile(r"appl[a-z]{2,6}ation/vnd\.sylabs\.sif\.layer\.[a-z0-9.+-]{1,40}")
"""`application/vnd.sylabs.sif.layer.v1.sif`, and the forms of earlier versions of singularity, one of them misspelt
(`appliciation/vnd.sylabs.sif.layer.tar`)."""

_LAYERS = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")
_IMAGES = (".sif", ".squashfs", ".sqfs", ".sqsh", ".erofs", ".img")
"""Endings of names that files of ours have."""


def check_container(manifest: Manifest, name: str) -> None:
    """Raise NotAnImage unless this is an image made of layers."""
    if any(_SIF.fullmatch(layer.media_type) for layer in manifest.layers):
        raise NotAnImage(f"{name} is a SIF, not a container image", hint=f"write oras://{name}")
    if manifest.config.media_type not in CONFIGS and not any(map(_is_layer, manifest.layers)):
        kind = ascii(manifest.config.media_type[:80])
        hint = f"if it is a file, such as a squashfs image, write oras://{name}" if len(manifest.layers) == 1 else ""
        raise NotAnImage(f"{name} is something of the type {kind}, not a container image", hint=hint)


def choose_file(manifest: Manifest, name: str) -> Descriptor:
    """Return which layer is the image as a file. Raises NotAnImage."""
    layers = manifest.layers
    by_type = [layer for layer in layers if _SIF.fullmatch(layer.media_type)]
    if not by_type and layers and all(map(_is_layer, layers)) and manifest.config.media_type in CONFIGS:
        raise NotAnImage(f"{name} is a container image, not a file", hint=f"write docker://{name}")
    for found in (by_type, layers, [layer for layer in layers if layer.title.lower().endswith(_IMAGES)]):
        if len(found) == 1:
            return found[0]
    if not layers:
        raise NotAnImage(f"{name} holds no file")
    raise NotAnImage(
        f"{name} holds {len(layers)} files ({_titles(layers)}), and which one is meant cannot be told",
        hint="push the image alone, with `apptainer push` or `oras push`",
    )


def _is_layer(descriptor: Descriptor) -> bool:
    return descriptor.media_type.startswith(_LAYERS)


def _titles(layers: Iterable[Descriptor]) -> str:
    return ", ".join(ascii(layer.title or layer.media_type)[1:-1][:60] for layer in [*layers][:5])
