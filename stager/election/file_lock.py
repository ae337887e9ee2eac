"""One leader per node, by filelock on the node's local disk.

flock(2) is dropped by the kernel when its holder dies, however it dies, so there is no stale lock to wait for. On a
network file system it may be granted to everybody or to nobody; the store refuses to live there.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stager.errors import StoreUnusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class FileLockElection:
    """Leadership by a lock file for each name; `path_of` gives its path.

    With `locks=False` everybody leads: the tests' proof that the lock is an optimisation and nothing rests on it.
    """

    def __init__(self, path_of: Callable[[str], str], *, locks: bool = True) -> None:
        self._path_of = path_of
        self._locks = locks

    @contextmanager
    def lead(self, name: str) -> Iterator[bool]:
        """Try to lead, without waiting. Raises StoreUnusable when the lock file cannot be opened."""
        if not self._locks:
            yield True
            return
        from filelock import FileLock, Timeout  # 15 ms of CPU with all that it imports (4.2)

        path, won = self._path_of(name), False

        def look_behind(fd: int) -> None:
            nonlocal won
            won = _is_same_file(fd, path)

        lock = FileLock(path, blocking=False, mode=0o600, fallback_to_soft=False, on_acquired=look_behind)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        except (OSError, NotImplementedError) as error:
            raise StoreUnusable(f"the lock file {path} cannot be used: {error}") from error
        try:
            yield won
        finally:
            lock.release()


def _is_same_file(fd: int, path: str) -> bool:
    # Somebody who removed or renamed the lock file (tmp cleaners do) made room for a second lock on a second inode.
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
