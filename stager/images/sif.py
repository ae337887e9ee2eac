"""The Singularity Image Format: which file systems a SIF holds, and which one is its root.

Layout and numbers: github.com/sylabs/sif and github.com/apptainer/sif, pkg/sif/sif.go. All integers are little-endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from stager.errors import DamagedImage
from stager.interfaces import Partition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.images.extent import Extent

MAGIC = b"SIF_MAGIC\0"
MAGIC_OFFSET = 32
"""Behind the launch script, a `#!` line."""

VERSION = b"01\0"
"""The only one there has been since SIF left its prototype; libraries refuse every other."""

MOST_DESCRIPTORS = 64
"""How many are read (37 KiB). SIFs are made with room for 48, and the root partition is among the first few."""

DATA_PARTITION = 0x4004
DATA_OCI = (0x400A, 0x400B)
"""OCI root index and OCI blob: the objects of an OCI-SIF, which Singularity 4 makes with --oci."""

SYSTEM_PRIMARY = 2

KINDS = {1: "squashfs", 2: "ext3", 3: "archive", 4: "raw", 5: "encrypted squashfs", 6: "gocryptfs"}
"""File system type of a partition → word; 6 is Apptainer's, for encryption without privileges."""

ARCHITECTURES = {
    b"01": "386", b"02": "amd64", b"03": "arm", b"04": "arm64", b"05": "ppc64", b"06": "ppc64le", b"07": "mips",
    b"08": "mipsle", b"09": "mips64", b"10": "mips64le", b"11": "s390x", b"12": "riscv64",
}  # fmt: skip
"""Architecture code → name, in the words of Go."""

_HEADER = struct.Struct("<42x3s3s40xqq24x")
"""version, arch, …, descriptors in total, their offset, …"""
_DESCRIPTOR = struct.Struct("<iBI8xqq168xii3s373x")
"""data type, used, id, …, offset, length, …, file system type, partition type, architecture"""

DESCRIPTOR_SIZE = _DESCRIPTOR.size


class _Object(NamedTuple):
    """A descriptor in use; offset and size in bytes."""

    datatype: int
    identity: int
    offset: int
    size: int
    fstype: int
    parttype: int
    arch: bytes


def is_sif(head: bytes) -> bool:
    """Whether these are the first bytes of a SIF."""
    return head[MAGIC_OFFSET : MAGIC_OFFSET + len(MAGIC)] == MAGIC


def partitions(image: Extent, head: bytes) -> list[Partition]:
    """Return the partitions of the SIF `image`, whose first bytes are `head`, in the order of its descriptors.

    Raises DamagedImage for one of another version, or one that does not hold all the data objects it describes.
    """
    image.need(_HEADER.size, "a SIF header takes")
    version, _, total, start = _HEADER.unpack_from(head)
    if version != VERSION:
        raise DamagedImage(f"SIF version {_text(version)!r} is not supported, only 01 is")
    if total < 0 or start < _HEADER.size:
        raise DamagedImage(f"the SIF header is damaged: {total} descriptors at byte {start}")
    image.need(start + total * DESCRIPTOR_SIZE, "the SIF's table of descriptors ends after")
    objects = list(_objects(image.read(start, min(total, MOST_DESCRIPTORS) * DESCRIPTOR_SIZE)))
    for item in objects:
        if item.offset < 0 or item.size < 0:
            raise DamagedImage(f"the SIF is damaged: object {item.identity} is {item.size} bytes at {item.offset}")
        image.need(item.offset + item.size, f"data object {item.identity} of the SIF ends after")
    found = [_partition(item) for item in objects if item.datatype == DATA_PARTITION]
    if not found and any(item.datatype in DATA_OCI for item in objects):
        raise DamagedImage("an OCI-SIF holds no partition to mount", hint="build the SIF again without --oci")
    return found


def _objects(table: bytes) -> Iterator[_Object]:
    for datatype, used, *rest in _DESCRIPTOR.iter_unpack(table):
        if used:
            yield _Object(datatype, *rest)


def _partition(item: _Object) -> Partition:
    kind = KINDS.get(item.fstype, f"file system type {item.fstype}")
    primary = item.parttype == SYSTEM_PRIMARY
    return Partition(item.offset, item.size, kind, ARCHITECTURES.get(item.arch[:2], ""), primary)


def root(found: list[Partition]) -> Partition:
    """Return the one that a container starts from, its kind still as declared.

    Raises DamagedImage if there is none, or more than one, or one that cannot be mounted without a key or in its age.
    """
    primary = [partition for partition in found if partition.primary]
    if len(primary) != 1:
        raise DamagedImage(
            f"the SIF has {len(primary) or 'no'} primary system partition{'s' * (len(primary) > 1)}",
            hint="see `siftool list`; `siftool setprim` marks a partition as the root file system",
        )
    kind = primary[0].kind
    if kind in ("encrypted squashfs", "gocryptfs"):
        raise DamagedImage(
            f"the SIF's root partition is encrypted ({kind})",
            hint="no node could mount it: build it without --encrypt, or run it with Apptainer and its key",
        )
    if kind == "ext3":
        raise DamagedImage(
            "the SIF's root partition is ext3, a format of early Singularity",
            hint="rebuild it as squashfs: apptainer build NEW.sif OLD.sif",
        )
    return primary[0]


def architecture(head: bytes) -> str:
    """Return the architecture that the SIF's header names, or an empty string."""
    return ARCHITECTURES.get(_HEADER.unpack_from(head)[1][:2], "")


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("ascii", "replace")
