"""Tokens for libraries, where `apptainer remote login` and `singularity remote login` keep them.

    Active: SylabsCloud
    Remotes:
      SylabsCloud:
        URI: cloud.sylabs.io
        Token: …
        System: true

The file is what Go's yaml packages write of maps, lists and scalars (internal/pkg/remote/remote.go of Singularity
3.11 and Apptainer 1.3), and only that is understood here: other YAML gives no token.
"""

from __future__ import annotations

import os
import re
import stat
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stager.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LONGEST = 1 << 20
"""Bytes of a file with tokens."""

SERVICES = {"cloud.sylabs.io": "library.sylabs.io"}
"""Remotes whose library has another name. Those of other sites usually have not; they could be asked
(/assets/config/config.prod.json), but then it is the answer that decides where a token goes."""

_PLACES = (
    ("APPTAINER_CONFIGDIR", ".apptainer"),
    ("SINGULARITY_CONFIGDIR", ".singularity"),
)
_LINE = re.compile(r"""( *)("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s"'#:-][^:]*?) *:(?: +(.*))?""")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SINGLE = re.compile(r"'((?:[^']|'')*)'")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def token_for(url: str, environ: Mapping[str, str]) -> str:
    """Return the token for the library at `url`, empty if there is none.

    That of the active remote is preferred, but it must be one for this very host. Never for plain http, unless to
    this very machine or where the remote says `Insecure`. Raises ConfigError if others may read the file.
    """
    for path in _paths(environ):
        for remote in _remotes(path):
            if _is_for(remote, url) and _TOKEN.fullmatch(remote.get("Token", "")):
                _require_private(path)
                return remote["Token"]
    return ""


def read(text: str) -> dict[tuple[str, ...], str]:
    """Return the scalars in nested maps by the keys that lead to them; what lies in lists is left out."""
    found: dict[tuple[str, ...], str] = {}
    above: list[tuple[int, str]] = []
    in_list = -1
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip(" "))
        content = line.strip()
        if not content or content.startswith(("#", "---")):
            continue
        if content == "-" or content.startswith("- "):
            in_list = depth if in_list < 0 else min(in_list, depth)
            continue
        if 0 <= in_list < depth:
            continue
        in_list = -1
        match = _LINE.fullmatch(line.rstrip())
        if not match:
            continue
        while above and above[-1][0] >= depth:
            above.pop()
        above.append((depth, _scalar(match[2])))
        if match[3]:
            found[tuple(key for _, key in above)] = _scalar(match[3])
    return found


def _paths(environ: Mapping[str, str]) -> Iterator[str]:
    home = environ.get("HOME", "")
    for variable, folder in _PLACES:
        place = environ.get(variable, "") or (os.path.join(home, folder) if home else "")
        if place:
            yield os.path.join(place, "remote.yaml")


def _remotes(path: str) -> list[dict[str, str]]:
    """Return the remotes of a file, the active one first."""
    try:
        # Not blocking, or a FIFO would hold up every task of the job.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        content = os.read(fd, LONGEST) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return []
    finally:
        os.close(fd)
    scalars = read(content.decode("utf-8", "replace"))
    remotes: dict[str, dict[str, str]] = {}
    for keys, value in scalars.items():
        if len(keys) == 3 and keys[0] == "Remotes":
            remotes.setdefault(keys[1], {})[keys[2]] = value
    active = scalars.get(("Active",), "")
    return [remotes[name] for name in sorted(remotes, key=lambda name: name != active)]


def _is_for(remote: Mapping[str, str], url: str) -> bool:
    parts = urlsplit(url)
    uri = remote.get("URI", "")
    try:
        there = urlsplit(uri if "://" in uri else f"//{uri}")
        known = SERVICES.get(there.hostname or "", there.hostname)
        same = (known, there.port or _port(there.scheme or parts.scheme)) == (
            parts.hostname,
            parts.port or _port(parts.scheme),
        )
    except ValueError:
        return False
    guarded = parts.scheme == "https" or is_here(parts.hostname or "") or remote.get("Insecure", "").lower() == "true"
    return same and guarded


def is_here(host: str) -> bool:
    """Whether a host name means this very machine, to which there is no way to listen in on."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False  # 127.0.0.1.example.org, say


def _port(scheme: str) -> int:
    return 80 if scheme == "http" else 443


def _require_private(path: str) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigError(f"{path} holds a token, but others may read or own it", hint=f"chmod 600 {path}")


def _scalar(text: str) -> str:
    double, single = _DOUBLE.match(text), _SINGLE.match(text)
    if double:
        return re.sub(r'\\(["\\/])', r"\1", double[1])
    if single:
        return single[1].replace("''", "'")
    return text.partition(" #")[0].strip()
