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


def as_user(uid: int, gid: int, action: Callable[[], int], patience: float = PATIENCE) -> int:
    """Return what `action` returns in a child that has given up root and all groups but `gid`; -1 if it was killed."""
    pid = os.fork()
    if not pid:
        _become(uid, gid, action)
    give_up = monotonic() + patience
    while monotonic() < give_up:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1


def _become(uid: int, gid: int, action: Callable[[], int]) -> None:
    code = 1
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        os.environ.pop("HOME", None)
        os.chdir("/")
        code = action()
    finally:
        os._exit(code)
