"""References and digests: parse what the user types, print it back in one canonical form."""

from __future__ import annotations

import posixpath
import sys

from stager.errors import InvalidReference

MAX_LENGTH = 4096
"""Longest reference, in characters: PATH_MAX of Linux, and more than any HTTP server accepts."""

DEFAULT_PORTS = {"http": "80", "https": "443"}
LATER_SCHEMES = ("docker", "oras", "library", "shub", "oci", "docker-archive", "oci-archive")

_HEX = frozenset("0123456789abcdef")


class Digest:
    """A sha256 digest: 64 lower-case hexadecimal digits, printed as `sha256:<hex>`."""

    __slots__ = ("hex",)

    def __init__(self, text: str) -> None:
        """Take `sha256:<hex>` or `<hex>` in any case; raise InvalidReference for anything else."""
        digits = text.lower().removeprefix("sha256:")
        if len(digits) != 64 or not _HEX.issuperset(digits):
            raise InvalidReference(f"{_shown(text)} is not a sha256 digest (64 hexadecimal digits)")
        self.hex = digits

    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    def __repr__(self) -> str:
        return f"Digest({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and other.hex == self.hex

    def __hash__(self) -> int:
        return hash(self.hex)


class Reference:
    """What the user asked for: scheme (`http`, `https`, `file`), location and an optional digest pin.

    `location` is a canonical URL for the HTTP schemes and an absolute path for `file`.
    """

    __slots__ = ("_key", "digest", "location", "scheme")

    def __init__(self, scheme: str, location: str, digest: Digest | None = None) -> None:
        self.scheme = scheme
        self.location = location
        self.digest = digest
        self._key = ""

    def __str__(self) -> str:
        return self.location if self.digest is None else f"{self.location}@{self.digest}"

    def __repr__(self) -> str:
        return f"Reference({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def key(self) -> str:
        """64 hexadecimal digits that name this reference, pin included, in the store."""
        if not self._key:
            self._key = _sha256(str(self).encode("utf-8", "surrogateescape"))
        return self._key

    @property
    def shown(self) -> str:
        """The reference for people and records, without the query of a URL: signed URLs carry their secret there."""
        plain = self.location if self.scheme == "file" else self.location.split("?", 1)[0]
        return plain if self.digest is None else f"{plain}@{self.digest}"

    @property
    def name(self) -> str:
        """The last component of the location, for people to read."""
        path = self.location if self.scheme == "file" else self.location.split("?", 1)[0]
        return path.rstrip("/").rsplit("/", 1)[-1] or path


def parse(text: str, cwd: str = "/") -> Reference:
    """Return the reference that `text` means, relative paths taken from `cwd`.

    `parse(str(reference)) == reference` for every reference. Raises InvalidReference.
    """
    if not text:
        raise InvalidReference("the reference is empty")
    if len(text) > MAX_LENGTH:
        raise InvalidReference(f"the reference is {len(text)} characters long, the limit is {MAX_LENGTH}")
    _refuse_control_characters(text)
    location, digest = _split_pin(text)
    reference = _of(location, digest, cwd)
    if reference.location.rpartition("@")[2].lower().startswith("sha256:") and "@" in reference.location:
        raise InvalidReference(f"{_shown(text)} names a file whose own name looks like a pin")
    return reference


def _of(location: str, digest: Digest | None, cwd: str) -> Reference:
    scheme, separator, rest = location.partition("://")
    if not separator:
        return Reference("file", _absolute(_without_later_scheme(location), cwd), digest)
    scheme = scheme.lower()
    if scheme in DEFAULT_PORTS:
        return Reference(scheme, _canonical_url(scheme, rest), digest)
    if scheme == "file":
        return Reference("file", _file_path(rest), digest)
    known = "this version stages http://, https://, file:// and plain paths"
    raise InvalidReference(f"the scheme {_shown(scheme + '://')} is not supported", hint=known)


def _refuse_control_characters(text: str) -> None:
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise InvalidReference(f"{_shown(text)} contains control characters")


def _split_pin(text: str) -> tuple[str, Digest | None]:
    location, at, pin = text.rpartition("@")
    if not at or not pin.lower().startswith("sha256:"):
        return text, None
    if not location:
        raise InvalidReference(f"{_shown(text)} pins a digest but names no image")
    return location, Digest(pin)


def _without_later_scheme(path: str) -> str:
    # `oci:DIR` and its kin are written without slashes; taking them for a file name would give a puzzling "not found".
    scheme = path.partition(":")[0]
    if scheme in LATER_SCHEMES and path != scheme:
        raise InvalidReference(f"the scheme {_shown(scheme + ':')} is not supported")
    return path


def _canonical_url(scheme: str, rest: str) -> str:
    rest = rest.partition("#")[0]
    cut = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=len(rest))
    authority, path = rest[:cut], rest[cut:]
    if "@" in authority:
        raise InvalidReference(
            f"the URL for {_shown(authority.rpartition('@')[2])} carries credentials",
            hint="command lines are visible to every user of the node: use ~/.netrc or the token_file setting",
        )
    if any(c in rest for c in ' "<>\\^`{|}'):
        raise InvalidReference(f"{_shown(rest)} contains characters that must be percent-encoded in a URL")
    if not path.startswith("/"):
        path = "/" + path
    return f"{scheme}://{_canonical_authority(scheme, authority)}{path}"


def _canonical_authority(scheme: str, authority: str) -> str:
    host, port = authority.lower(), ""
    if not host.endswith("]"):
        head, colon, tail = host.rpartition(":")
        if colon:
            host, port = head, tail
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise InvalidReference(f"{_shown(port)} is not a port number")
    bracketed = host.startswith("[") and host.endswith("]") and ":" in host
    plain = bool(host) and not any(c in host for c in "[]:/%")
    if not (bracketed or plain) or host.strip(".") == "":
        raise InvalidReference(f"{_shown(authority)} is not a host name")
    port = port.lstrip("0")
    return host if port in ("", DEFAULT_PORTS[scheme]) else f"{host}:{port}"


def _file_path(rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost"):
        raise InvalidReference(f"file://{_shown(host)} names another host; write file:///path")
    if not slash:
        raise InvalidReference("file:// names no path")
    from urllib.parse import unquote

    decoded = unquote(path, errors="surrogateescape")
    _refuse_control_characters(decoded)
    return _absolute("/" + decoded, "/")


def _absolute(path: str, cwd: str) -> str:
    # `..` is kept: folding it in words would change what it means behind a symbolic link.
    joined = posixpath.join(cwd, path)
    parts = [p for p in joined.split("/") if p not in ("", ".")]
    return "/" + "/".join(parts)


def _sha256(data: bytes) -> str:
    # hashlib loads OpenSSL, 2.3 ms in each of a node's tasks; for 50 bytes the interpreter's own code will do. It is
    # called _sha2 from Python 3.12 on.
    for module in ("_sha2", "_sha256") if sys.version_info >= (3, 12) else ("_sha256",):
        try:
            return str(__import__(module).sha256(data).hexdigest())
        except ImportError:
            continue
    from hashlib import sha256

    return sha256(data).hexdigest()


def _shown(text: str) -> str:
    """Quote hostile text for a message, cut to a line's length."""
    quoted = ascii(text)
    return quoted if len(quoted) <= 120 else quoted[:117] + "..."
