"""Where credentials for registries are looked for, and in which order."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stager.errors import AccessDenied
from stager.sources.registry import auth_files, credential_helper
from stager.sources.registry.auth_files import AuthFile, Credential

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFIXES = ("APPTAINER_DOCKER", "SINGULARITY_DOCKER")


def find(host: str, repository: str, environ: Mapping[str, str], user: str = "") -> Credential | None:
    """Return the first credentials for a repository, of `user` if one is named; None to be anonymous.

    Raises ConfigError for a file or helper that is no good, AccessDenied if the user named is nowhere.
    """
    for credential in _all(host, repository, environ):
        if user in ("", credential.user):
            return credential
    if user:
        raise AccessDenied(
            f"no credentials of the user {user} for {host} were found",
            hint=f"`docker login -u {user} {host}` makes some",
        )
    return None


def find_for_mirror(host: str, repository: str, environ: Mapping[str, str]) -> Credential | None:
    """Return credentials that are written for this host; those of the variables without a host are the origin's."""
    return next(_written(host, repository, environ), None)


def places(environ: Mapping[str, str]) -> list[str]:
    """Return the files in which credentials may be, as podman, docker and apptainer look for them."""
    home = environ.get("HOME") or os.path.expanduser("~")
    runtime, docker = environ.get("XDG_RUNTIME_DIR"), environ.get("DOCKER_CONFIG")
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    chosen = [
        environ.get("REGISTRY_AUTH_FILE"),
        runtime and f"{runtime}/containers/auth.json",
        f"{config}/containers/auth.json",
        docker and f"{docker}/config.json",
        f"{home}/.docker/config.json",
        f"{home}/.apptainer/docker-config.json",
        f"{home}/.singularity/docker-config.json",
    ]
    return list(dict.fromkeys(path for path in chosen if path))


def _all(host: str, repository: str, environ: Mapping[str, str]) -> Iterator[Credential]:
    for prefix in PREFIXES:
        name, secret = environ.get(f"{prefix}_USERNAME"), environ.get(f"{prefix}_PASSWORD")
        if name and secret:
            yield Credential(name, secret, f"${prefix}_USERNAME")
    yield from _written(host, repository, environ)


def _written(host: str, repository: str, environ: Mapping[str, str]) -> Iterator[Credential]:
    for file in _files(environ):
        credential = file.entry(host, repository)
        helper = "" if credential else file.helper(host)
        if helper:
            credential = credential_helper.ask(helper, host, environ)
        if credential:
            yield credential


def _files(environ: Mapping[str, str]) -> Iterator[AuthFile]:
    if text := environ.get("DOCKER_AUTH_CONFIG"):
        yield auth_files.parse(text, "$DOCKER_AUTH_CONFIG")
    for path in places(environ):
        if file := auth_files.read(path):
            yield file
