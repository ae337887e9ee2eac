"""References and digests: parse what the user types, print it back in one canonical form."""

from __future__ import annotations

import posixpath
import sys

from stager.errors import InvalidReference

MAX_LENGTH = 4096
"""Longest reference, in characters: PATH_MAX of Linux, and more than any HTTP server accepts."""

DEFAULT_PORTS = {"http": "80", "https": "443"}
REGISTRIES = ("docker", "oras")
"""Schemes of registries, whose location may end with a digest: that of a manifest, not of a file."""

ON_DISK = ("oci", "docker-archive", "oci-archive")
"""Schemes of images made of layers in the file system: `oci:DIRECTORY`, without slashes of their own."""

_HEX = frozenset("0123456789abcdef")


class Digest:
    """A sha256 digest: 64 lower-case hexadecimal digits, printed as `sha256:<hex>`."""

    __slots__ = ("hex",)

    def __init__(self, text: str) -> None:
        """Take `sha256:<hex>` or `<hex>` in any case; raise InvalidReference for anything else."""
        digits = text.lower().removeprefix("sha256:")
        if len(digits) != 64 or not _HEX.issuperset(digits):
            raise InvalidReference(f"{shown(text)} is not a sha256 digest (64 hexadecimal digits)")
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
    """What the user asked for: scheme, location and an optional digest that pins the staged file.

    `scheme` is http, https, file; docker, oras, library; oci, docker-archive or oci-archive. `location` is canonical:
    a URL, with all that was left out of a registry's or library's filled in; an absolute path for `file`; the scheme,
    a colon and an absolute path, with a colon and a name if one was given, for the last three.

    `variant` says which of several files that one location may become is meant (`linux/amd64 zstd 3`): it is no part of
    what is printed, but of what is compared, and of the key unless it is what this node takes without being told.
    """

    __slots__ = ("_key", "digest", "location", "scheme", "usual", "variant")

    def __init__(self, scheme: str, location: str, digest: Digest | None = None, variant: str = "") -> None:
        self.scheme = scheme
        self.location = location
        self.digest = digest
        self.variant = variant
        self.usual = False
        self._key = ""

    def __str__(self) -> str:
        return self.location if self.digest is None else f"{self.location}@{self.digest}"

    def __repr__(self) -> str:
        return f"Reference({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and (str(other), other.variant) == (str(self), self.variant)

    def __hash__(self) -> int:
        return hash(str(self))

    def with_variant(self, variant: str, *, usual: bool = False) -> Reference:
        """Return the same reference, meaning this variant, which is this node's `usual` one or not."""
        varied = Reference(self.scheme, self.location, self.digest, variant)
        varied.usual = usual
        return varied

    def with_digest(self, digest: Digest | None) -> Reference:
        """Return the same reference, pinned to a file, or to none."""
        return Reference(self.scheme, self.location, digest).with_variant(self.variant, usual=self.usual)

    @property
    def key(self) -> str:
        """64 hexadecimal digits that name this reference, pin and variant included, in this node's store.

        The usual variant is not in it, so that who reads no settings (the warm path) makes the same key.
        """
        if not self._key:
            self._key = self._named("" if self.usual else self.variant)
        return self._key

    @property
    def cluster_key(self) -> str:
        """As `key`, among nodes of several kinds, of which each has a usual variant of its own."""
        return self._named(self.variant)

    def _named(self, variant: str) -> str:
        # No line feed is in a reference: what comes behind one is nothing that could be printed.
        text = f"{self}\n{variant}" if variant else str(self)
        return _sha256(text.encode("utf-8", "surrogateescape"))

    @property
    def is_immutable(self) -> bool:
        """Whether the location says by itself which image is meant for ever: by a manifest's or a file's digest."""
        if self.scheme in REGISTRIES:
            return "@sha256:" in self.location
        tag = self.location.rpartition(":")[2].removeprefix("sha256.")
        return self.scheme == "library" and len(tag) == 64 and _HEX.issuperset(tag)

    @property
    def is_by_digest(self) -> bool:
        """Whether the origin names a version of the file by the sha256 of its bytes, so that they can be compared."""
        return self.scheme in ("oras", "library")

    @property
    def shown(self) -> str:
        """The reference for people and records.

        Without the query of a URL: signed URLs carry their secret there. And without the user of a registry's image:
        some write a token in that place.
        """
        plain = self._plain
        return plain if self.digest is None else f"{plain}@{self.digest}"

    @property
    def name(self) -> str:
        """The last component of the location, for people to read; of a registry's image with its tag."""
        plain = self._plain
        path = plain.partition("@sha256:")[0] if self.scheme in REGISTRIES else plain
        return path.rstrip("/").rsplit("/", 1)[-1] or path

    @property
    def path(self) -> str:
        """The path of a file, an archive or a layout's directory; empty for what is not in the file system."""
        return self.location if self.scheme == "file" else self._divided[0]

    @property
    def inner_name(self) -> str:
        """Which image of an archive or layout is meant, as it was written: a tag or name; empty if it was left out."""
        return self._divided[1]

    @property
    def _divided(self) -> tuple[str, str]:
        return divided(self.scheme, self.location.partition(":")[2]) if self.scheme in ON_DISK else ("", "")

    @property
    def _plain(self) -> str:
        if self.scheme in DEFAULT_PORTS:
            return self.location.split("?", 1)[0]
        if self.scheme in REGISTRIES:
            scheme, _, name = self.location.partition("://")
            before, at, rest = name.partition("@")
            return f"{scheme}://{rest}" if at and "/" not in before else self.location
        return self.location


