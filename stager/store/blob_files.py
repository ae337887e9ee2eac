"""The files of the cache of layers: opening them whatever lies there, and the locks on them, which die with a process.

A lock belongs to an open file description, flock(2): it is gone with the last descriptor, and so with the process,
however that ends. Who holds one must see, after it was got, that the name still leads to the file that was locked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from stager.errors import StoreUnusable
from stager.store import files

if TYPE_CHECKING:
    from collections.abc import Iterator

FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""No link is followed, and opening a FIFO does not wait for its other end."""
ATTEMPTS = 20
"""For names that others remove at the same time; each of them does so once only."""
_HOSTILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.ENODEV, errno.EPERM)


def own_folder(path: str) -> None:
    """Make a directory that is closed to everybody else. What is no directory of ours there is removed first."""
    for _ in range(ATTEMPTS):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                continue  # somebody has just removed his own
            if stat.S_ISDIR(status.st_mode) and _is_ours(status):
                return
            files.discard_tree(path)
        else:
            return
    raise OSError(errno.EBUSY, "it keeps being removed or replaced", path)


def top_folder(path: str) -> None:
    """Make a directory that holds all others; one that is not ours alone is refused. Raises StoreUnusable."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or not _is_ours(status):
            raise StoreUnusable(f"{path} is not a directory of our own that others cannot write") from None


def sound_status(path: str) -> os.stat_result | None:
    """Return the status of a regular file of ours, which nobody else may write; None for anything else."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) and _is_ours(status) else None


def is_sound(path: str, size: int) -> bool:
    """Whether there is such a file of `size` bytes."""
    status = sound_status(path)
    return status is not None and status.st_size == size


def open_own(path: str, flags: int) -> int | None:
    """Open a regular file of ours that has this one name; None if there is none. Anything else there is removed."""
    try:
        fd = os.open(path, flags | FLAGS, 0o600)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _HOSTILE or not os.path.lexists(path):
            raise
        files.discard_tree(path)
        return None
    status = os.fstat(fd)
    # A second name may be anybody's file: what we write here must not be written there.
    if stat.S_ISREG(status.st_mode) and _is_ours(status) and status.st_nlink <= 1:
        return fd
    os.close(fd)
    if is_same(status, path):
        files.discard_tree(path)
    return None


def lock(fd: int, kind: int) -> bool:
    """Take the lock, `fcntl.LOCK_SH` or `LOCK_EX`, without waiting; whether it was to be had."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_same(status: os.stat_result, path: str) -> bool:
    """Whether `path` is still the name of that file."""
    try:
        there = os.lstat(path)
    except OSError:
        return False
    return os.path.samestat(there, status)


def open_locked(path: str, kind: int) -> int | None:
    """Open a file of ours and lock it; None if there is none, or another holds it. Whoever closes it unlocks it.

    For an exclusive lock it is opened to be written where it may be: NFS, which has locks of byte ranges only, wants
    that (flock(2), NFS details).
    """
    try:
        fd = open_own(path, os.O_RDWR if kind == fcntl.LOCK_EX else os.O_RDONLY)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        fd = open_own(path, os.O_RDONLY)
    if fd is None:
        return None
    if lock(fd, kind) and is_same(os.fstat(fd), path):
        return fd
    os.close(fd)
    return None


def claim(folder: str) -> int | None:
    """Return the descriptor of `folder`/data, made when missing and locked by us alone; None if another has it."""
    path = f"{folder}/data"
    for _ in range(ATTEMPTS):
        own_folder(folder)
        fd = open_own(path, os.O_RDWR | os.O_CREAT)
        if fd is None:
            continue  # something hostile was there, or somebody has just removed the folder
        if not lock(fd, fcntl.LOCK_EX):
            os.close(fd)
            return None
        if is_same(os.fstat(fd), path):
            return fd
        os.close(fd)
    raise OSError(errno.EBUSY, "it keeps being removed", path)


def clear(folder: str, *keep: str) -> None:
    """Remove all but the data, which keeps others away as long as we lock it, and `keep` from a copy's folder."""
    for name in (*files.names(folder), *files.hidden_names(folder)):
        path = f"{folder}/{name}"
        if name != "data" and (name not in keep or files.is_folder(path)):
            files.discard_tree(path)


def remove(folder: str) -> None:
    """Remove the folder of a copy in flight, unless somebody has made it his own meanwhile."""
    with suppress(OSError):
        os.rmdir(folder)


def blob_names(blobs: str) -> Iterator[tuple[str, str]]:
    """Yield (path, digits of the sha256) of what is named as a blob in the cache at `blobs`, whatever it is."""
    root = f"{blobs}/sha256"
    for parent, child in files.walk_pairs(root) if files.is_folder(blobs) else ():
        if len(child) == 64 and child.startswith(parent) and not set(child) - set("0123456789abcdef"):
            yield f"{root}/{parent}/{child}", child


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022
