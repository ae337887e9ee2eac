"""Running tests where they can mount as they like, and looking at what was mounted."""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import stat
from contextlib import contextmanager
from fcntl import ioctl
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from stager import filesystem
from stager.images import recognise
from stager.mounts import linux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stager.interfaces import ImageInfo, Mounter

T = TypeVar("T")

NOBODY = 65534

# linux/sched.h, sys/mount.h, linux/loop.h
CLONE_NEWNS, CLONE_NEWUSER = 0x0002_0000, 0x1000_0000
MS_NOSUID, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 8, 4096, 16384, 1 << 18
LOOP_CTL_REMOVE = 0x4C81

_libc = ctypes.CDLL(None, use_errno=True)


def forked(function: Callable[[], T]) -> T:
    """Return what `function` returns, or raise what it raises, in a child process."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        _report(function, theirs)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        raised, outcome = pickle.load(pipe)
    os.waitpid(pid, 0)
    if raised:
        raise outcome
    result: T = outcome
    return result


def _report(function: Callable[[], object], pipe: int) -> None:
    try:
        outcome: tuple[bool, object] = (False, function())
    except BaseException as error:  # noqa: BLE001 - raised again in the parent
        outcome = (True, error)
    try:
        os.write(pipe, pickle.dumps(outcome))
    finally:
        os._exit(0)


def apart(function: Callable[[], T], *, user: int | None = None, prepare: Callable[[], None] | None = None) -> T:
    """Return what `function` returns in a child with mounts of its own, as `user` if given; `prepare` runs as root."""

    def run() -> T:
        _call("unshare", CLONE_NEWNS)
        _call("mount", b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
        if prepare is not None:
            prepare()
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        return function()

    return forked(run)


def enter_user_namespace() -> None:
    """Become root of a new user namespace, with new mounts: as `apptainer --fakeroot` and `unshare -r` do."""
    uid, gid = os.getuid(), os.getgid()
    _libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: who has changed his uid may not write below /proc/self otherwise
    _call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def bind(source: Path, target: Path) -> None:
    """Mount one path over another."""
    _call("mount", bytes(source), bytes(target), None, ctypes.c_ulong(MS_BIND), None)


def mount_new(fstype: str, target: Path, flags: int = 0) -> None:
    """Mount a new file system of a kind that needs no device."""
    _call("mount", fstype.encode(), bytes(target), fstype.encode(), ctypes.c_ulong(flags), None)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def open_fuse_to_all() -> None:
    """Give every user /dev/fuse, as udev does; inside `apart` only."""
    folder = Path("/dev/shm")
    mount_new("tmpfs", folder)
    os.mknod(folder / "fuse", 0o666 | stat.S_IFCHR, os.makedev(10, 229))
    (folder / "fuse").chmod(0o666)
    bind(folder / "fuse", Path("/dev/fuse"))


def together(count: int, function: Callable[[int], object]) -> list[str]:
    """Call `function` with 0, 1, … in processes that begin at the same moment; return what those that failed say."""
    gate, keeper = os.pipe()
    pipes, pids = [], []
    for number in range(count):
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(keeper)
            os.read(gate, 1)
            _report(partial(function, number), theirs)
        os.close(theirs)
        pipes.append(ours)
        pids.append(pid)
    os.close(gate)
    os.close(keeper)
    outcomes = []
    for pipe in pipes:
        with os.fdopen(pipe, "rb") as file:
            outcomes.append(pickle.load(file))
    for pid in pids:
        os.waitpid(pid, 0)
    return [f"{error!r}" for raised, error in outcomes if raised]


@contextmanager
def loop_devices_put_back() -> Iterator[None]:
    """Remove the idle loop devices that the kernel has added meanwhile."""
    before = _loops()
    yield
    with open("/dev/loop-control", "rb") as control:
        for number in _loops() - before:
            if not os.path.exists(f"/sys/block/loop{number}/loop"):
                ioctl(control, LOOP_CTL_REMOVE, number)


def _loops() -> set[int]:
    return {int(name[4:]) for name in os.listdir("/sys/block") if name.startswith("loop")}


def described(image: Path) -> ImageInfo:
    """Return what an image file's headers say."""
    with image.open("rb") as file:
        return recognise(file.fileno(), image.stat().st_size)


def content(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return everything below a directory: path → mode, and bytes of a file or target of a link."""
    found = {}
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        data = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(root))] = (mode, data)
    return found


def cached(path: Path) -> float:
    """Return which part of a file, from 0 to 1, is in the page cache (mincore(2))."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    resident = ctypes.create_string_buffer(pages)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        _call("mincore", ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(size), resident)
        del start
    return sum(byte & 1 for byte in resident.raw) / pages


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def padded(path: Path, image: bytes) -> Path:
    """Write an image with zeros up to the next multiple of 4096, readable by all."""
    path.write_bytes(image + b"\0" * (-len(image) % 4096))
    path.chmod(0o644)
    return path


def size_for(image: Path, unit: int, *, never: int) -> int:
    """Return the file's size, raised to a multiple of `unit` that is no multiple of `never`."""
    size = -(-image.stat().st_size // unit) * unit
    return size + unit * (size % never == 0)


def shows(way: Mounter, image: Path, mountpoint: Path) -> dict[str, tuple[int, bytes]]:
    """Mount, look, unmount, and return `content`; how it is mounted is checked on the way."""
    assert way.obstacle(described(image)) == ""
    report = way.mount(str(image), described(image), str(mountpoint))
    try:
        assert report.kind == way.kind
        mount = linux.mounted(str(mountpoint))
        assert mount is not None
        assert {"ro", "nosuid", "nodev"} <= set(mount.options)
        return content(mountpoint)
    finally:
        way.unmount(str(mountpoint))
        assert linux.mounted(str(mountpoint)) is None


def held_twice(image: Path, way: Mounter, mountpoint: Path) -> float:
    """Return which part of the image's file is in memory after all of the mount was read."""
    info = described(image)
    forget(image)
    assert cached(image) == 0
    report = way.mount(str(image), info, str(mountpoint))
    try:
        assert report.direct_io
        assert report.note == ""
        assert content(mountpoint)
        return cached(image)
    finally:
        way.unmount(str(mountpoint))


def on_disk(path: Path) -> None:
    """Skip the test if files at `path` live in the page cache anyway."""
    if filesystem.inspect(str(path)).ram:
        pytest.skip("temporary files are in memory here")


def forbid_new_privileges() -> int:
    """Make setuid programs ordinary ones for this process, as containers do (prctl(2), PR_SET_NO_NEW_PRIVS)."""
    result: int = _libc.prctl(38, 1, 0, 0, 0)
    return result
