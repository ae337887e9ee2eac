"""A bearer token in a file that nobody else can read."""

from __future__ import annotations

import os
import re
import stat

from stager.errors import ConfigError

MAX_TOKEN = 16 * 1024
"""Bytes. Servers refuse header lines beyond 8 to 16 KiB."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""b64token of RFC 6750, 2.1. Anything else could carry a header of its own into the request."""

_HINT = "the file must hold the token alone, belong to you, and be readable by nobody else (chmod 600)"


def read_token(path: str) -> str:
    """Return the token in `path`. Raises ConfigError unless the caller owns the file and nobody else may read it."""
    try:
        # Not blocking, or a FIFO would hold up every task of the job.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"the token file {path} cannot be read: {error.strerror}", hint=_HINT) from error
    try:
        _check(path, os.fstat(fd))  # before `open`, which leaves the descriptor of a directory behind
        content = os.read(fd, MAX_TOKEN + 1)
    finally:
        os.close(fd)
    token = content.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(token) or len(content) > MAX_TOKEN:
        raise ConfigError(f"the token file {path} holds no bearer token", hint=_HINT)
    return token


def _check(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"the token file {path} is not a regular file", hint=_HINT)
    if status.st_uid != os.geteuid():
        raise ConfigError(f"the token file {path} belongs to another user (uid {status.st_uid})", hint=_HINT)
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"the token file {path} can be read by others (mode {mode:04o})", hint=_HINT)
