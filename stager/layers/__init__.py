"""From the layers of a container image to one squashfs, without unpacking them to disk.

    index() of each layer, while it arrives ──▶ write(): a tree of them all ──▶ one tar ──▶ mksquashfs ──▶ image

What the layers mean together is the OCI image specification's layer.md, read as `umoci unpack` 0.4.7 does.
"""

from stager.layers.entry import LayerIndex
from stager.layers.options import Limits, Options
from stager.layers.reading import index
from stager.layers.writing import parameters, write

__all__ = ["LayerIndex", "Limits", "Options", "index", "parameters", "write"]
