"""Small images for tests: minimal ones from pure Python, real ones from the tools that users have.

The minimal squashfs and EROFS images hold one empty directory and are complete: the kernel mounts them (padded to the
device's sector). Field orders: squashfs_fs.h and erofs_fs.h of Linux; SIF: pkg/sif/sif.go of github.com/sylabs/sif.
"""

from __future__ import annotations

import os
import struct
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stager.images import recognise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stager.interfaces import ImageInfo

SIF_HEADER = struct.Struct("<32s10s3s3s16s8q")
SIF_DESCRIPTOR = struct.Struct("<iBIIIqqqqqqq128s384s")
SIF_EXTRA = struct.Struct("<ii3s")

_ABSENT = 0xFFFF_FFFF_FFFF_FFFF
_DATA = 4096
"""Where the first data object of a minimal SIF begins: aligned as siftool aligns partitions."""

_SIF_ARCH = {"386": 1, "amd64": 2, "arm": 3, "arm64": 4, "ppc64": 5, "ppc64le": 6, "s390x": 11, "riscv64": 12}


def minimal_squashfs(payload: bytes = b"") -> bytes:
    """Return a squashfs 4.0 image (gzip, nothing compressed) of one empty directory.

    `payload` lies between superblock and tables, so that images of any size and digest can be made. `bytes_used` is
    the length of what is returned.
    """
    inodes = 96 + len(payload)
    inode_table = _metadata(struct.pack("<HHHHIIIIHHI", 1, 0o755, 0, 0, 0, 1, 0, 2, 3, 0, 2))
    directories = inodes + len(inode_table)
    directory_table = _metadata(b"\0" * 4)
    identities = directories + len(directory_table)
    id_table = _metadata(b"\0" * 4)
    index = identities + len(id_table)
    tables = inode_table + directory_table + id_table + struct.pack("<Q", identities)
    superblock = struct.pack(
        "<4sIIIIHHHHHHQQQQQQQQ",
        *(b"hsqs", 1, 0, 131072, 0, 1, 17, 0x10, 1, 4, 0),
        *(0, inodes + len(tables), index, _ABSENT, inodes, directories, _ABSENT, _ABSENT),
    )
    return superblock + payload + tables


def _metadata(content: bytes) -> bytes:
    return struct.pack("<H", 0x8000 | len(content)) + content


