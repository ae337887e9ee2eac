"""What may be set for Singularity libraries, and names in them; free of requests."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stager.errors import InvalidReference
from stager.reference import Digest
from stager.sources.settings import HttpSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

PUBLIC = "https://library.sylabs.io"
"""What cloud.sylabs.io names as its library in /assets/config/config.prod.json."""

_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HASH = re.compile(r"sha256[.:]([0-9a-f]{64})")
_HINT = "write library://entity/collection/container:tag, with library://host/ before it for another library"


@dataclass(frozen=True, slots=True)
class LibrarySettings:
    """`library`: the URL of the service for references without a host.

    `environ`: the environment by which remote.yaml with its tokens is found.
    """

    http: HttpSettings = field(default_factory=HttpSettings)
    library: str = PUBLIC
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)


@dataclass(frozen=True, slots=True)
class LibraryName:
    """An image's name: `host` is empty for the library that is set; `path` has one to three components."""

    host: str
    path: str
    tag: str

    def __str__(self) -> str:
        return f"library://{self.host}{'/' if self.host else ''}{self.path}:{self.tag}"

    @property
    def pin(self) -> Digest | None:
        """The image's own digest, if the tag is that: `sha256.<hex>`."""
        return digest_in(self.tag)


def parse(location: str) -> LibraryName:
    """Return what `[library://][host/][entity/[collection/]]container[:tag]` names. Raises InvalidReference.

    What is left out is filled in by the service: it knows `alpine` as `library/default/alpine`. A first component is
    a host if three follow, as for Singularity (splitHostNameAndPath), or if it has a port, as no entity can. A dot
    alone does not make it one: entities may be called `jane.doe`.
    """
    rest = location.removeprefix("library://").lstrip("/")
    first, slash, others = rest.partition("/")
    is_host = bool(slash) and (rest.count("/") == 3 or ":" in first)
    host, rest = (first.lower(), others) if is_host else ("", rest)
    path, colon, tag = rest.partition(":")
    parts = path.split("/")
    if len(parts) > 3 or not all(map(_PART.fullmatch, parts)) or (colon and not _TAG.fullmatch(tag)):
        raise InvalidReference(f"{_shown(rest)} is not the name of a library's image", hint=_HINT)
    if host and not _is_host(host):
        raise InvalidReference(f"{_shown(host)} is not a host name", hint=_HINT)
    return LibraryName(host, path, tag or "latest")


def library_pin(location: str) -> Digest | None:
    """Return the digest that the bytes at a location must have, if its tag says so. Raises InvalidReference."""
    return parse(location).pin


def digest_in(text: str) -> Digest | None:
    """Return what the hash that a library gives an image says; None for those of images before 2019 (`sif.<uuid>`)."""
    match = _HASH.fullmatch(text.lower())
    return Digest(match[1]) if match else None


def _is_host(host: str) -> bool:
    match = re.fullmatch(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::([0-9]{1,5}))?", host)
    return match is not None and (match[1] is None or 0 < int(match[1]) < 65536)


def _shown(text: str) -> str:
    quoted = ascii(text)
    return quoted if len(quoted) <= 120 else quoted[:117] + "..."
