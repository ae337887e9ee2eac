"""The root of a new squashfs, put right: mksquashfs 4.5 gives it the time of day and the caller's identity.

That would be other bytes on every node. Options of later versions (-root-time, -root-uid) would be a second way; this
one was tried with 4.5.1, 4.6.1 and 4.7.5. The inode table is written without compression for that (-noI), and the
root's inode changed in its place. The identities stand once each in a table of their own, to which the root's come
last, so that table is written anew, and what is behind it, the extended attributes, moved. Field orders: squashfs_fs.h.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from stager.errors import ConverterMissing

if TYPE_CHECKING:
    from stager.layers.tree import Node

_SUPERBLOCK = struct.Struct("<4s4I6H8Q")
_NO_IDS, _ROOT, _USED, _IDS, _XATTRS, _INODES, _LOOKUP = 8, 11, 12, 13, 14, 15, 18
_ABSENT = 0xFFFF_FFFF_FFFF_FFFF
_METADATA = 8192
_PLAIN = 0x8000
IDS_MAX = 0xFFFF - 2
"""Their number has 16 bits, and mksquashfs needs two for the caller, before they are taken out here."""

PAGE = 4096
"""To a multiple of it mksquashfs pads, because loop devices have whole sectors."""


class _Image:
    """The superblock of an open image, changed in memory and then written."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        head = os.pread(fd, _SUPERBLOCK.size, 0)
        if len(head) < _SUPERBLOCK.size:
            raise ConverterMissing("mksquashfs wrote no squashfs")
        self.fields = list(_SUPERBLOCK.unpack(head))

    def ids(self) -> list[int]:
        """Return the identities, in their order."""
        found: list[int] = []
        for at in _unpacked(self._index()):
            length = self._read(at, 2)
            size = int.from_bytes(length, "little")
            if not size & _PLAIN:
                raise ConverterMissing("mksquashfs compressed a table that it should not have")
            found += struct.unpack(f"<{(size & ~_PLAIN) // 4}I", self._read(at + 2, size & ~_PLAIN))
        return found

    def _index(self) -> bytes:
        return self._read(self.fields[_IDS], 8 * -(-self.fields[_NO_IDS] * 4 // _METADATA))

    def _read(self, at: int, size: int) -> bytes:
        data = os.pread(self.fd, size, at)
        if len(data) < size:
            raise ConverterMissing("mksquashfs wrote a squashfs that is too short")
        return data

    def replace_ids(self, ids: list[int]) -> None:
        """Write the identities anew, and what is behind them."""
        index = self._index()
        start = _unpacked(index)[0]
        end = self.fields[_IDS] + len(index)
        behind = self._read(end, self.fields[_USED] - end)
        table, count = _blocks(ids, start)
        shift = start + len(table) - end
        if behind and self.fields[_XATTRS] != _ABSENT:
            behind = _moved(behind, self.fields[_XATTRS] - end, shift)
            self.fields[_XATTRS] += shift
        self.fields[_NO_IDS] = len(ids)
        self.fields[_IDS] = start + len(table) - 8 * count
        self.fields[_USED] = start + len(table) + len(behind)
        _write(self.fd, table + behind, start)
        os.ftruncate(self.fd, self.fields[_USED])
        os.ftruncate(self.fd, -(-self.fields[_USED] // PAGE) * PAGE)

    def describe_root(self, root: Node, ids: list[int]) -> None:
        """Change the root's inode; its first words are the same for short and for long directories."""
        block, offset = self.fields[_ROOT] >> 16, self.fields[_ROOT] & 0xFFFF
        words = struct.pack("<HHHI", root.mode, ids.index(root.uid), ids.index(root.gid), root.mtime)
        at = self.fields[_INODES] + block
        for index, byte in enumerate(words, offset + 2):
            # A block holds 8192 bytes behind two of its own, and the inode may go on in the next one.
            block, within = divmod(index, _METADATA)
            if not self._read(at + block * (_METADATA + 2), 2)[1] & 0x80:
                raise ConverterMissing("mksquashfs compressed inodes that it should not have")
            _write(self.fd, bytes((byte,)), at + block * (_METADATA + 2) + 2 + within)

    def write(self) -> None:
        """Write the superblock."""
        _write(self.fd, _SUPERBLOCK.pack(*self.fields), 0)


def settle(fd: int, root: Node, others: set[int]) -> None:
    """Make the root of the image in `fd` what it should be; `others` are the identities of everything else.

    Raises ConverterMissing if the image is not as mksquashfs is known to write it.
    """
    image = _Image(fd)
    if image.fields[_LOOKUP] != _ABSENT:
        raise ConverterMissing("mksquashfs wrote a table for NFS that it should not have")
    ids = image.ids()
    if set(ids[: len(others)]) != others:
        raise ConverterMissing("mksquashfs wrote other users and groups than those of the files, or in another order")
    ids = ids[: len(others)]
    ids += [number for number in dict.fromkeys((root.uid, root.gid)) if number not in ids]
    image.replace_ids(ids)
    image.describe_root(root, ids)
    image.write()


def _unpacked(index: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(index) // 8}Q", index)


def _blocks(ids: list[int], start: int) -> tuple[bytes, int]:
    """Return blocks and index of a table of identities that begins at `start`, and how many blocks these are."""
    table, places = b"", []
    for first in range(0, len(ids), _METADATA // 4):
        data = struct.pack(f"<{len(ids[first : first + _METADATA // 4])}I", *ids[first : first + _METADATA // 4])
        places.append(start + len(table))
        table += struct.pack("<H", _PLAIN | len(data)) + data
    return table + struct.pack(f"<{len(places)}Q", *places), len(places)


def _moved(data: bytes, header: int, shift: int) -> bytes:
    """Change the offsets in the extended attributes' header (start, number, unused) and in the index behind it."""
    start, number, unused = struct.unpack_from("<QII", data, header)
    places = struct.unpack(f"<{(len(data) - header - 16) // 8}Q", data[header + 16 :])
    moved = struct.pack(f"<{len(places)}Q", *(place + shift for place in places))
    return data[:header] + struct.pack("<QII", start + shift, number, unused) + moved


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, at)
        view, at = view[count:], at + count
