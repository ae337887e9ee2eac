"""Reading a settings file: only one that nobody can have written who must not decide what runs."""

from __future__ import annotations

import os
import stat

from stager.errors import ConfigError

MAX_FILE = 1 << 20
"""Bytes. No settings file comes near."""


def read(path: str, *, own: bool) -> bytes | None:
    """Return what is in a settings file, at most MAX_FILE bytes, or None if it is not there; `own`: the user's own.

    Raises ConfigError where it cannot be read or must not be believed.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if reason := refusal(os.fstat(file.fileno()), os.geteuid(), own=own):
                raise ConfigError(f"{path} {reason}, so it is not believed", hint=_trust_hint(path))
            return file.read(MAX_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _without_waiting(path: str, flags: int) -> int:
    # A FIFO in the place of the file would hold us for ever: fifo(7), O_NONBLOCK.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _trust_hint(path: str) -> str:
    owner = "root" if os.geteuid() == 0 else "root or you"
    return f"it must be a file of {owner} that nobody else can write: see `ls -lL {path}`"


def refusal(status: os.stat_result, euid: int, *, own: bool) -> str:
    """Return why a process of `euid` must not believe a settings file, or nothing. `own`: the user's own file.

    Root believes root alone. Others may have their own file group-writable, as a umask of 002 makes it.
    """
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_uid not in {0, euid}:
        return f"belongs to uid {status.st_uid}"
    others = stat.S_IWOTH if own and euid != 0 else stat.S_IWOTH | stat.S_IWGRP
    return "can be written by others" if status.st_mode & others else ""
