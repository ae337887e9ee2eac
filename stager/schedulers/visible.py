"""What of a directory that is covered by a job's own stays to be seen: sockets below /tmp/.X11-unix, say.

Scibian's patches to private-tmpdir have it as `subdir=`. Here, as there, what is not there on a node is passed over.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from stager.mounts.way import opened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stager.schedulers.registry import Directory

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def covering(path: str, directories: Sequence[Directory]) -> Directory | None:
    """Return the job's directory that covers a path of the host, if one does."""
    return next((each for each in directories if path.startswith(f"{each.mount}/")), None)


def is_roots(path: str) -> bool:
    """Whether there is a directory of root's at a path of the host, with no link on the way.

    In /tmp anybody may leave something by that name, and what cannot be bound would cost all jobs their namespaces.
    """
    try:
        with opened(path, _check_roots):
            return True
    except OSError:
        return False


def _check_roots(path: str, status: os.stat_result) -> None:
    # Whoever owns a directory on the way, or may rename what is in it, could change what lies there before it is bound.
    if status.st_uid != 0 or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
        raise PermissionError(errno.EPERM, "it can be changed by others than root", path)


def make_room(path: str, directory: Directory) -> None:
    """Make, in a job's own directory, the empty directory on which the host's at `path` is to be mounted.

    No link is followed. Raises OSError.
    """
    with ExitStack() as open_ones:
        above = open_ones.enter_context(opened(directory.path))
        for name in path.removeprefix(f"{directory.mount}/").split("/"):
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=above)
            above = os.open(name, _FOLDER, dir_fd=above)
            open_ones.callback(os.close, above)
