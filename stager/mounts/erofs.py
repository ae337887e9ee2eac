"""EROFS straight from a file: no loop device, no server (Linux >= 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE)."""

from __future__ import annotations

import errno

from stager.errors import MountFailed, MountUnavailable
from stager.interfaces import ImageInfo, MountReport
from stager.mounts import linux
from stager.mounts.loop import takes_direct_io
from stager.mounts.trust import directory, opened

_CLOSED = frozenset((errno.ENOTBLK, errno.EINVAL, errno.ENODEV, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP))
"""Refusals after which a loop device may still do. ENOTBLK: this kernel wants a block device."""


class ErofsMounter:
    """Mounts EROFS images, whole files or partitions of a SIF, by giving their file to mount(2).

    The mount table shows the source as /proc/self/fd/<number>: the file that was looked at is mounted, whatever its
    path leads to by then. The mountpoint's name tells people which image it is.
    """

    kind = "erofs"

    def obstacle(self, info: ImageInfo) -> str:
        if info.root.kind != "erofs":
            return f"a {info.root.kind} image is no EROFS"
        if not linux.privileged():
            return "mounting EROFS needs root"
        return "" if linux.knows("erofs") else "this kernel has no EROFS"

    def mount(self, image: str, info: ImageInfo, mountpoint: str) -> MountReport:
        with opened(image, info) as fd, directory(mountpoint) as target:
            self._mount(f"/proc/self/fd/{fd}", target, info)
            direct = takes_direct_io(fd) and self._asks_for_direct_io(mountpoint)
        note = "" if direct else "no direct I/O, so memory holds it twice: the kernel or the file system has none"
        return MountReport("erofs", direct_io=direct, note=note)

    def unmount(self, mountpoint: str, *, lazy: bool = False) -> None:
        linux.unmount(mountpoint, lazy=lazy)

    def _mount(self, source: str, target: str, info: ImageInfo) -> None:
        # fsoffset: Linux >= 6.16; a kernel without it says EINVAL.
        offset = [f"fsoffset={info.root.offset}"] if info.root.offset else []
        try:
            try:
                linux.mount(source, target, "erofs", data=",".join([*offset, "directio"]))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                linux.mount(source, target, "erofs", data=",".join(offset))
        except OSError as error:
            if error.errno in _CLOSED:
                raise MountUnavailable(f"the kernel does not mount EROFS from this file: {error.strerror}") from error
            raise MountFailed(f"the kernel refuses the EROFS: {error.strerror}") from error

    def _asks_for_direct_io(self, mountpoint: str) -> bool:
        mount = linux.mounted(mountpoint)
        # The kernel keeps the option on files that have no direct I/O, and reads them with it off (fs/erofs/fileio.c).
        return mount is not None and "directio" in mount.super_options
