"""What the Prolog may stage for users: it reads as root, and from the node's place in the network.

For the hooks: `check(reference, allow)`; for who reads settings: `prefix(text)`. A user may ask for whatever begins
with one of the site's prefixes, and servers, proxies and clients do not agree on what a path with dots and escapes
begins with. So the prefix has to be there as it is written, and what follows may not climb above it however often it
is unescaped: nginx unescapes once and merges slashes, urllib3 resolves dots before it asks, Tomcat takes `..;x` for
`..`. A redirect of an allowed server is that server's word, and followed.

Of registries and libraries whole components of a name are compared: `docker://docker.io/library/` allows
`docker://ubuntu:22.04`, with any tag or digest, and from whichever mirror the site has for docker.io. A user in a
reference is refused, for he chooses whose password to show: the hook is root, and root's are not for jobs to choose.
Layouts and archives are files: `/apps/` allows `oci:/apps/x:tag` and `docker-archive:/apps/x.tar`.

A file is compared when it is asked for and opened later: who may write to an allowed directory may exchange a link in
it in between, and let root read another image. So allow directories that only trusted people write to, and look at
what was opened: an image that not everybody may read is private (`Stream.private`), and none of the Prolog's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from stager import image_names
from stager import reference as references
from stager.container_references import library_parts
from stager.errors import AccessDenied, ConfigError, InvalidReference
from stager.reference import ON_DISK, REGISTRIES

if TYPE_CHECKING:
    from stager.reference import Reference

HINT = "ask the administrators to add it to {}.allow, or stage it yourself: `stage-image exec REF -- …` in the job"
MAX_UNESCAPING = 4
"""Times that a path is unescaped before it is refused: a client, a proxy and a server do it once each."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A directory or an image below which everything is allowed: `origin` is `scheme://host[:port]`, or empty.

    It is `library://` for the library that is asked where none is named.
    """

    origin: str
    parts: tuple[str, ...]


def check(reference: Reference, allow: tuple[str, ...], table: str = "slurm") -> None:
    """Return if the Prolog may stage `reference`, which it may not if `allow`, of the settings' `table`, is empty.

    A URL needs the scheme, host and port of a prefix, and its directory; so does an image of a registry, which may name
    no user; a file needs to be below a prefix both by its name, before the file system is asked, and when its links are
    resolved. Raises AccessDenied, and ConfigError for a prefix that cannot be one.
    """
    prefixes = [prefix(text, table) for text in allow]
    if reference.scheme in REGISTRIES and image_names.parse(reference.location.partition("://")[2]).user:
        raise AccessDenied(
            f"{ascii(reference.shown)[1:-1]} is asked for as a certain user, which is not for jobs to choose",
            hint="leave the user out, or stage it yourself: `stage-image exec REF -- …` in the job",
        )
    allowed = _file_is_below if reference.path else _url_is_below
    if not allowed(reference, prefixes):
        raise AccessDenied(
            f"{ascii(reference.shown)[1:-1]} is not what this site stages for jobs", hint=HINT.format(table)
        )


def prefix(text: str, table: str = "slurm") -> Prefix:
    """Return what an entry of `<table>.allow` means. Raises ConfigError.

    `https://host/directory`, `/directory`, `docker://host/part` (oras likewise), `library://entity/collection`.
    """
    scheme = text.partition("://")[0].lower()
    if "://" in text and scheme in (*REGISTRIES, "library"):
        return _prefix_of_images(scheme, text, table)
    try:
        parsed = references.parse(text)
    except InvalidReference as error:
        raise ConfigError(f"{table}.allow: {error.message}") from None
    origin, parts = _taken_apart(parsed)
    if parts and not parts[-1]:
        parts = parts[:-1]
    strange = (
        parsed.scheme in ON_DISK
        or parsed.digest
        or "?" in parsed.location
        or "*" in parsed.location
        or {".", ".."}.intersection(parts)
    )
    if strange or not (text.startswith("/") or "://" in text):
        raise ConfigError(f"{table}.allow: {ascii(text)[:120]} is neither the beginning of a URL nor an absolute path")
    return Prefix(origin, parts)


def _prefix_of_images(scheme: str, text: str, table: str) -> Prefix:
    rest = text.partition("://")[2].rstrip("/")
    first, _, others = rest.partition("/")
    is_host = "." in first or ":" in first or first.lower() == "localhost"
    parts = _parts(others if is_host else rest)
    host = first if is_host else ""
    # An image below it: whatever is wrong with a name is wrong with the prefix. A library's has three parts.
    example = (*parts, *["x"] * (3 - len(parts))) if scheme == "library" else (*parts, "x")
    try:
        if scheme in REGISTRIES and not is_host:
            raise InvalidReference("a prefix of images names its registry, as in docker://docker.io/library/")
        if scheme == "library" and len(parts) > 3:
            raise InvalidReference("an image of a library has three parts, behind a host if one is named")
        below = references.parse("/".join([f"{scheme}:/", *([host] if host else []), *example]))
    except InvalidReference as error:
        raise ConfigError(f"{table}.allow: {ascii(text)[:120]}: {error.message}") from None
    if "@" in text or ":" in others or (scheme == "library" and ":" in rest and not is_host):
        raise ConfigError(f"{table}.allow: {ascii(text)[:120]} has a user, a tag or a digest, and a prefix has none")
    return Prefix(_taken_apart(below)[0], parts)


def _taken_apart(reference: Reference) -> tuple[str, tuple[str, ...]]:
    if reference.path:
        return "", _parts(reference.path[1:])
    if reference.scheme in REGISTRIES:
        name = image_names.parse(reference.location.partition("://")[2])
        return f"{reference.scheme}://{name.host}", _parts(name.repository)
    if reference.scheme == "library":
        host, parts, _ = library_parts(reference.location)
        return f"library://{host}", parts
    scheme, _, rest = reference.location.partition("?")[0].partition("://")
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}", _parts(path)


def _parts(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")) if path else ()


def _url_is_below(reference: Reference, prefixes: list[Prefix]) -> bool:
    origin, parts = _taken_apart(reference)
    if reference.scheme == "library" and len(parts) < 3:
        # Only the library knows what it puts before them.
        return Prefix(origin, ()) in prefixes
    return any(
        one.origin == origin and _starts(parts, one) and _never_climbs("/".join(parts[len(one.parts) :]))
        for one in prefixes
    )


def _file_is_below(reference: Reference, prefixes: list[Prefix]) -> bool:
    # By name first: to resolve a path is to walk it as root, which may wake automounts and hang on dead servers.
    _, parts = _taken_apart(reference)
    if ".." in parts:
        return False
    here = [one for one in prefixes if not one.origin]
    real = [Prefix("", _resolved("/" + "/".join(one.parts))) for one in here]
    if not any(_starts(parts, one) for one in (*here, *real)):
        return False
    try:
        resolved = _resolved(reference.path)
    except (RecursionError, ValueError):
        return False  # More links than realpath() can follow, of which the kernel takes 40; no name in this locale.
    return any(_starts(resolved, one) for one in real)


def _resolved(path: str) -> tuple[str, ...]:
    return _parts(os.path.realpath(path)[1:])


def _starts(parts: tuple[str, ...], prefix: Prefix) -> bool:
    return parts[: len(prefix.parts)] == prefix.parts


def _never_climbs(path: str) -> bool:
    for _ in range(MAX_UNESCAPING):
        if not _stays(path):
            return False
        try:
            plain = unquote_to_bytes(path).decode()
        except UnicodeDecodeError:
            return False  # Some take C0 AE, which is no UTF-8, for a dot.
        if plain == path:
            return True
        path = plain
    return False


def _stays(path: str) -> bool:
    if not path.isprintable():
        return False
    depth = 0
    for part in path.replace("\\", "/").split("/"):
        name = part.partition(";")[0]
        # An empty part is no step down: servers that merge slashes would take a step less than those that do not.
        depth += -1 if name == ".." else name not in ("", ".")
        if depth < 0:
            return False
    return True
