"""Files of credentials: what docker and podman write is found under every name, and nobody else's is."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stager.errors import ConfigError
from stager.sources.registry.auth_files import HUB_KEY, Credential, keys, normalized, parse

HOSTS = st.sampled_from(["docker.io", "ghcr.io", "host:5000", "localhost", "[::1]:5000"])
PARTS = st.sampled_from(["a", "b", "library", "x1"])
REPOSITORIES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters=":\0"), min_size=1, max_size=10)
PASSWORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


def packed(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def entry(auths: dict[str, Any], host: str, repository: str) -> Credential | None:
    return parse(json.dumps({"auths": auths}), "file").entry(host, repository)


@given(HOSTS, REPOSITORIES, NAMES, PASSWORDS)
def test_what_login_writes_is_found(host: str, repository: str, user: str, password: str) -> None:
    for key in (host, f"https://{host}", f"https://{host}/v1/", f"{host}/v2/", *keys(host, repository)):
        found = entry({key: packed(user, password)}, host, repository)
        assert found
        assert (found.user, found.secret, found.identity) == (user, password, False)
        assert base64.b64decode(found.basic.removeprefix("Basic ")).decode() == f"{user}:{password}"


@given(REPOSITORIES, st.data())
def test_the_longest_key_that_fits_counts(repository: str, data: st.DataObject) -> None:
    names = keys("ghcr.io", repository)
    written = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    found = entry({key: packed("u", key) for key in written}, "ghcr.io", repository)
    assert found
    assert found.secret == max(written, key=len)


@given(HOSTS, HOSTS, REPOSITORIES, REPOSITORIES)
def test_nobody_elses_is(host: str, other: str, repository: str, different: str) -> None:
    assume(host != other)
    assert entry({other: packed("u", "p"), f"{other}/{repository}": packed("u", "p")}, host, repository) is None
    assume(not repository.startswith(different))
    assert entry({f"{host}/{different}": packed("u", "p")}, host, repository) is None


@pytest.mark.parametrize(
    "key", [HUB_KEY, "index.docker.io", "https://index.docker.io/v1", "registry-1.docker.io", "docker.io"]
)
def test_names_of_docker_hub(key: str) -> None:
    assert normalized(key) == "docker.io"
    assert entry({key: packed("u", "p")}, "docker.io", "library/ubuntu")


def test_a_part_of_a_name_is_not_the_name() -> None:
    assert entry({"ghcr.io/a": packed("u", "p")}, "ghcr.io", "ab/c") is None
    assert entry({"ghcr.io.evil": packed("u", "p"), "io": packed("u", "p")}, "ghcr.io", "a") is None


def test_forms_of_entries() -> None:
    plain = entry({"h.x": {"username": "u", "password": "p"}}, "h.x", "a")
    assert plain
    assert (plain.user, plain.secret) == ("u", "p")
    token = entry({"h.x": {"auth": packed("u", "")["auth"], "identitytoken": "T"}}, "h.x", "a")
    assert token
    assert (token.user, token.secret, token.identity) == ("u", "T", True)
    assert entry({"h.x": {}}, "h.x", "a") is None, "which docker writes when a helper has it"


def test_helpers() -> None:
    file = parse(json.dumps({"credHelpers": {HUB_KEY: "hub", "h.x": "own", "bad": 5}, "credsStore": "all"}), "file")
    assert [file.helper(host) for host in ("docker.io", "h.x", "other", "bad")] == ["hub", "own", "all", ""]
    assert parse("{}", "file").helper("h.x") == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["auths", "auth", "h.x", "identitytoken", "credHelpers", "username"]), inner)
    ),
    max_leaves=10,
)


@given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_an_expected_error_or_nothing(data: bytes) -> None:
    with suppress(ConfigError):
        file = parse(data, "file")
        file.entry("h.x", "a/b")
        file.helper("h.x")
