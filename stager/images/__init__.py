"""Image formats: SIF, squashfs and EROFS, told apart by content and never by name.

Only headers are read: at most `READ_LIMIT` bytes of a file, wherever its offsets point; and of a squashfs that was made
of a container image, what `stager.trailer` has behind it.
"""

from __future__ import annotations

from dataclasses import replace

from stager.errors import DamagedImage, NotAnImage
from stager.images import erofs, sif, squashfs
from stager.images.extent import Extent
from stager.interfaces import ImageInfo, Partition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stager.oci import ContainerConfig

HEAD = 4096
"""Bytes read from the start of a file and of a root partition; holds every superblock there is."""

READ_LIMIT = 2 * HEAD + sif.MOST_DESCRIPTORS * sif.DESCRIPTOR_SIZE + 16
"""Two heads, the table of descriptors, and a few bytes to tell what something else is."""


def recognise(fd: int, size: int) -> ImageInfo:
    """Return what the headers of the file `fd`, `size` bytes long, say of it. The file position stays as it is.

    Raises NotAnImage for something else, saying what it looks like; DamagedImage for an image that is truncated,
    encrypted, without a usable root partition or of an unsupported version; OSError when reading fails.
    """
    image = Extent(fd, 0, size)
    head = image.read(0, HEAD)
    if sif.is_sif(head):
        return _recognise_sif(image, head)
    found = _file_system(image, head)
    if found is None:
        what, hint = _foreign(image, head)
        raise NotAnImage(f"this is {what}, not a SIF, squashfs or EROFS image", hint=hint)
    kind, compression = found
    config = _config(fd, head, size) if kind == "squashfs" else None
    return ImageInfo(kind, size, compression, Partition(0, size, kind, primary=True), config=config)


def _config(fd: int, head: bytes, size: int) -> ContainerConfig | None:
    """Return what stands behind the squashfs of a container, if anything does; a broken one is none: it mounts."""
    used = squashfs.used(head)
    if size < used + -used % squashfs.PADDING + squashfs.PADDING:
        return None
    from stager.trailer import read

    try:
        return read(fd, used)
    except DamagedImage:
        return None


def _recognise_sif(image: Extent, head: bytes) -> ImageInfo:
    table = sif.partitions(image, head)
    declared = sif.root(table)
    inner = image.part(declared.offset, declared.size, name="partition")
    inner_head = inner.read(0, HEAD)
    # Content decides here, too: SIF has no file system type of its own for EROFS.
    found = _file_system(inner, inner_head)
    if found is None:
        what, _ = _foreign(inner, inner_head)
        raise DamagedImage(f"the SIF's root partition is {what}, not squashfs or EROFS")
    kind, compression = found
    root = replace(declared, kind=kind)
    partitions = tuple(root if partition is declared else partition for partition in table)
    return ImageInfo("sif", image.size, compression, root, partitions, root.arch or sif.architecture(head))


def _file_system(extent: Extent, head: bytes) -> tuple[str, str] | None:
    """Kind and compression of the file system that fills `extent`."""
    for kind, compression_of in (("squashfs", squashfs.compression), ("erofs", erofs.compression)):
        compression = compression_of(extent, head)
        if compression is not None:
            return kind, compression
    return None


def _foreign(extent: Extent, head: bytes) -> tuple[str, str]:
    from stager.images.foreign import describe

    return describe(extent, head)
