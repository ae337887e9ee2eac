"""What is mounted is what was looked at, and root mounts nothing that a user could have made or may change.

The kernel's file system code trusts the bytes it mounts; an image that a user can write, even later, makes him root
(see the notes on setuid mounting of Singularity 2 and 3). Both ends are opened once, without following links, judged
by their descriptor, and then mounted by it, so that nothing can be put in their place in between.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stager.errors import MountFailed, MountUnavailable
from stager.mounts import linux

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.interfaces import ImageInfo


@contextmanager
def opened(image: str, info: ImageInfo) -> Iterator[int]:
    """Yield a descriptor of the file `image`, open for reading.

    Raises MountFailed if it is no file or does not hold the partition; MountUnavailable if we are root and the file
    belongs to somebody else or can be written by others.
    """
    # O_NONBLOCK: opening a FIFO would wait for a writer.
    with _open(image, os.O_RDONLY | os.O_NONBLOCK) as fd:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise MountFailed(f"{image} is not a regular file")
        if found.st_size < info.root.offset + info.root.size:
            raise MountFailed(f"{image} is shorter than the partition that it is said to hold")
        _refuse(image, found, "a file")
        os.set_blocking(fd, True)
        yield fd


@contextmanager
def directory(mountpoint: str) -> Iterator[str]:
    """Yield a path by which to mount on the directory `mountpoint`, whatever its name leads to by then.

    Raises MountFailed if it is no directory; MountUnavailable if we are root and a user could have made it.
    """
    with _open(mountpoint, os.O_PATH | os.O_DIRECTORY) as fd:
        _refuse(mountpoint, os.fstat(fd), "a directory")
        yield f"/proc/self/fd/{fd}"


@contextmanager
def _open(path: str, flags: int) -> Iterator[int]:
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise MountFailed(f"{path} cannot be mounted or mounted on: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _refuse(path: str, found: os.stat_result, what: str) -> None:
    # A POSIX ACL that lets others write shows as the group's permission (acl(5)).
    if linux.privileged() and (found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise MountUnavailable(
            f"refusing to mount as root {what} which a user can write: {path}",
            hint="stage the image as root, into a store that belongs to root; --mount=none always works",
        )
