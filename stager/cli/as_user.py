"""Doing as root what only a user may do: in a child that is that user's, and nobody else's, for good."""

from __future__ import annotations

import os
import signal
from time import monotonic, sleep
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 15.0
"""Seconds; what lies in a user's directories may be made to take for ever."""

LAST_SECONDS = 1.0
"""For a killed child to go. One that waits for a FUSE server of the user's never does (fs/fuse/dev.c,
request_wait_answer): it is left to itself, and has nothing of ours."""


def as_user(uid: int, gid: int, action: Callable[[], int], patience: float = PATIENCE) -> int:
    """Return what `action` returns in a child that has given up root and all groups but `gid`; -1 if it was killed.

    The child has no standard streams, and none of our open files: a lock of ours must not outlive us in it.
    """
    pid = os.fork()
    if not pid:
        _become(uid, gid, action)
    code = _ended(pid, patience)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        _ended(pid, LAST_SECONDS)
    return -1 if code is None else code


def _ended(pid: int, seconds: float) -> int | None:
    """Return a child's exit code if it ends in time."""
    give_up = monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if monotonic() >= give_up:
            return None
        sleep(0.02)


def _become(uid: int, gid: int, action: Callable[[], int]) -> None:
    code = 1
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        os.environ.pop("HOME", None)
        os.chdir("/")
        code = action()
    finally:
        os._exit(code)