def parse(text: str, cwd: str = "/") -> Reference:
    """Return the reference that `text` means, relative paths taken from `cwd`.

    `parse(str(reference)) == reference` for every reference. Raises InvalidReference.
    """
    if not text:
        raise InvalidReference("the reference is empty")
    if len(text) > MAX_LENGTH:
        raise InvalidReference(f"the reference is {len(text)} characters long, the limit is {MAX_LENGTH}")
    _refuse_control_characters(text)
    if text.startswith("://"):
        raise InvalidReference(f"{shown(text)} names no scheme before its slashes")
    scheme = _scheme_of(text)
    if scheme not in ("", "file", *DEFAULT_PORTS):
        from stager.container_references import parse_container

        return parse_container(scheme, text, cwd)
    location, digest = split_pin(text)
    reference = _of(scheme, location, digest, cwd)
    if reference.location.rpartition("@")[2].lower().startswith("sha256:") and "@" in reference.location:
        raise InvalidReference(f"{shown(text)} names a file whose own name looks like a pin")
    return reference


def divided(scheme: str, rest: str) -> tuple[str, str]:
    """Return the path and the name in what stands behind `oci:`, `oci-archive:` or `docker-archive:`.

    A directory or an OCI archive ends at the last colon behind its last slash; a `docker-archive:` at the first colon,
    since a name in it may have slashes and a colon itself (docker save): its path can have none.
    """
    if scheme == "docker-archive":
        path, _, name = rest.partition(":")
        return path, name
    slash = rest.rfind("/") + 1
    last, colon, name = rest[slash:].rpartition(":")
    return (rest[:slash] + last, name) if colon else (rest, "")


def _scheme_of(text: str) -> str:
    """Return the scheme in lower case; empty for a plain path."""
    scheme, separator, _ = text.partition("://")
    word = text.partition(":")[0].lower()
    if word in _WITHOUT_SLASHES and word != text.lower():
        return word
    return scheme.lower() if separator else ""


_WITHOUT_SLASHES = (*ON_DISK, *REGISTRIES, "library", "shub")
"""What is a scheme also without slashes behind it: `docker:x` is no file that somebody means."""


def _of(scheme: str, location: str, digest: Digest | None, cwd: str) -> Reference:
    rest = location.partition("://")[2]
    if scheme == "file":
        return Reference("file", _file_path(rest), digest)
    if scheme:
        return Reference(scheme, _canonical_url(scheme, rest), digest)
    return Reference("file", absolute(location, cwd), digest)


def _refuse_control_characters(text: str) -> None:
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise InvalidReference(f"{shown(text)} contains control characters")


def split_pin(text: str) -> tuple[str, Digest | None]:
    """Return a text without the digest behind its last `@`, and that. Raises InvalidReference."""
    location, at, pin = text.rpartition("@")
    if not at or not pin.lower().startswith("sha256:"):
        return text, None
    if not location:
        raise InvalidReference(f"{shown(text)} pins a digest but names no image")
    return location, Digest(pin)


def _canonical_url(scheme: str, rest: str) -> str:
    rest = rest.partition("#")[0]
    cut = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=len(rest))
    authority, path = rest[:cut], rest[cut:]
    if "@" in authority:
        raise InvalidReference(
            f"the URL for {shown(authority.rpartition('@')[2])} carries credentials",
            hint="command lines are visible to every user of the node: use ~/.netrc or the token_file setting",
        )
    if any(c in rest for c in ' "<>\\^`{|}'):
        raise InvalidReference(f"{shown(rest)} contains characters that must be percent-encoded in a URL")
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
        raise InvalidReference(f"{shown(port)} is not a port number")
    bracketed = host.startswith("[") and host.endswith("]") and ":" in host
    plain = bool(host) and not any(c in host for c in "[]:/%")
    if not (bracketed or plain) or host.strip(".") == "":
        raise InvalidReference(f"{shown(authority)} is not a host name")
    port = port.lstrip("0")
    return host if port in ("", DEFAULT_PORTS[scheme]) else f"{host}:{port}"


def _file_path(rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost"):
        raise InvalidReference(f"file://{shown(host)} names another host; write file:///path")
    if not slash:
        raise InvalidReference("file:// names no path")
    from urllib.parse import unquote

    decoded = unquote(path, errors="surrogateescape")
    _refuse_control_characters(decoded)
    return absolute("/" + decoded, "/")


def absolute(path: str, cwd: str) -> str:
    """Return a path in its canonical form, taken from `cwd` if it is relative."""
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


def shown(text: str) -> str:
    """Quote hostile text for a message, cut to a line's length."""
    quoted = ascii(text)
    return quoted if len(quoted) <= 120 else quoted[:117] + "..."
