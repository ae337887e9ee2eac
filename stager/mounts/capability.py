"""What this node and user can mount, for people: found out without changing or leaving anything."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager.errors import StageImageError
from stager.mounts import linux
from stager.mounts.device import CONTROL, PAGE, LoopDevice, Stretch
from stager.mounts.fuse_setting import DEVICE, FuseSetting, of_environment
from stager.mounts.loop import why_buffered

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Capability:
    """Something that a way to mount needs: whether it is there, what was found, and what an admin may do about it."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def capabilities(folder: str) -> list[Capability]:
    """Return what can be said of this node and user; `folder` is on the file system where images are to lie.

    No module is loaded. Root tries direct I/O on a file without a name in `folder`, at a loop device that is gone when
    its descriptor is closed.
    """
    setting = of_environment()
    return [
        _kernel_file_system("squashfs"),
        _kernel_file_system("erofs"),
        _erofs_from_file(folder),
        _loop_control(),
        _free_loop_device(),
        _direct_io(folder),
        _fuse(setting),
        *(_program(setting, kind) for kind in ("squashfs", "erofs")),
    ]


def _kernel_file_system(kind: str) -> Capability:
    name = f"{kind} in the kernel"
    if kind in _loaded():
        return Capability(name, ok=True, detail="loaded or compiled in")
    if linux.knows(kind):
        return Capability(name, ok=True, detail="not loaded; if there is a module, the first mount loads it")
    return Capability(name, ok=False, detail="not compiled in, and no module", remedy=f"install the {kind} module")


def _loaded() -> list[str]:
    with open("/proc/filesystems", encoding="ascii", errors="replace") as known:
        return known.read().split()


def _loop_control() -> Capability:
    if not os.path.exists(CONTROL):
        return Capability("loop devices", ok=False, detail=f"there is no {CONTROL}", remedy="modprobe loop")
    if not linux.privileged():
        detail = "only root can mount from them"
        return Capability("loop devices", ok=False, detail=detail, remedy="mount in the job prolog, as root")
    return Capability("loop devices", ok=True, detail=CONTROL)


def _free_loop_device() -> Capability:
    devices = [name for name in _names("/sys/block") if name.startswith("loop")]
    used = sum(os.path.exists(f"/sys/block/{name}/loop/backing_file") for name in devices)
    detail = f"{used} of {len(devices)} in use; the kernel adds more"
    missing = [name for name in devices if not os.path.exists(f"/dev/{name}")]
    if missing:
        detail = f"/dev has no node for {missing[0]} and {len(missing) - 1} others"
        return Capability("a free loop device", ok=False, detail=detail, remedy="give the container the host's /dev")
    ok = os.path.exists(CONTROL)
    return Capability("a free loop device", ok=ok, detail=detail, remedy="" if ok else "modprobe loop")


def _names(folder: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def _direct_io(folder: str) -> Capability:
    name = "direct I/O through loop devices"
    if not linux.privileged():
        return Capability(name, ok=False, detail="only root can try", remedy="run doctor as root")
    from stager.clock import SystemClock
    from stager.mounts.device import attach

    try:
        with _scratch(folder) as fd:
            part = Stretch(0, PAGE, folder)
            device: LoopDevice = attach(fd, part, SystemClock())
            try:
                direct = device.direct_io
            finally:
                device.close()
            detail = "on" if direct else f"off: {why_buffered(fd, part)}"
    except (OSError, StageImageError) as error:
        return Capability(name, ok=False, detail=str(error), remedy="see the other lines")
    remedy = "" if direct else "put the store on a local ext4 or XFS"
    return Capability(name, ok=direct, detail=detail, remedy=remedy)


def _erofs_from_file(folder: str) -> Capability:
    name = "EROFS without a loop device"
    if "erofs" not in _loaded() or not linux.privileged():
        return Capability(name, ok=False, detail="not tried: EROFS is not loaded, or this is not root")
    try:
        with _scratch(folder) as fd:
            linux.mount(f"/proc/self/fd/{fd}", folder, "erofs")  # zeros: looked at, refused, and never mounted
    except OSError as error:
        if error.errno == errno.EINVAL:
            return Capability(name, ok=True, detail=f"the kernel mounts EROFS from files in {folder}")
        detail = f"not of files in {folder}: {error.strerror}"  # tmpfs has none of what it takes, either
        return Capability(name, ok=False, detail=detail, remedy="Linux >= 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE")
    raise AssertionError("an EROFS of zeros was mounted")


def _fuse(setting: FuseSetting) -> Capability:
    why = setting.obstacle()
    detail = why or f"{DEVICE} opens, {setting.fusermount() or 'no fusermount3 needed'}"
    remedy = "modprobe fuse, make /dev/fuse mode 0666, install fuse3 with a setuid fusermount3" if why else ""
    return Capability("FUSE for this user", ok=not why, detail=detail, remedy=remedy)


def _program(setting: FuseSetting, kind: str) -> Capability:
    found = setting.server(kind)
    remedy = "" if found else f"install {'squashfuse' if kind == 'squashfs' else 'erofs-utils with erofsfuse'}"
    return Capability(f"a FUSE server for {kind}", ok=bool(found), detail=found or "none", remedy=remedy)


@contextlib.contextmanager
def _scratch(folder: str) -> Iterator[int]:
    """Yield a descriptor of an empty page without a name. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0" * PAGE)
        file.flush()
        os.fsync(file.fileno())
        yield file.fileno()
