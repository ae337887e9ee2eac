"""References to container images: in registries, libraries, layouts and archives; `stager.reference.parse` asks here.

Apart from `stager.reference`, because the grammar of registries takes regular expressions, which load for longer than
all of the warm path.
"""

from __future__ import annotations

import re

from stager import image_names
from stager.errors import InvalidReference
from stager.reference import ON_DISK, REGISTRIES, Digest, Reference, absolute, divided, shown, split_pin

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HASH = re.compile(r"sha256\.([0-9a-f]{64})")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::([0-9]{1,5}))?")
LONGEST = 512
"""Characters of a library's reference without its pin; no service takes more than a part of that."""

_LIBRARY_HINT = "write library://entity/collection/container:tag, with library://host/ before it for another library"
_KNOWN = "http, https, file, docker, oras, library, oci, docker-archive and oci-archive are; and plain paths"
_HUB_CLOSED = "Singularity Hub takes no requests since 2021: find the image in a registry, or build it again"


def parse_container(scheme: str, text: str, cwd: str) -> Reference:
    """Return what a text with a scheme, in lower case, means that is none of http, https and file.

    Raises InvalidReference, also for schemes that are unknown.
    """
    rest = text[len(scheme) + 1 :]
    if scheme in ON_DISK:
        return _on_disk(scheme, rest, cwd)
    if scheme == "shub":
        raise InvalidReference("shub:// images are not to be had any more", hint=_HUB_CLOSED)
    if scheme not in (*REGISTRIES, "library"):
        raise InvalidReference(f"the scheme {shown(scheme + '://')} is not supported", hint=_KNOWN)
    if not rest.startswith("//"):
        # Not repeated as a whole: somebody's `user:password@` may be in it.
        raise InvalidReference(
            f"{shown(rest.rpartition('@')[2])} lacks the slashes behind {scheme}:",
            hint=f"write {scheme}://name, or ./{scheme}:name for a file of that name",
        )
    if scheme == "library":
        return _library(rest[2:])
    return Reference(scheme, f"{scheme}://{image_names.parse(rest[2:])}")


def library_parts(location: str) -> tuple[str, tuple[str, ...], str]:
    """Return the host, the path's one to three components and the tag in `library://[host/]path[:tag]`.

    The host is empty for the library that is set, and so is a tag that is left out. A first component is a host if
    three follow it, or if it has a dot or a colon and something follows: then scs-library-client takes it for one, and
    no entity of the public library has a dot in its name. Raises InvalidReference.
    """
    first, slash, others = location.partition("://")[2].lstrip("/").partition("/")
    is_host = bool(slash) and (others.count("/") == 2 or any(c in first for c in ".:"))
    rest = others if is_host else f"{first}{slash}{others}"
    path, colon, tag = rest.partition(":")
    parts = tuple(path.split("/"))
    if len(parts) > 3 or not all(map(_PART.fullmatch, parts)) or len(location) > LONGEST:
        raise InvalidReference(f"{_without_user(rest)} is not the name of a library's image", hint=_LIBRARY_HINT)
    if is_host and not _is_host(first.lower()):
        raise InvalidReference(f"{_without_user(first)} is not a host name", hint=_LIBRARY_HINT)
    if colon and not _TAG.fullmatch(tag):
        raise InvalidReference(f"{shown(tag)} is not a tag", hint=_LIBRARY_HINT)
    return (first.lower() if is_host else ""), parts, tag


def _library(rest: str) -> Reference:
    location, digest = split_pin(f"library://{rest}")
    host, parts, tag = library_parts(location)
    if not host and len(parts) == 1:
        parts = ("library", "default", *parts)  # as the service does
    where = "/".join([*([host] if host else []), *parts])
    return Reference("library", f"library://{where}:{tag or 'latest'}", digest or _hash_in(tag))


def _hash_in(tag: str) -> Digest | None:
    """Return the digest of the file that a tag `sha256.<hex>` names by itself."""
    match = _HASH.fullmatch(tag.lower())
    return Digest(match[1]) if match is not None else None


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    return match is not None and (match[1] is None or 0 < int(match[1]) < 65536)


def _without_user(text: str) -> str:
    return shown(text.rpartition("@")[2])


def _on_disk(scheme: str, rest: str, cwd: str) -> Reference:
    if rest.startswith("//"):
        raise InvalidReference(
            f"behind {scheme}: comes a path, not two slashes",
            hint=f"write {scheme}:/path; an image in a registry is docker://host/name:tag",
        )
    path, name = divided(scheme, rest)
    if not path:
        raise InvalidReference(f"{scheme}: names no path", hint=f"write {scheme}:/path, or {scheme}:/path:name")
    path = absolute(path, cwd)
    if scheme == "docker-archive" and ":" in path:
        raise InvalidReference(
            f"{shown(path)} has a colon, at which the path of a docker-archive: ends", hint="give it another name"
        )
    # A directory that has a colon in its name is told from a name behind it by a colon at its end.
    ambiguous = ":" in path.rpartition("/")[2]
    location = f"{scheme}:{path}{f':{name}' if name or ambiguous else ''}"
    if "@sha256:" in location.lower():
        raise InvalidReference(
            f"{shown(location)} has a digest, which cannot pin what is made of an image on disk",
            hint="name one of its images by a tag",
        )
    return Reference(scheme, location)
