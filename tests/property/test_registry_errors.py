"""What registries say when they say no: printed with bounds; and no secret is ever in an error or a repr."""

from __future__ import annotations

import base64
import json
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.errors import AccessDenied, ConfigError, NotFound, OriginUnavailable, StageImageError
from stager.sources.registry import auth_files, tokens
from stager.sources.registry.auth_files import AuthFile, Credential
from stager.sources.registry.challenges import Challenge
from stager.sources.registry.gate import Gate
from stager.sources.registry.refusals import Asker, complaints, printable, refused
from stager.sources.registry.settings import RegistrySettings
from stager.sources.registry.tokens import Token

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = Asker("host:5000", "a/b:1")
ADA = Asker("host:5000", "a/b:1", "ada", "~/.docker/config.json")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["errors", "code", "message", "x"]), inner)
    ),
    max_leaves=8,
)


def body(code: str, message: str = "words") -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_bodies_are_harmless(data: bytes) -> None:
    for complaint in complaints(data):
        assert complaint.code.isascii()
        assert (complaint.code + complaint.message).isprintable()
        assert len(complaint.message) <= 200


@given(st.text(max_size=400), st.text(max_size=2000))
def test_words_are_shown_on_one_line(code: str, message: str) -> None:
    error = refused(NOBODY, 500, {}, body(code, message), now=0)
    assert error.message.isascii()
    assert error.message.isprintable()
    assert len(error.message) < 500
    assert printable(message).isprintable()


@given(st.integers(400, 599), st.sampled_from(["", "DENIED", "UNAUTHORIZED", "NAME_UNKNOWN", "TOOMANYREQUESTS", "X"]))
def test_every_status_has_an_error(status: int, code: str) -> None:
    for asker in (NOBODY, ADA):
        error = refused(asker, status, {}, body(code) if code else b"", now=0)
        assert isinstance(error, NotFound | AccessDenied | OriginUnavailable)
        assert str(status) in error.message
        assert error.retryable == (
            type(error) is OriginUnavailable
            and (status >= 500 or status in (408, 425, 429) or code == "TOOMANYREQUESTS")
        )


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "MANIFEST_UNKNOWN", NotFound),
        (404, "", NotFound),
        (400, "NAME_UNKNOWN", NotFound),
        (401, "UNAUTHORIZED", AccessDenied),
        (403, "", AccessDenied),
        (404, "DENIED", AccessDenied),
        (500, "UNKNOWN", OriginUnavailable),
        (429, "", OriginUnavailable),
        (403, "TOOMANYREQUESTS", OriginUnavailable),
    ],
)
def test_kinds(status: int, code: str, kind: type[StageImageError]) -> None:
    assert type(refused(NOBODY, status, {}, body(code), now=0)) is kind


def test_rate_limits_say_whose_and_what_to_do() -> None:
    headers = {"Retry-After": "17", "RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"}
    error = refused(NOBODY, 429, headers, body("TOOMANYREQUESTS", "slow down"), now=0)
    assert error.message == (
        "host:5000 limits the rate of pulls by anonymous users (100 allowed in 21600 s, 0 left in 21600 s): "
        "429 Too Many Requests (TOOMANYREQUESTS: slow down)"
    )
    assert (error.retryable, error.retry_after) == (True, 17)
    assert "docker login host:5000" in error.hint
    assert "mirror" in error.hint
    known = refused(ADA, 503, {"Retry-After": "1"}, b"", now=0)
    assert "by ada (~/.docker/config.json)" in known.message
    assert "login" not in known.hint
    assert refused(ADA, 503, {}, b"", now=0).message.startswith("host:5000 failed to send a/b:1")


def test_docker_hub_is_logged_in_to_by_its_own_name() -> None:
    assert "`docker login docker.io`" in refused(Asker("registry-1.docker.io", "x"), 404, {}, b"", now=0).hint
    assert (
        "`docker login docker.io`"
        in refused(Asker("auth.docker.io", "x", account="registry-1.docker.io"), 401, {}, b"", now=0).hint
    )


SECRETS = st.text(st.characters(codec="utf-8"), min_size=8, max_size=40).map(lambda text: f"S3CRET{text}")


@given(SECRETS, st.text(max_size=10))
def test_no_repr_holds_a_secret(secret: str, user: str) -> None:
    credential = Credential(user, secret, "somewhere")
    gate = Gate(lambda: credential, lambda *_: Token(secret, 1e9))
    gate.open("Basic", "")
    settings = RegistrySettings(environ={"APPTAINER_DOCKER_PASSWORD": secret})
    packed = base64.b64encode(secret.encode()).decode()
    file = auth_files.parse(json.dumps({"auths": {"h": {"auth": packed}}}), "somewhere")
    for thing in (credential, Token(secret, 1), gate, settings, file):
        assert "S3CRET" not in f"{thing!r} {thing}"
        assert packed not in f"{thing!r}"


@contextmanager
def watched(word: str) -> Iterator[None]:
    """Fail if a word is in an error, or in the one that it was made of."""
    try:
        yield
    except StageImageError as error:
        if word in "".join(traceback.format_exception(error, limit=0)) + error.hint:
            pytest.fail(f"{word} is shown")
        raise


@given(SECRETS, st.sampled_from(['{"auths": {"h": {"auth": "%s"}}}', '{"auths": "%s', "%s", '["%s"]']))
def test_no_error_about_a_file_holds_what_is_in_it(secret: str, form: str) -> None:
    file = AuthFile({}, "")
    with suppress(ConfigError), watched("S3CRET"):
        file = auth_files.parse(form % secret, "the file")
    with suppress(ConfigError), watched("S3CRET"):
        file.entry("h", "a/b")


@given(
    st.text(max_size=60) | st.sampled_from(["http://h/t", "ftp://h/t", "https://u:p@h/", "https://", "https://h:x/"])
)
def test_realms_that_get_no_password(realm: str) -> None:
    credential = Credential("ada", "S3CRET", "somewhere")
    with pytest.raises(OriginUnavailable) as caught:
        tokens.Wanted("host", "a/b").fetch(Challenge("bearer", {"realm": realm}), credential, RegistrySettings())
    assert "S3CRET" not in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.message.isprintable()
