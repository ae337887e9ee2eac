"""Kernel mounts through a loop device: one server for all, and one copy in memory thanks to direct I/O."""

from __future__ import annotations

import errno
import os

from stager import filesystem
from stager.clock import SystemClock
from stager.errors import MountUnavailable
from stager.interfaces import ImageInfo, MountReport, Partition
from stager.mounts import linux
from stager.mounts.device import CONTROL, PAGE, SECTOR, Stretch, attach
from stager.mounts.trust import directory, opened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stager.clock import Clock

BLOCKS = {"squashfs": 1024, "erofs": 512}
"""Bytes that the kernel's file systems read at once at least, and so must be there to the last one.

squashfs: SQUASHFS_DEVBLK_SIZE; kernels with CONFIG_SQUASHFS_4K_DEVBLK_SIZE read 4096. An image of an odd number of
512-byte sectors cannot be mounted ("attempt to access beyond end of device", measured on 6.18).
"""


class LoopMounter:
    """Mounts a partition through a loop device that goes away with the mount."""

    kind = "loop"

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def obstacle(self, info: ImageInfo) -> str:
        if info.root.kind not in BLOCKS:
            return f"the kernel does not mount {info.root.kind} images"
        if not linux.privileged():
            return "loop devices need root"
        if not os.path.exists(CONTROL):
            return f"there is no {CONTROL}"
        return "" if linux.knows(info.root.kind) else f"this kernel has no {info.root.kind}"

    def mount(self, image: str, info: ImageInfo, mountpoint: str) -> MountReport:
        with opened(image, info) as fd, directory(mountpoint) as target:
            part = stretch(info.root, os.fstat(fd).st_size, image)
            device = attach(fd, part, self._clock)
            try:
                linux.mount(device.path, target, info.root.kind)
                direct = device.direct_io
            except OSError as error:
                if error.errno == errno.EIO and part.size % PAGE:
                    raise _not_padded(PAGE) from error
                raise linux.refusal(error, info) from error
            finally:
                device.close()
            note = "" if direct else f"no direct I/O, so memory holds it twice: {why_buffered(fd, part)}"
        return MountReport("loop", direct_io=direct, device=device.path, note=note)

    def unmount(self, mountpoint: str, *, lazy: bool = False) -> None:
        linux.unmount(mountpoint, lazy=lazy)


def stretch(partition: Partition, size: int, image: str) -> Stretch:
    """Return what a loop device must show of a file of `size` bytes so that the partition's last byte is there.

    Bytes behind the partition do no harm: the file system knows where it ends. Raises MountUnavailable if the file
    has too few of them.
    """
    for unit in (PAGE, BLOCKS[partition.kind]):
        padded = -(-partition.size // unit) * unit
        if partition.offset + padded <= size:
            return Stretch(partition.offset, padded, image)
    raise _not_padded(BLOCKS[partition.kind])


def _not_padded(unit: int) -> MountUnavailable:
    return MountUnavailable(
        f"the image is not padded to {unit} bytes, and a loop device would cut off its end",
        hint="build it without -nopad; --mount=fuse and --mount=none work",
    )


def why_buffered(fd: int, part: Stretch) -> str:
    """Return the likely reason for which the kernel silently did without direct I/O on an image."""
    if not takes_direct_io(fd):
        return f"{filesystem.inspect(part.name).fstype or 'the file system'} has none"
    sector = sector_size(os.fstat(fd).st_dev)
    for what, number in (("offset", part.offset), ("size", part.size)):
        if number % sector:
            return f"the partition's {what} {number} is no multiple of the disk's sectors of {sector} bytes"
    return "the kernel declined"


def takes_direct_io(fd: int) -> bool:
    """Whether the file can be opened for direct I/O."""
    try:
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def sector_size(device: int) -> int:
    """Return the logical sector size, in bytes, of the disk or partition with this number; 512 if it has none."""
    block = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for folder in (block, f"{os.path.realpath(block)}/.."):  # a partition's queue is its disk's
        try:
            with open(f"{folder}/queue/logical_block_size", encoding="ascii") as size:
                return int(size.read())
        except OSError:
            continue
    return SECTOR
