"""What may be set for Singularity libraries, and names in them; free of requests."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stager.container_references import library_parts
from stager.reference import Digest
from stager.sources.settings import HttpSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

PUBLIC = "https://library.sylabs.io"
"""What cloud.sylabs.io names as its library in /assets/config/config.prod.json."""

_HASH = re.compile(r"sha256[.:]([0-9a-f]{64})")


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

    What is left out is filled in by the service: it knows `alpine` as `library/default/alpine`. Which host is asked is
    read in one place only: what a site allows, and what is asked, must be the same.
    """
    host, parts, tag = library_parts(f"library://{location.removeprefix('library://')}")
    return LibraryName(host, "/".join(parts), tag or "latest")


def library_pin(location: str) -> Digest | None:
    """Return the digest that the bytes at a location must have, if its tag says so. Raises InvalidReference."""
    return parse(location).pin


def digest_in(text: str) -> Digest | None:
    """Return what the hash that a library gives an image says; None for those of images before 2019 (`sif.<uuid>`)."""
    match = _HASH.fullmatch(text.lower())
    return Digest(match[1]) if match else None
