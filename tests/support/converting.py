"""Layers through the layer engine, as the tests want them: from memory, with nobody watching."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from stager import layers
from stager.oci import ContainerConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.support.layered_images import Layer


def indexed(layer: Layer, limits: layers.Limits | None = None, *, diff_id: str | None = None) -> layers.LayerIndex:
    """Return what is in a layer."""
    expected = layer.diff_id if diff_id is None else diff_id
    read = io.BytesIO(layer.blob).read
    limits = limits or layers.Limits()
    return layers.index(read, layer.media_type, size=len(layer.blob), diff_id=expected, limits=limits)


def converted(
    built: Sequence[Layer],
    dest: Path,
    *,
    config: ContainerConfig | None = None,
    options: layers.Options | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Write the image of these layers to `dest`."""
    layers.write(
        [indexed(layer) for layer in built],
        lambda number: io.BytesIO(built[number].blob),
        str(dest),
        options or layers.Options(),
        config=config or ContainerConfig(),
        progress=progress,
        check=check,
    )
    return dest
