"""Names of images in registries: what a user types after `docker://`, and what is meant by it.

    [user@][host[:port]/]repository[:tag][@sha256:<hex>]

The grammar is that of github.com/distribution/reference (v0.6.0, reference.go); a name without a host, which has to
have a dot, a colon or be `localhost`, is one of Docker Hub's, where a name of one word lies below `library/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stager.errors import InvalidReference
from stager.reference import shown

HUB = "docker.io"
HUB_SERVER = "registry-1.docker.io"
"""Which host serves the distribution API for `docker.io` (docs.docker.com, Docker Hub API)."""

ALGORITHMS = ("sha256:", "sha384:", "sha512:")
"""Digests that registries know (OCI image specification, descriptor.md), of which the first alone is taken."""

LONGEST_REPOSITORY = 255
"""Characters of a repository with its host: NameTotalLengthMax of the grammar's source."""

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)
_USER = re.compile(r"[A-Za-z0-9._+$|-]{1,128}")
_HINT = "write docker://host/repository:tag or docker://host/repository@sha256:<64 hex digits>"
_LOGIN = "leave the password out, for everybody sees command lines: `docker login` keeps it"
_NO_URL = "leave it out; a registry without TLS is named in the settings, by plain_http"


@dataclass(frozen=True, slots=True)
class ImageName:
    """A name with all that was left out filled in; `tag` is empty where a digest alone is given.

    `host` is as people write it (`docker.io`, `host:5000`), `user` says whose credentials to take, empty for any.
    """

    host: str
    repository: str
    tag: str = ""
    digest: str = ""
    user: str = ""

    def __str__(self) -> str:
        who = f"{self.user}@" if self.user else ""
        tag = f":{self.tag}" if self.tag else ""
        return f"{who}{self.host}/{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"

    @property
    def server(self) -> str:
        """The host, and port if it is written, that is to be asked."""
        return HUB_SERVER if self.host == HUB else self.host

    @property
    def target(self) -> str:
        """What the manifest is asked for by: the digest, or else the tag."""
        return self.digest or self.tag


def parse(text: str) -> ImageName:
    """Return what a name means; `parse(str(name)) == name`. Raises InvalidReference."""
    rest, digest = _without_digest(text)
    user, at, rest = rest.rpartition("@")
    if at and not _USER.fullmatch(user):
        # `user:password@` would be in every process list of the cluster.
        hint = _LOGIN if ":" in user else _HINT
        raise InvalidReference(f"{shown(rest)} has something else than a user's name before its @", hint=hint)
    host, repository = _divided(rest)
    repository, colon, tag = repository.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise InvalidReference(f"{shown(tag)} is not a tag", hint=_HINT)
    if host == HUB and "/" not in repository:
        repository = f"library/{repository}"
    if not _REPOSITORY.fullmatch(repository) or len(host) + 1 + len(repository) > LONGEST_REPOSITORY:
        raise InvalidReference(
            f"{shown(repository)} is not the name of a repository", hint=_repository_hint(repository)
        )
    return ImageName(host, repository, tag or ("" if digest else "latest"), digest, user)


def _without_digest(text: str) -> tuple[str, str]:
    rest, at, digest = text.rpartition("@")
    # Behind an @ there may be a repository with a tag, too: `joe@tool:1`.
    if not at or not digest.lower().startswith(ALGORITHMS):
        return text, ""
    if not _DIGEST.fullmatch(digest.lower()):
        raise InvalidReference(f"{shown(digest)} is not a sha256 digest (64 hexadecimal digits)", hint=_HINT)
    return rest, digest.lower()


def _divided(rest: str) -> tuple[str, str]:
    first, slash, others = rest.partition("/")
    if not slash or not (first.lower() == "localhost" or any(c in first for c in ".:[")):
        return HUB, rest
    host = first.lower()
    port = host.rpartition(":")[2] if not host.endswith("]") and ":" in host else ""
    if host in ("http:", "https:"):
        raise InvalidReference(f"{shown(rest)} has {host}// in it, which is no part of a name", hint=_NO_URL)
    if not _HOST.fullmatch(host) or (port and not 0 < int(port) < 65536):
        raise InvalidReference(f"{shown(first)} is not a host name", hint=_HINT)
    return (HUB if host in ("index.docker.io", HUB_SERVER) else host), others


def _repository_hint(repository: str) -> str:
    return "names of repositories are lower-case" if repository != repository.lower() else _HINT
