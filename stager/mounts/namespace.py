"""A job's own mount namespace: pinned to a path while no process of it need run, entered by the job's tasks.

Only children of ours enter or make namespaces: a process that once left the host's could not come back safely, and
setns(2) wants a caller that shares its working directory with nobody, so one without threads. A fork has none.
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from stager import mountinfo
from stager.errors import MountFailed, MountUnavailable, StageImageError
from stager.mounts import linux
from stager.mounts.child import Child, text
from stager.mounts.way import opened, way_to
from stager.process import become

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stager.mountinfo import Mount

PIN = "mnt"
"""The file that holds a namespace; the SPANK plugin knows it, too."""

CLONE_NEWNS = 0x0002_0000
"""linux/sched.h"""
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 32, 4096, 16384, 1 << 18, 1 << 19
"""sys/mount.h"""
KEPT = 15
"""Of statvfs(3)'s flags: ST_RDONLY, ST_NOSUID, ST_NODEV, ST_NOEXEC, which are mount(2)'s of the same numbers."""
OPEN_TREE, MOVE_MOUNT = 428, 429
"""System calls of Linux >= 5.2, of the same number on all machines; glibc has functions for them since 2.36."""
OPEN_TREE_CLONE, FROM_EMPTY_PATH, TO_EMPTY_PATH, AT_EMPTY_PATH = 1, 4, 0x40, 0x1000
"""linux/mount.h, linux/fcntl.h"""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.syscall.restype = ctypes.c_long


class Namespace:
    """Mount namespaces by the path that they are pinned to, on a tmpfs such as /run.

    The path is a directory of root's, and a mount of its own that is shared with nobody: on one that is, the kernel
    refuses a pin (a namespace would otherwise hold itself by its copy of it). The nsfs file in it, PIN, can be opened
    by nobody else: a descriptor of it would keep the namespace, and all that is mounted there, after its job. All
    paths are absolute, and no symbolic link in them is followed. Root of the node only.
    """

    def pin(self, path: str, binds: Sequence[tuple[str, str]]) -> None:
        """Make a namespace in which each `source` directory lies on its `target`, in order, and pin it to `path`.

        The host never sees the binds, but what it mounts later appears in the namespace, if the host's mounts are
        shared. The sources are those of the host, even below a target. What was pinned there before is let go.
        Raises MountUnavailable without privileges, or if the kernel pins none; MountFailed.
        """
        _need_privileges()
        self.unpin(path)
        try:
            with opened(os.path.dirname(path)) as folder, suppress(FileExistsError):
                os.mkdir(os.path.basename(path), 0o700, dir_fd=folder)
            with opened(path) as folder:
                _own(path, folder)
            with opened(path) as folder:
                os.close(os.open(PIN, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400, dir_fd=folder))
            _pin(f"{path}/{PIN}", binds)
        except OSError as error:
            self.unpin(path)
            raise MountFailed(f"no mount namespace can be pinned to {path}: {text(error)}") from error
        except StageImageError:
            self.unpin(path)
            raise

    def unpin(self, path: str) -> None:
        """Let the namespace go: it ends with its last process. Idempotent. Raises MountFailed."""
        try:
            _detach(f"{path}/{PIN}")
            with suppress(FileNotFoundError):
                os.unlink(f"{path}/{PIN}")
            while _is_own(mountinfo.read(), path):
                linux.umount(path, linux.MNT_DETACH)
            with suppress(FileNotFoundError):
                os.rmdir(path)
        except OSError as error:
            raise MountFailed(f"the mount namespace at {path} cannot be let go: {text(error)}") from error

    def run_in(self, path: str, argv: Sequence[str]) -> int:
        """Run a command in the namespace, in its root directory; return its exit code, or 128 + signal.

        Raises MountFailed if the namespace cannot be entered, CommandNotFound, CommandNotRunnable.
        """

        def run() -> None:
            _enter(path)
            become(list(argv), dict(os.environ))

        with Child(run) as child:
            child.heard(becomes_another=True)
            return child.ended()

    def bind_in(self, path: str, source: str, target: str) -> None:
        """Let the host's directory `source` lie on `target` in a namespace that is pinned already.

        Linux < 5.2 can only bind what the namespace sees by itself, as it does if the host's mounts are shared.
        Raises MountFailed.
        """
        try:
            with opened(source) as directory:
                tree = _cloned(directory)
        except OSError as error:
            raise MountFailed(f"{source} cannot be bound: {text(error)}") from error

        def attach() -> None:
            _enter(path)
            if tree is None:
                _bind([(source, target)])
            else:
                with opened(target) as directory:
                    _system_call(MOVE_MOUNT, tree, b"", directory, b"", FROM_EMPTY_PATH | TO_EMPTY_PATH)
                _harden(target, os.fstat(tree))

        try:
            with Child(attach) as child:
                child.heard()
        finally:
            if tree is not None:
                os.close(tree)


def _pin(path: str, binds: Sequence[tuple[str, str]]) -> None:
    """Pin a new namespace, made on whatever processor the kernel accepts one from. Raises StageImageError, OSError.

    A namespace may pin only ones that are younger, by their ids (fs/namespace.c, mnt_ns_loop), and recent kernels hand
    out ids for each processor in batches: one made on another processor may look older and is refused with EINVAL
    (measured on Linux 6.18). On the processor where ours was made, none does.
    """
    for processor in _processors():
        with Child(partial(_become_namespace, processor, binds), then_wait=True) as child:
            child.heard()
            try:
                _mount(f"/proc/{child.pid}/ns/mnt", path, MS_BIND)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            else:
                return
    raise MountUnavailable("the kernel refuses to pin a mount namespace made on any processor that we may use")


def _processors() -> Iterator[int | None]:
    yield None
    allowed = os.sched_getaffinity(0)
    yield from sorted(allowed)
    yield from (number for number in range(os.cpu_count() or 1) if number not in allowed)


def _become_namespace(processor: int | None, binds: Sequence[tuple[str, str]]) -> None:
    if processor is not None:
        with suppress(OSError):  # not in our cpuset: one attempt in vain
            os.sched_setaffinity(0, {processor})
    if _libc.unshare(CLONE_NEWNS):
        raise _error("unshare")
    _mount("none", "/", MS_REC | MS_SLAVE)
    _bind(binds)


def _bind(binds: Sequence[tuple[str, str]]) -> None:
    """Bind in order; all sources are opened first, as a target may hide them. Raises OSError."""
    sources = [way_to(source) for source, _ in binds]
    for source, (_, target) in zip(sources, binds, strict=True):
        with opened(target) as directory:
            _mount(f"/proc/self/fd/{source}", f"/proc/self/fd/{directory}", MS_BIND)
        _harden(target, os.fstat(source))


def _harden(target: str, shown: os.stat_result) -> None:
    """Take setuid programs and devices away from what was just mounted on `target`. Raises OSError.

    It is opened anew, as a descriptor from before shows what lies below; whoever could rename things there meanwhile
    gains nothing, for it must still be what was mounted.
    """
    with opened(target) as top:
        if not os.path.samestat(os.fstat(top), shown):
            raise OSError(errno.ESTALE, "something else was put in its place", target)
        flags = os.fstatvfs(top).f_flag & KEPT | linux.MS_NOSUID | linux.MS_NODEV
        _mount("none", f"/proc/self/fd/{top}", MS_REMOUNT | MS_BIND | flags)


def _own(folder: str, fd: int) -> None:
    """Make a directory a mount of its own that is shared with nobody. Raises OSError."""
    if not _is_own(mountinfo.read(), folder):
        _mount(f"/proc/self/fd/{fd}", f"/proc/self/fd/{fd}", MS_BIND)
    with opened(folder) as top:
        _mount("none", f"/proc/self/fd/{top}", MS_PRIVATE)


def _is_own(mounts: list[Mount], folder: str) -> bool:
    """Whether a directory is bound onto itself, as `_own` does it."""
    top = mountinfo.at(mounts, folder)
    below = next((mount for mount in mounts if top is not None and mount.id == top.parent), None)
    return bool(top and below and top.device == below.device and top.root == below.inside(folder))


def _detach(path: str) -> None:
    for _ in range(linux.MOST_STACKED):
        try:
            linux.umount(path, linux.MNT_DETACH)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):  # nothing is mounted, or there is nothing
                return
            raise


def _enter(path: str) -> None:
    """Move this process, which is a child of ours, into the pinned namespace. Raises MountFailed."""
    try:
        fd = os.open(f"{path}/{PIN}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        if _libc.setns(fd, CLONE_NEWNS):
            raise _error(path)
        os.chdir("/")
    except OSError as error:
        raise MountFailed(f"the mount namespace at {path} cannot be entered: {text(error)}") from error


def _cloned(directory: int) -> int | None:
    """Return a mount of a directory that is mounted nowhere yet, or None where the kernel has none. Raises OSError."""
    try:
        return _system_call(OPEN_TREE, directory, b"", OPEN_TREE_CLONE | AT_EMPTY_PATH | os.O_CLOEXEC)
    except OSError as error:
        # EPERM: container runtimes answer so to system calls that they do not know (seccomp).
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return None
        raise


def _mount(source: str, target: str, flags: int) -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, flags, None):
        raise _error(target)


def _system_call(number: int, *arguments: int | bytes) -> int:
    plain = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *plain)
    if result < 0:
        raise _error(f"system call {number}")
    return result


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


def _need_privileges() -> None:
    if os.geteuid() != 0 or not linux.capable():
        raise MountUnavailable(
            "only root of the node can give jobs mounts of their own",
            hint="call this from Slurm's Prolog, or leave slurm.private empty",
        )
