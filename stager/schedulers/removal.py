"""Removing a directory whose content is an enemy's: as deep as he likes, written while we remove, with mounts in it.

No recursion and at most a handful of open files: a directory that is found inside another is first moved up to the
top, so that all are as near as the first. None is listed before it is closed to its owner, so that no listing chases
one who goes on making files; only a process of root's own could.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from itertools import count, islice
from typing import TYPE_CHECKING

from stager.errors import InUse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.clock import Clock

DEEPEST = 64
"""Levels on the way down where a file system cannot move directories (EXDEV), as overlayfs may not."""

PASSES = 3
"""Over the top: a system call that was under way while it was closed may have added something."""

AT_A_TIME = 1000
"""Files between two looks at the clock: some 30 ms (measured on a tmpfs)."""

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_IS_FOLDER = (errno.EISDIR, errno.EPERM)
"""What unlink(2) says of a directory: Linux the first, POSIX (and some file systems) the second."""
_STAYS = (errno.EBUSY, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.EPERM, errno.EACCES)


class Removal:
    """Empties the directory `path`, open as `top`."""

    def __init__(self, path: str, top: int, clock: Clock, patience: float) -> None:
        self._path = path
        self._top = top
        self._clock = clock
        self._until = clock.now() + patience
        self._aside = (f".{token}.{number}" for token in [secrets.token_hex(8)] for number in count())
        self._moved: list[str] = []
        self._stayed: list[str] = []

    def run(self) -> None:
        """Remove what is in it and not on another mount. Raises InUse for what stays, OSError."""
        close_to_owner(self._top)
        for _ in range(PASSES):
            self._stayed = []
            if not self._take_all():
                return
        if self._stayed:
            more = f" and {len(self._stayed) - 1} more" if len(self._stayed) > 1 else ""
            raise InUse(f"{self._path}: {self._stayed[0]}{more} cannot be removed, as a mount or a process holds it")

    def _take_all(self) -> bool:
        """Remove all that is in the top; return whether there was anything."""
        found = False
        for some in _some_at_a_time(self._top):
            found = True
            self._moved = some
            while self._moved:
                self._take(self._top, self._moved.pop(), 0)
        return found

    def _take(self, folder: int, name: str, depth: int) -> None:
        """Remove one entry of a directory."""
        self._look_at_time()
        try:
            if not _unlinked(folder, name):
                self._take_folder(folder, name, depth)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in _STAYS:
                raise
            self._stayed.append(name)

    def _look_at_time(self) -> None:
        if self._clock.now() > self._until:
            raise InUse(f"{self._path} is not empty yet: there is too much in it, or a process still writes")

    def _take_folder(self, folder: int, name: str, depth: int) -> None:
        fd = os.open(name, FOLDER, dir_fd=folder)
        try:
            if mount_id(fd) != mount_id(self._top):
                raise OSError(errno.EBUSY, "a mount", name)
            close_to_owner(fd)
            for some in _some_at_a_time(fd):
                self._look_at_time()
                for below in some:
                    self._lift(fd, below, depth)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=folder)

    def _lift(self, folder: int, name: str, depth: int) -> None:
        """Remove a file; move a directory up, to be removed later."""
        with suppress(FileNotFoundError):
            if _unlinked(folder, name):
                return
            aside = next(self._aside)
            try:
                os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=self._top)
            except OSError as error:
                if error.errno == errno.EXDEV and depth < DEEPEST:
                    self._take(folder, name, depth + 1)
                    return
                if error.errno not in (*_STAYS, errno.EXDEV):
                    raise
                self._stayed.append(name)
            else:
                self._moved.append(aside)


def _some_at_a_time(fd: int) -> Iterator[list[str]]:
    """Yield the names in a directory, never all at once: of ten million, that alone would be a gigabyte."""
    with os.scandir(fd) as entries:
        names = (entry.name for entry in entries)
        while some := list(islice(names, AT_A_TIME)):
            yield some


def _unlinked(folder: int, name: str) -> bool:
    """Remove a file, a link, anything but a directory. Raises OSError."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno in _IS_FOLDER:
            return False
        raise
    return True


def close_to_owner(fd: int) -> None:
    """Take a directory away from its owner, who could go on making files in it. Raises OSError."""
    os.fchown(fd, 0, 0)
    os.fchmod(fd, 0o700)


def mount_id(fd: int) -> int:
    """Return by which mount a file was reached; that tells bind mounts apart, too (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        return int(next(line.split()[1] for line in lines if line.startswith("mnt_id:")))
