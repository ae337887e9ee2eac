"""What `docker login` and its kin leave behind: JSON with credentials (containers-auth.json(5)), read with care."""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from dataclasses import dataclass, field
from typing import Any

from stager.errors import ConfigError
from stager.image_names import HUB, HUB_SERVER

FILE_MAX = 1 << 20
"""Bytes of such a file that are read."""

_HUBS = frozenset({HUB, HUB_SERVER, "index.docker.io"})
HUB_KEY = "https://index.docker.io/v1/"
"""What Docker calls Docker Hub in files and to credential helpers (docs.docker.com, docker login)."""

_HINT = "it must be JSON as `docker login` writes it, belong to you, and be writable by nobody else (chmod 600)"


@dataclass(frozen=True, slots=True)
class Credential:
    """Who to be at a server: `identity` is whether the secret is a refresh token and no password.

    `found` tells people where it comes from.
    """

    user: str
    secret: str = field(repr=False)
    found: str
    identity: bool = False

    @property
    def basic(self) -> str:
        """The header for basic authentication (RFC 7617), in UTF-8."""
        text = f"{self.user}:{self.secret}"
        try:
            data = text.encode("utf-8", "surrogateescape")  # as the environment has it
        except UnicodeEncodeError:
            data = text.encode("utf-8", "replace")  # as JSON may have it
        return f"Basic {base64.b64encode(data).decode()}"


class AuthFile:
    """One file, or a variable, of credentials. `found` as in Credential."""

    def __init__(self, content: dict[str, Any], found: str) -> None:
        self.found = found
        self._auths = content.get("auths")
        self._helpers = content.get("credHelpers")
        self._store = content.get("credsStore")

    def entry(self, host: str, repository: str) -> Credential | None:
        """Return what is written for a repository, by the longest key that fits. Raises ConfigError."""
        entries: dict[str, dict[str, Any]] = {}
        for key, value in self._auths.items() if isinstance(self._auths, dict) else ():
            if isinstance(value, dict) and value:
                entries.setdefault(normalized(key), value)
        for key in keys(host, repository):
            if key in entries and (credential := self._credential(entries[key])):
                return credential
        return None

    def helper(self, host: str) -> str:
        """Return which credential helper is named for a host itself, or else for all hosts; empty if none is."""
        own = self._helpers if isinstance(self._helpers, dict) else {}
        named = next((name for key, name in own.items() if normalized(key) == normalized(host)), self._store)
        return named if isinstance(named, str) else ""

    def _credential(self, entry: dict[str, Any]) -> Credential | None:
        user, secret = self._login(entry)
        token = entry.get("identitytoken")
        if isinstance(token, str) and token:
            return Credential(user, token, self.found, identity=True)
        return Credential(user, secret, self.found) if user and secret else None

    def _login(self, entry: dict[str, Any]) -> tuple[str, str]:
        user, secret, packed = (entry.get(key) for key in ("username", "password", "auth"))
        if isinstance(packed, str) and packed:
            try:
                user, _, secret = base64.b64decode(packed, validate=True).decode().partition(":")
            except (binascii.Error, ValueError):
                # From None: the error has the bytes in it.
                raise ConfigError(f"{self.found} has an auth that is not base64", hint=_HINT) from None
        # Docker's own client wrote passwords with zeros behind them, once (docker/cli, configfile, decodeAuth).
        return (user if isinstance(user, str) else "", secret.strip("\0") if isinstance(secret, str) else "")


def keys(host: str, repository: str) -> list[str]:
    """Return by what a repository's credentials may be called, the most particular first."""
    parts = [normalized(host), *repository.split("/")]
    return ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]


def normalized(key: str) -> str:
    """Return a key as `host[:port][/path]`; of a URL, such as https://host/v1/, only the host counts."""
    _, scheme, rest = key.rpartition("://")
    host, _, path = rest.partition("/")
    host = HUB if host.lower() in _HUBS else host.lower()
    path = path.rstrip("/")
    return host if scheme or path in ("", "v1", "v2") else f"{host}/{path}"


def parse(text: bytes | str, found: str) -> AuthFile:
    """Return what a file says. Raises ConfigError, without a word of its content."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"{found} is not JSON", hint=_HINT) from None
    if not isinstance(content, dict):
        raise ConfigError(f"{found} is not a JSON object", hint=_HINT)
    return AuthFile(content, found)


def read(path: str) -> AuthFile | None:
    """Return what is in a file, None if there is none, or none for us. Raises ConfigError for one not to be trusted."""
    try:
        # Not blocking, or a FIFO would hold up every task of the job.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    try:
        _check(path, os.fstat(fd))
        content = _content(fd)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    finally:
        os.close(fd)
    if len(content) > FILE_MAX:
        raise ConfigError(f"{path} is longer than {FILE_MAX} bytes", hint=_HINT)
    return parse(content, path)


def _content(fd: int) -> bytes:
    content = b""
    while len(content) <= FILE_MAX and (piece := os.read(fd, FILE_MAX + 1 - len(content))):
        content += piece
    return content


def _check(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path} is not a regular file", hint=_HINT)
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path} belongs to another user (uid {status.st_uid})", hint=_HINT)
    if status.st_mode & 0o002:
        raise ConfigError(f"everybody may write to {path} (mode {stat.S_IMODE(status.st_mode):04o})", hint=_HINT)
