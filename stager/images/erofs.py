"""EROFS superblocks, as erofs_fs.h and super.c of Linux define them.

The superblock's crc32c is left to the kernel: staging compares the digest of the whole image anyway.
"""

from __future__ import annotations

import struct

from stager.errors import DamagedImage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stager.images.extent import Extent

OFFSET = 1024
"""Of the superblock in the file system, so that boot sectors and the like fit before it."""

MAGIC = b"\xe2\xe1\xf5\xe0"

ALGORITHMS = ("lz4", "lzma", "deflate", "zstd")
"""Compression algorithms by bit of `available_compr_algs`."""

BLOCK_LOGS = range(9, 17)
"""512 bytes to 64 KiB: the kernel takes no blocks larger than a page, and no Linux has larger pages."""

INCOMPAT_ZERO_PADDING = 0x01
INCOMPAT_COMPR_CFGS = 0x02
INCOMPAT_DEVICE_TABLE = 0x08
INCOMPAT_48BIT = 0x80

# blkszbits, blocks_hi (root_nid unless 48BIT), blocks_lo, feature_incompat, available_compr_algs, extra_devices
_SUPERBLOCK = struct.Struct("<12xBxH20xI40xIHH40x")


def compression(extent: Extent, head: bytes) -> str | None:
    """Return the compressors of the EROFS that fills `extent`, whose first bytes are `head`; None if it is none.

    `none` stands for an uncompressed one, `lz4+zstd` for one that uses both. Images of mkfs.erofs before 1.0 that use
    its old way of LZ4 (`legacy-compress`) cannot be told from uncompressed ones by their superblock.
    Raises DamagedImage for one that is truncated, incomplete or contradicts itself.
    """
    if head[OFFSET : OFFSET + 4] != MAGIC:
        return None
    extent.need(OFFSET + _SUPERBLOCK.size, "an EROFS superblock takes")
    block_log, blocks_hi, blocks, incompat, algorithms, devices = _SUPERBLOCK.unpack_from(head, OFFSET)
    if block_log not in BLOCK_LOGS:
        raise DamagedImage(f"the EROFS superblock is damaged: 2^{block_log} bytes is no block size")
    if incompat & INCOMPAT_48BIT:
        blocks |= blocks_hi << 32
    if not blocks:
        raise DamagedImage("the EROFS superblock is damaged: it promises no blocks at all")
    extent.need(blocks << block_log, "the EROFS superblock promises")
    # The bit also means COMPR_HEAD2, so that only the count tells; the data would lie in files that we do not have.
    if incompat & INCOMPAT_DEVICE_TABLE and devices:
        raise DamagedImage(
            f"incomplete: this EROFS image keeps data in {devices} other files",
            hint="build it as one file, without --blobdev",
        )
    return _algorithm_names(incompat, algorithms)


def _algorithm_names(incompat: int, algorithms: int) -> str:
    if incompat & INCOMPAT_COMPR_CFGS:
        names = [name for bit, name in enumerate(ALGORITHMS) if algorithms >> bit & 1]
        unknown = algorithms >> len(ALGORITHMS)
        return "+".join(names + ["unknown"] * bool(unknown)) or "none"
    return "lz4" if incompat & INCOMPAT_ZERO_PADDING else "none"
