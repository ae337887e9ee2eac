"""Names of images: what is filled in, what is refused, and that credentials are never repeated."""

from __future__ import annotations

import pytest

from stager.errors import InvalidReference
from stager.image_names import HUB_SERVER, ImageName, parse

HEX = "ab" * 32
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ubuntu", ImageName("docker.io", "library/ubuntu", "latest")),
        ("ubuntu:22.04", ImageName("docker.io", "library/ubuntu", "22.04")),
        ("user/tool", ImageName("docker.io", "user/tool", "latest")),
        ("docker.io/ubuntu", ImageName("docker.io", "library/ubuntu", "latest")),
        ("index.docker.io/ubuntu", ImageName("docker.io", "library/ubuntu", "latest")),
        ("registry-1.docker.io/a/b", ImageName("docker.io", "a/b", "latest")),
        ("localhost/x", ImageName("localhost", "x", "latest")),
        ("host:5000/x", ImageName("host:5000", "x", "latest")),
        ("HOST:5000/x:T", ImageName("host:5000", "x", "T")),
        ("[::1]:5000/x", ImageName("[::1]:5000", "x", "latest")),
        ("[::1]/x", ImageName("[::1]", "x", "latest")),
        ("ghcr.io/a/b/c/d:1", ImageName("ghcr.io", "a/b/c/d", "1")),
        (f"ubuntu@{DIGEST}", ImageName("docker.io", "library/ubuntu", "", DIGEST)),
        (f"ubuntu:1@{DIGEST}", ImageName("docker.io", "library/ubuntu", "1", DIGEST)),
        (f"ubuntu@{DIGEST.upper()}", ImageName("docker.io", "library/ubuntu", "", DIGEST)),
        ("me@host.example/x:1", ImageName("host.example", "x", "1", "", "me")),
        ("joe@tool:1", ImageName("docker.io", "library/tool", "1", "", "joe")),
        (f"$oauthtoken@nvcr.io/x@{DIGEST}", ImageName("nvcr.io", "x", "", DIGEST, "$oauthtoken")),
        ("a.b/c__d-e.f--g:_x", ImageName("a.b", "c__d-e.f--g", "_x")),
    ],
)
def test_names(text: str, name: ImageName) -> None:
    assert parse(text) == name
    assert parse(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", ":", "@", "UPPER", "a//b", "a/", "/a", "a:", "a::b", "a:b:c", "a b", "a\n", "ä", "a:-x", "a:ä"),
        *("a___b", "-a", "a-", "a..b", "h:/x", "h:0/x", "h:65536/x", "h:x/y", ".h/x", "h./x", "[::1/x", "[g]/x"),
        *(f"a@sha256:{HEX}0", f"a@sha256:{HEX[1:]}", "a@sha512:" + HEX * 2, "a@sha256:", "@host/x", "a:" + "t" * 129),
        *("a" * 250, "docker.io/" + "a/" * 200 + "a"),
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse(text)


@pytest.mark.parametrize(
    "text", ["me:s3cret@host/x", "me:s3cret@host:5000/x:1", f"me:s3cret@host/x@{DIGEST}", "s3cret/@host/x"]
)
def test_passwords_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse(text)
    assert "s3cret" not in caught.value.message + caught.value.hint


def test_who_is_asked_for_what() -> None:
    assert (parse("ubuntu").server, parse("ubuntu").target) == (HUB_SERVER, "latest")
    assert (parse(f"h:1/x:t@{DIGEST}").server, parse(f"h:1/x:t@{DIGEST}").target) == ("h:1", DIGEST)


def test_a_hint_for_capitals() -> None:
    with pytest.raises(InvalidReference) as caught:
        parse("host.example/Tool")
    assert "lower-case" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("alice:s3cret@host.example/a", "before its @", "leave the password out"),
        ("http://host.example/a", "http:// in it", "plain_http"),
        ("HTTPS://host.example/a", "https:// in it", "leave it out"),
    ],
)
def test_names_that_are_urls_are_told_what_to_leave_out(text: str, said: str, hint: str) -> None:
    with pytest.raises(InvalidReference, match=said) as caught:
        parse(text)
    assert hint in caught.value.hint
