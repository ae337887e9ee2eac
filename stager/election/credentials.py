"""Who we are for ZooKeeper: a user and a password of its digest scheme, from a file that is nobody else's business."""

from __future__ import annotations

import errno
import hmac
import os
import re
import stat
from dataclasses import dataclass, field
from hashlib import sha1, sha256

from stager.errors import ConfigError

MAX_FILE = 1024
"""Bytes."""

_LINE = re.compile(r"([!-9;-~]{1,64}):([!-~]{1,256})\n?")
"""Printable ASCII: the server turns bytes into text by its own locale, and hashes that."""

_HINT = "the file must hold one line `user:password`, and only its owner (or root's group) may read it: chmod 600"

SEAL_SIZE = 32
"""Bytes of HMAC-SHA256 before every record."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and password."""

    user: str
    password: str = field(repr=False)

    @property
    def plain(self) -> str:
        """What the server is told."""
        return f"{self.user}:{self.password}"

    @property
    def identity(self) -> str:
        """What stands in access lists: `user:base64(sha1(user:password))` (DigestAuthenticationProvider)."""
        from base64 import b64encode

        # The server's scheme knows nothing but SHA-1 by default.
        return f"{self.user}:{b64encode(sha1(self.plain.encode()).digest()).decode()}"  # noqa: S324

    def seal(self, path: str, record: bytes) -> bytes:
        """Return `record` with proof that somebody with the password wrote it, for this path."""
        return self._mac(path, record) + record

    def unseal(self, path: str, sealed: bytes) -> bytes | None:
        """Return the record, or None if nobody with the password can have written it there.

        An access list protects a znode that we made; it cannot tell one that a stranger made first in a tree which was
        open to everybody once.
        """
        mac, record = sealed[:SEAL_SIZE], sealed[SEAL_SIZE:]
        return record if hmac.compare_digest(mac, self._mac(path, record)) else None

    def _mac(self, path: str, record: bytes) -> bytes:
        return hmac.new(self.plain.encode(), path.encode() + b"\0" + record, sha256).digest()


def read(path: str) -> Credentials:
    """Return the credentials in `path`. Raises ConfigError, also where others could read or replace them.

    The file is root's or ours. Only root's may be readable by a group: that is how a site gives it to some users.
    """
    try:
        # Not blocking, or a FIFO would hold us up; not through a link, whose target somebody else could choose.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise ConfigError(f"the credentials file {path} cannot be read: {reason}", hint=_HINT) from error
    try:
        if reason := refusal(os.fstat(fd), os.geteuid()):
            raise ConfigError(f"the credentials file {path} {reason}", hint=_HINT)
        content = os.read(fd, MAX_FILE + 1)
    finally:
        os.close(fd)
    match = _LINE.fullmatch(content.decode("ascii", "replace"))
    if match is None or len(content) > MAX_FILE:
        raise ConfigError(f"the credentials file {path} does not hold one line `user:password`", hint=_HINT)
    return Credentials(match[1], match[2])


def refusal(status: os.stat_result, euid: int) -> str:
    """Return why a process of `euid` must not use a credentials file, or nothing."""
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_uid not in {0, euid}:
        return f"belongs to another user (uid {status.st_uid})"
    # In a group of root's choice, others may read; nobody but root may write.
    forbidden = 0o037 if status.st_uid == 0 else 0o077
    mode = stat.S_IMODE(status.st_mode)
    return f"is open to others (mode {mode:04o})" if mode & forbidden else ""
