"""Writes a small uncompressed squashfs 4.0, so that the demo has a real image where there is no mksquashfs.

Format: Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h of Linux. All numbers little-endian.
"""

from __future__ import annotations

import struct
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK = 1 << 20
SUPERBLOCK = struct.Struct("<4sIIIIHHHHHHQQQQQQQQ")
ABSENT = (1 << 64) - 1
UNCOMPRESSED_BLOCK = 1 << 24
UNCOMPRESSED_METADATA = 1 << 15
NOT_COMPRESSED_AT_ALL = 0x1 | 0x2 | 0x8 | 0x10 | 0x200 | 0x800
"""Superblock flags: inodes, data, fragments and ids uncompressed; no fragments, no extended attributes."""


def write(file: IO[bytes], content: Mapping[str, bytes]) -> None:
    """Write an image whose root directory holds the files of `content`: ASCII name → up to 4 GiB of bytes.

    All inodes and the directory must fit into one metadata block of 8 KiB: some 1.5 GiB in a few dozen files.
    """
    file.write(bytes(SUPERBLOCK.size))
    inodes, entries = b"", []
    for number, name in enumerate(sorted(content), start=1):
        entries.append((len(inodes), number, name))
        inodes += _file(file, content[name], number)
    directory = _directory(entries)
    root = len(inodes)
    inodes += struct.pack("<HHHHII", 1, 0o755, 0, 0, 0, len(entries) + 1)
    inodes += struct.pack("<IIHHI", 0, 2, len(directory) + 3, 0, len(entries) + 2)
    inode_table = _metadata(file, inodes)
    directory_table = _metadata(file, directory)
    ids = _metadata(file, struct.pack("<I", 0))
    id_table = file.tell()
    file.write(struct.pack("<Q", ids))
    end = file.tell()
    file.write(bytes(-end % 4096))
    file.seek(0)
    tables = (root, end, id_table, ABSENT, inode_table, directory_table, ABSENT, ABSENT)
    file.write(SUPERBLOCK.pack(b"hsqs", len(entries) + 1, 0, BLOCK, 0, 1, 20, NOT_COMPRESSED_AT_ALL, 1, 4, 0, *tables))


def _file(file: IO[bytes], data: bytes, number: int) -> bytes:
    """Write a file's blocks; return its inode."""
    start = file.tell()
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    for block in blocks:
        file.write(block)
    sizes = [len(block) | UNCOMPRESSED_BLOCK for block in blocks]
    head = struct.pack("<HHHHII", 2, 0o644, 0, 0, 0, number)
    return head + struct.pack(f"<IIII{len(sizes)}I", start, 0xFFFFFFFF, 0, len(data), *sizes)


def _directory(entries: list[tuple[int, int, str]]) -> bytes:
    listing = struct.pack("<III", len(entries) - 1, 0, 0)
    for offset, number, name in entries:
        listing += struct.pack("<HhHH", offset, number, 2, len(name) - 1) + name.encode("ascii")
    return listing


def _metadata(file: IO[bytes], data: bytes) -> int:
    start = file.tell()
    file.write(struct.pack("<H", len(data) | UNCOMPRESSED_METADATA) + data)
    return start
