"""Loop devices by their ioctls (loop(4), linux/loop.h): neither mount(8) nor libmount can ask for direct I/O."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager.errors import MountUnavailable

if TYPE_CHECKING:
    from stager.clock import Clock

CONTROL = "/dev/loop-control"

SET_FD, CLR_FD, SET_STATUS64, GET_STATUS64 = 0x4C00, 0x4C01, 0x4C04, 0x4C05
SET_DIRECT_IO, SET_BLOCK_SIZE, CONFIGURE = 0x4C08, 0x4C09, 0x4C0A
CTL_GET_FREE = 0x4C82
READ_ONLY, AUTOCLEAR, DIRECT_IO = 1, 4, 16

_INFO = struct.Struct("=5Q4I64s64s32s2Q")
"""loop_info64: device, inode, rdevice, offset, sizelimit; number, two of encryption, flags; names, key, init."""
_CONFIG = struct.Struct(f"=II{_INFO.size}s64x")
"""loop_config: backing descriptor, block size (0: the kernel's choice), loop_info64."""

SECTOR = 512
"""A loop device ends at its last whole sector; the tail of a file behind it is not there (measured on Linux 6.18)."""

PAGE = 4096
"""Sector size of 4Kn disks, below which they take no direct I/O."""

ATTEMPTS = 64
"""To get a device that others want, too; with the pauses in between, some 2 s. systemd tries as often."""

LONGEST_PAUSE = 0.06
"""Seconds; random, so that those who met once do not meet again."""

_GONE = frozenset((errno.EBUSY, errno.ENXIO))
"""The device was free, but is not any more; ENXIO: it is being cleared."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The part of a file that a device shows, in bytes; `name` of the file for people."""

    offset: int
    size: int
    name: str


class LoopDevice:
    """An open loop device at `path`; closing it frees it unless it is mounted."""

    __slots__ = ("fd", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def direct_io(self) -> bool:
        """Whether the kernel does direct I/O on the file, which it may refuse without saying so."""
        status = bytearray(_INFO.size)
        fcntl.ioctl(self.fd, GET_STATUS64, status)
        return bool(_INFO.unpack(status)[8] & DIRECT_IO)

    def configure(self, backing: int, part: Stretch) -> None:
        """Bind to the descriptor `backing`. Raises OSError: EBUSY if somebody else was quicker, EAGAIN."""
        # A stretch that is no multiple of 4 KiB would lose its tail on a 4Kn disk, as Linux >= 6.14 makes the device's
        # sectors as large as the disk's for the sake of direct I/O.
        block_size = 0 if part.size % PAGE == 0 else SECTOR
        info = _info(part, READ_ONLY | AUTOCLEAR | DIRECT_IO)
        try:
            fcntl.ioctl(self.fd, CONFIGURE, _CONFIG.pack(backing, block_size, info))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTTY):
                raise
            self.configure_in_steps(backing, part)
        self.prefer_direct_io(part)

    def configure_in_steps(self, backing: int, part: Stretch) -> None:
        """Do the same on Linux < 5.8, which has no LOOP_CONFIGURE. Raises OSError."""
        fcntl.ioctl(self.fd, SET_FD, backing)
        try:
            fcntl.ioctl(self.fd, SET_STATUS64, _info(part, AUTOCLEAR))
        except OSError:
            fcntl.ioctl(self.fd, CLR_FD)
            raise
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.fd, SET_DIRECT_IO, 1)

    def prefer_direct_io(self, part: Stretch) -> None:
        """Try again with larger sectors: before Linux 6.14, those of 512 bytes rule out direct I/O on a 4Kn disk."""
        if self.direct_io or part.offset % PAGE or part.size % PAGE:
            return
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.fd, SET_BLOCK_SIZE, PAGE)
            fcntl.ioctl(self.fd, SET_DIRECT_IO, 1)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)


def _info(part: Stretch, flags: int) -> bytes:
    name = os.fsencode(part.name)[:63]
    return _INFO.pack(0, 0, 0, part.offset, part.size, 0, 0, 0, flags, name, b"", b"", 0, 0)


def attach(backing: int, part: Stretch, clock: Clock) -> LoopDevice:
    """Return a free loop device, now bound to part of the file `backing`, read-only.

    Raises MountUnavailable when there is none to be had.
    """
    for _ in range(ATTEMPTS):
        device = _free_device()
        if device is not None:
            try:
                device.configure(backing, part)
            except OSError as error:
                device.close()
                _tolerate(error, backing)
            else:
                return device
        clock.sleep(random.uniform(0.0, LONGEST_PAUSE))  # noqa: S311 - spreads load, protects nothing
    raise MountUnavailable(f"no loop device could be had in {ATTEMPTS} attempts")


def _free_device() -> LoopDevice | None:
    """Return a device that was free a moment ago, or None if it is not any more."""
    path = CONTROL
    try:
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            # Adds a device if none is free.
            path = f"/dev/loop{fcntl.ioctl(control, CTL_GET_FREE)}"
        finally:
            os.close(control)
        return LoopDevice(path)
    except OSError as error:
        if path != CONTROL and error.errno in _GONE:
            return None
        raise MountUnavailable(f"no loop device is to be had: {path}: {error.strerror}") from error


def _tolerate(error: OSError, backing: int) -> None:
    """Make the next attempt worth while, or say why there is none."""
    if error.errno == errno.EAGAIN:
        os.fsync(backing)  # of dirty pages there may be too many to be written in passing
    elif error.errno not in _GONE:
        raise MountUnavailable(f"the loop device cannot be set up: {error.strerror}") from error