def minimal_erofs(payload: bytes = b"") -> bytes:
    """Return an EROFS image (4 KiB blocks, not compressed) of one empty directory; `payload` fills further blocks."""
    data = payload + b"\0" * (-len(payload) % 4096)
    root = 1152 // 32
    superblock = struct.pack(
        "<IIIBBHQQIIII16s16sIHHHBBIQ24s",
        *(0xE0F5_E1E2, 0, 0, 12, 0, root, 1, 0, 0, 1 + len(data) // 4096, 0, 0),
        *(b"\0" * 16, b"", 0, 0, 0, 0, 0, 0, 0, 0, b""),
    )
    entries = struct.pack("<QHBBQHBB", root, 24, 2, 0, root, 25, 2, 0) + b"..."
    inode = struct.pack("<HHHHIIIIHHI", 2 << 1, 0, 0o40755, 2, len(entries), 0, 0xFFFF_FFFF, 1, 0, 0, 0)
    return (b"\0" * 1024 + superblock + inode + entries).ljust(4096, b"\0") + data


def minimal_sif(inner: bytes | None = None, **overrides: int | bytes) -> bytes:
    """Return a SIF of one primary system partition that holds `inner` (default: the minimal squashfs).

    `overrides` replaces any field that `sif_descriptor` or `sif_bytes` knows, right or wrong.
    """
    data = minimal_squashfs() if inner is None else inner
    header = {name: value for name, value in overrides.items() if name in _SIF_HEADER_FIELDS}
    described = {name: value for name, value in overrides.items() if name not in _SIF_HEADER_FIELDS}
    descriptor = sif_descriptor(**{"filelen": len(data), "storlen": len(data), **described})
    return sif_bytes([descriptor], data, **header)


_SIF_HEADER_FIELDS = frozenset(
    ("launch", "magic", "version", "arch", "dfree", "dtotal", "descoff", "descrlen", "dataoff", "datalen")
)
_SIF_DESCRIPTOR_FIELDS: dict[str, int | bytes] = {
    "datatype": 0x4004, "used": 1, "id": 1, "groupid": 0xF000_0001, "linkid": 0, "offset": _DATA, "filelen": 0,
    "storlen": 0, "fstype": 1, "parttype": 2, "partarch": b"02", "name": b"rootfs",
}  # fmt: skip


def sif_descriptor(**fields: int | bytes) -> bytes:
    """Return one 585-byte descriptor: used, a primary system partition of squashfs at 4096, unless told otherwise."""
    unknown = fields.keys() - _SIF_DESCRIPTOR_FIELDS.keys()
    assert not unknown, unknown
    of = _SIF_DESCRIPTOR_FIELDS | fields
    extra = SIF_EXTRA.pack(of["fstype"], of["parttype"], of["partarch"])
    common = (of[name] for name in ("datatype", "used", "id", "groupid", "linkid", "offset", "filelen", "storlen"))
    return SIF_DESCRIPTOR.pack(*common, 0, 0, 0, 0, of["name"], extra)


def sif_bytes(descriptors: list[bytes], data: bytes = b"", **fields: int | bytes) -> bytes:
    """Return a SIF with these descriptors behind the header and `data` from the next multiple of 4096 on."""
    table = b"".join(descriptors)
    start = -(-(128 + len(table)) // _DATA) * _DATA
    of: dict[str, int | bytes] = {
        "launch": b"#!/usr/bin/env run-singularity\n", "magic": b"SIF_MAGIC", "version": b"01", "arch": b"02",
        "dfree": 0, "dtotal": len(descriptors), "descoff": 128, "descrlen": len(table),
        "dataoff": start, "datalen": len(data),
    }  # fmt: skip
    of |= fields
    words = (of[name] for name in ("dfree", "dtotal", "descoff", "descrlen", "dataoff", "datalen"))
    header = SIF_HEADER.pack(of["launch"], of["magic"], of["version"], of["arch"], b"\1" * 16, 0, 0, *words)
    return (header + table).ljust(start, b"\0") + data


@contextmanager
def in_memory(content: bytes) -> Iterator[int]:
    """Yield a descriptor of a file that holds `content` and has no name."""
    fd = os.memfd_create("image")
    try:
        os.write(fd, content)
        yield fd
    finally:
        os.close(fd)


def recognised(content: bytes) -> ImageInfo:
    """Return what `recognise` says of a file that holds `content`."""
    with in_memory(content) as fd:
        return recognise(fd, len(content))


def small_tree(path: Path) -> Path:
    """Make a directory at `path` with a file, a program, a link and 20 kB of text to compress."""
    (path / "bin").mkdir(parents=True)
    (path / "bin" / "hello").write_text("#!/bin/sh\necho hello\n", encoding="ascii")
    (path / "bin" / "hello").chmod(0o755)
    (path / "etc-release").symlink_to("bin/hello")
    (path / "text").write_text("all work and no play\n" * 1000, encoding="ascii")
    return path


def squashfs(path: Path, tree: Path, compression: str = "gzip", *options: str) -> Path:
    """Make a squashfs image of `tree` at `path` by mksquashfs; `options` are added to its command line."""
    flags = ("-comp", compression, "-noappend", "-quiet", "-no-progress", "-all-root", "-processors", "1")
    return _made(path, "mksquashfs", str(tree), str(path), *flags, *options)


def erofs(path: Path, tree: Path, *options: str) -> Path:
    """Make an EROFS image of `tree` at `path` by mkfs.erofs, with `options` such as `-zlz4`."""
    return _made(path, "mkfs.erofs", "--quiet", *options, str(path), str(tree))


def sif(path: Path, partition: Path, arch: str = "amd64", *, fstype: int = 1, parttype: int = 2) -> Path:
    """Make a SIF at `path` by siftool, with the file `partition` as its only data object."""
    _made(path, "siftool", "new", str(path))
    return add_to_sif(path, partition, arch, fstype=fstype, parttype=parttype)


def add_to_sif(path: Path, partition: Path, arch: str = "amd64", *, fstype: int = 1, parttype: int = 2) -> Path:
    """Add one more partition to a SIF."""
    kind = ("--datatype", "4", "--partfs", str(fstype), "--parttype", str(parttype))
    return _made(path, "siftool", "add", *kind, "--partarch", str(_SIF_ARCH[arch]), str(path), str(partition))


def _made(path: Path, *command: str) -> Path:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return path
