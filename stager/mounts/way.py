"""Directories opened by their whole path, so that nobody's symbolic link leads root elsewhere."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Judge = Callable[[str, os.stat_result], None]
    """Is given each directory on the way, from the root on, with its path, and raises what it thinks of it."""

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened(path: str, judge: Judge | None = None) -> Iterator[int]:
    """Yield a descriptor of the directory at an absolute path, as `way_to` does. Raises OSError."""
    fd = way_to(path, judge)
    try:
        yield fd
    finally:
        os.close(fd)


def way_to(path: str, judge: Judge | None = None) -> int:
    """Return an O_PATH descriptor of the directory at an absolute path; no link is followed. Raises OSError."""
    fd = os.open("/", _FOLDER)
    try:
        _judge(judge, "/", fd)
        walked = ""
        for name in filter(None, path.split("/")):
            walked += f"/{name}"
            above, fd = fd, _below(fd, name, walked)
            os.close(above)
            _judge(judge, walked, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _below(fd: int, name: str, path: str) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=fd)
    except OSError as error:
        # With O_DIRECTORY, the kernel says of a link that is not to be followed only that it is no directory.
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise OSError(errno.ENOTDIR, "not a directory (symbolic links are not followed)", path) from error
        raise OSError(error.errno, error.strerror, path) from error


def _judge(judge: Judge | None, path: str, fd: int) -> None:
    if judge is not None:
        judge(path, os.fstat(fd))
