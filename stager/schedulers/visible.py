"""What of a directory that is covered by a job's own stays to be seen: sockets below /tmp/.X11-unix, say.

Scibian's patches to private-tmpdir have it as `subdir=`. Here, as there, what is not there on a node is passed over.
"""

from __future__ import annotations

import os
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
        with opened(path) as there:
            return os.fstat(there).st_uid == 0
    except OSError:
        return False


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
