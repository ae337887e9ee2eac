"""Squashfs superblocks, as squashfs_fs.h and super.c of Linux define them.

What the kernel would refuse to mount is refused here: once, instead of on every node.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from stager.errors import DamagedImage

if TYPE_CHECKING:
    from stager.images.extent import Extent

COMPRESSION = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
"""Compressor id → name, as mksquashfs spells it."""

MAGIC = b"hsqs"
OTHER_MAGICS = {b"sqsh": "big-endian", b"shsq": "LZMA-patched", b"qshs": "LZMA-patched big-endian"}
"""Squashfs 3 and older in the other byte order, and vendors' forks of it; see magic(5) of file(1)."""

BLOCK_LOGS = range(12, 21)
"""4 KiB to 1 MiB: what mksquashfs makes; SQUASHFS_FILE_MAX_LOG is 20."""

PADDING = 4096
"""mksquashfs makes files a multiple of this, so that they can be loop-mounted (-nopad turns it off)."""

_SUPERBLOCK = struct.Struct("<4s4I6H8Q")
_ABSENT = 0xFFFF_FFFF_FFFF_FFFF


class _Superblock(NamedTuple):
    magic: bytes
    inodes: int
    mkfs_time: int
    block_size: int
    fragments: int
    compression: int
    block_log: int
    flags: int
    no_ids: int
    major: int
    minor: int
    root_inode: int
    bytes_used: int
    id_table: int
    xattr_table: int
    inode_table: int
    directory_table: int
    fragment_table: int
    lookup_table: int


def compression(extent: Extent, head: bytes) -> str | None:
    """Return the compressor of the squashfs that fills `extent`, whose first bytes are `head`; None if it is none.

    Raises DamagedImage for one that is truncated, of an unsupported version or contradicts itself.
    """
    magic = head[:4]
    if magic != MAGIC and magic not in OTHER_MAGICS:
        return None
    extent.need(_SUPERBLOCK.size, "a squashfs superblock takes")
    if magic in OTHER_MAGICS:
        raise _unsupported(f"{OTHER_MAGICS[magic]} squashfs")
    superblock = _Superblock._make(_SUPERBLOCK.unpack_from(head))
    # The version stands where it stood in 1.0 to 3.1; everything else moved.
    if (superblock.major, superblock.minor) != (4, 0):
        raise _unsupported(f"squashfs {superblock.major}.{superblock.minor}")
    extent.need(superblock.bytes_used, "the squashfs superblock promises")
    _check(superblock)
    return COMPRESSION[superblock.compression]


def used(head: bytes) -> int:
    """Return how many bytes the sound squashfs has whose first ones are `head`, without what pads the file."""
    return _Superblock._make(_SUPERBLOCK.unpack_from(head)).bytes_used


def _check(superblock: _Superblock) -> None:
    if superblock.block_log not in BLOCK_LOGS or superblock.block_size != 1 << superblock.block_log:
        raise _damaged(f"{superblock.block_size} (log {superblock.block_log}) is no block size")
    if superblock.compression not in COMPRESSION:
        raise _damaged(f"{superblock.compression} is no known compression")
    if not superblock.inode_table < superblock.directory_table:
        raise _damaged("its directory table does not follow its inode table")
    for name, start in _tables(superblock):
        if not _SUPERBLOCK.size <= start < superblock.bytes_used:
            raise _damaged(f"its {name} table would start at byte {start} of {superblock.bytes_used}")


def _tables(superblock: _Superblock) -> list[tuple[str, int]]:
    """Name and offset of every table that the kernel would look for."""
    tables = [("inode", superblock.inode_table), ("directory", superblock.directory_table), ("id", superblock.id_table)]
    if superblock.fragments:
        tables.append(("fragment", superblock.fragment_table))
    optional = [("xattr", superblock.xattr_table), ("export", superblock.lookup_table)]
    return tables + [(name, start) for name, start in optional if start != _ABSENT]


def _damaged(why: str) -> DamagedImage:
    return DamagedImage(f"the squashfs superblock is damaged: {why}")


def _unsupported(what: str) -> DamagedImage:
    return DamagedImage(
        f"{what} is not supported, only version 4.0 (Linux 2.6.29 and later) is",
        hint="unpack it with an old unsquashfs and build it again with mksquashfs 4 or later",
    )
