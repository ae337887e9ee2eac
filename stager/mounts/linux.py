"""mount(2) and umount2(2), which Python lacks, and what this process may do with them."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

from stager import mountinfo
from stager.errors import InUse, MountFailed, MountUnavailable, StageImageError

if TYPE_CHECKING:
    from stager.interfaces import ImageInfo
    from stager.mountinfo import Mount

# sys/mount.h
MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8

CAP_SYS_ADMIN = 21
"""linux/capability.h"""

MOST_STACKED = 16
"""Mounts on one mountpoint that `unmount` takes away, so that it ends even if somebody goes on mounting there."""

_ALWAYS_COMPILED_IN = {"squashfs": {"gzip"}, "erofs": {"none", "lz4"}}
"""Compressions that a kernel which knows the file system can read; the others are options of its configuration."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def mount(source: str, target: str, fstype: str, *, data: str = "") -> None:
    """Mount read-only, nosuid, nodev. `data` are the file system's own options, with commas between. Raises OSError."""
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV
    if _libc.mount(os.fsencode(source), os.fsencode(target), fstype.encode(), flags, data.encode() or None):
        raise _error(target)


def umount(mountpoint: str, flags: int = 0) -> None:
    """Take away the uppermost mount on `mountpoint`. Raises OSError."""
    if _libc.umount2(os.fsencode(mountpoint), flags | UMOUNT_NOFOLLOW):
        raise _error(mountpoint)


def _error(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def mounted(mountpoint: str) -> Mount | None:
    """Return what is mounted on `mountpoint`, without touching it: a file system without a server may not answer."""
    return mountinfo.at(mountinfo.read(), settled(mountpoint))


def settled(mountpoint: str) -> str:
    """Return an absolute path for `mountpoint` that has no links before the last slash."""
    folder, name = os.path.split(os.path.abspath(mountpoint))
    return os.path.join(os.path.realpath(folder), name)


def unmount(mountpoint: str, *, lazy: bool) -> None:
    """Unmount everything on `mountpoint`. Raises InUse, MountFailed; see Mounter.unmount."""
    for _ in range(MOST_STACKED):
        if mounted(mountpoint) is None:
            return
        try:
            umount(mountpoint, MNT_DETACH if lazy else 0)
        except OSError as error:
            raise unmount_error(mountpoint, error.strerror or "", busy=error.errno == errno.EBUSY) from error


def unmount_error(mountpoint: str, why: str, *, busy: bool) -> StageImageError:
    """Return what `Mounter.unmount` raises."""
    if busy:
        return InUse(f"{mountpoint} cannot be unmounted while programs use it")
    return MountFailed(f"{mountpoint} cannot be unmounted: {why}")


def refusal(error: OSError, info: ImageInfo) -> StageImageError:
    """Return what mount(2)'s refusal of an image means: whether another way might be open, or none is.

    EINVAL stands for a damaged image and for a compression that this kernel was built without: only the kernel's log
    tells which (fs/squashfs/super.c, fs/erofs/super.c).
    """
    kind, number = info.root.kind, error.errno
    if number == errno.ENODEV:
        return MountUnavailable(f"this kernel has no {kind}")
    if number in (errno.EPERM, errno.EACCES):
        return MountUnavailable(f"mounting {kind} is forbidden here: {error.strerror}")
    if number in (errno.EINVAL, errno.EOPNOTSUPP) and info.compression not in _ALWAYS_COMPILED_IN.get(kind, ()):
        why = f"the image is damaged, or this kernel was built without {info.compression}"
        return MountUnavailable(f"the kernel refuses the {kind} ({error.strerror}): {why}; its log says which")
    hint = "the kernel's log says why: see `dmesg`; --mount=none always works"
    return MountFailed(f"the kernel refuses the {kind}: {error.strerror}", hint=hint)


def capable() -> bool:
    """Whether this process may mount things in its own mount namespace (CAP_SYS_ADMIN)."""
    return bool(int(status("CapEff") or "0", 16) >> CAP_SYS_ADMIN & 1)


def privileged() -> bool:
    """Whether this process may mount from block devices: capable, and not only inside a user namespace."""
    with open("/proc/self/uid_map", encoding="ascii") as table:
        # The initial user namespace maps all ids onto themselves (user_namespaces(7)).
        return table.read().split() == ["0", "0", "4294967295"] and capable()


def status(field: str) -> str:
    """Return a field of /proc/self/status (proc_pid_status(5)), or an empty string."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:")), "")


def knows(fstype: str) -> bool:
    """Whether the kernel has a file system, or may have it as a module, which mount(2) loads by itself.

    Without a list of modules (in a container, say), it may.
    """
    with open("/proc/filesystems", encoding="ascii", errors="replace") as known:
        if fstype in known.read().split():
            return True
    try:
        with open(f"/lib/modules/{os.uname().release}/modules.dep", encoding="utf-8", errors="replace") as modules:
            return f"/{fstype}.ko" in modules.read()
    except OSError:
        return True
