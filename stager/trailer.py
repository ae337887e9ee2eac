r"""How a container image is to be run, behind its squashfs: where mounts do not look, and the file's digest does.

    squashfs │ padding to 4096 │ b"stage-image container 1\n" │ length, 8 bytes, little-endian │ JSON │ padding to 4096

The JSON is `ContainerConfig.describe`. A squashfs says itself how long it is, so what follows it disturbs nobody.
"""

from __future__ import annotations

import json
import os

from stager.errors import DamagedImage
from stager.oci import CONFIG_MAX, ContainerConfig, read_described

MAGIC = b"stage-image container 1\n"
PAGE = 4096
"""Squashfs images are padded to it, and loop devices want whole sectors of at most that size."""

_LENGTH = 8


def pack(config: ContainerConfig) -> bytes:
    """Return the trailer: the same bytes for the same configuration, a multiple of 4096 of them."""
    text = json.dumps(config.describe(), sort_keys=True, separators=(",", ":")).encode()
    trailer = MAGIC + len(text).to_bytes(_LENGTH, "little") + text
    return trailer + b"\0" * (-len(trailer) % PAGE)


def unpack(data: bytes) -> ContainerConfig | None:
    """Return what `pack` was given, or None if this is no trailer. Raises DamagedImage for a broken one."""
    length = _length(data)
    if length is None:
        return None
    start = len(MAGIC) + _LENGTH
    if len(data) - start < length:
        raise DamagedImage("the container's configuration behind the squashfs is cut off")
    try:
        content = json.loads(data[start : start + length])
    except (ValueError, RecursionError) as error:
        raise DamagedImage("the container's configuration behind the squashfs is not JSON") from error
    if not isinstance(content, dict):
        raise DamagedImage("the container's configuration behind the squashfs is not a JSON object")
    return read_described(content)


def read(fd: int, used: int) -> ContainerConfig | None:
    """Return the configuration behind a squashfs of `used` bytes that fills a file from its start; None without one.

    Raises DamagedImage for a broken one. No more than a configuration may have is read.
    """
    start = -(-used // PAGE) * PAGE
    head = os.pread(fd, len(MAGIC) + _LENGTH, start)
    length = _length(head)
    return None if length is None else unpack(head + os.pread(fd, length, start + len(head)))


def _length(head: bytes) -> int | None:
    if not head.startswith(MAGIC):
        return None
    field = head[len(MAGIC) : len(MAGIC) + _LENGTH]
    length = int.from_bytes(field, "little")
    if len(field) < _LENGTH or length > 2 * CONFIG_MAX:
        raise DamagedImage("the container's configuration behind the squashfs says a wrong length")
    return length
