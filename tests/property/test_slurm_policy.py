"""What is allowed stays below the prefix for every reader of a URL that we know: clients, proxies, servers, kernels."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st
from requests import Request

from stager.errors import AccessDenied, InvalidReference
from stager.reference import parse
from stager.schedulers import policy
from tests.property.strategies import hostile_text, hosts, ports
from tests.support.effort import effort

PREFIX = "https://host/pub/images"

plain_names = st.text("abcXYZ019._-~", min_size=1, max_size=8).filter(lambda name: set(name) != {"."})
tricks = st.sampled_from(
    [
        *("..", ".", "%2e%2e", ".%2E", "%2e", "%252e%252e", "%25252e%25252e", "%%32%65", "..;", "..;a=b", "%2e%2e%3b"),
        *("/", "//", "%2f", "%252f", "%5c", "%255c", "%00", "%0a", "%c0%ae%c0%ae", "%ef%bc%8e", "%3f", "%23", "?", "#"),
        *("a", "pub", "images", "/..", "/../", "/a/..", ";", "%", "%2", "@", ":", "=", "&", "https://host/pub/images"),
    ]
)
tails = st.lists(tricks | plain_names, max_size=7).map("".join)
asked = tails.map(lambda tail: f"{PREFIX}/{tail}") | tails.map(lambda tail: f"https://host/{tail}/pub/images/x")


def is_allowed(text: str, *prefixes: str) -> bool:
    try:
        policy.check(parse(text), prefixes or (PREFIX,))
    except (AccessDenied, InvalidReference):
        return False
    return True


def readings(path: str) -> set[str]:
    """Return where a path may lead, by servers that unescape it up to three times, and resolve it in ways of theirs."""
    found = set()
    for _ in range(4):
        found |= {resolved(form) for form in (path, path.replace("\\", "/"), re.sub(";[^/]*", "", path))}
        path = unquote(path)
    return found


def resolved(path: str) -> str:
    return posixpath.normpath(re.sub("/+", "/", path))


@given(asked)
@effort(150)
def test_what_is_allowed_stays_below_for_every_server(text: str) -> None:
    if is_allowed(text):
        path = parse(text).location.removeprefix("https://host").split("?", 1)[0]
        assert [one for one in readings(path) if one != "/pub/images" and not one.startswith("/pub/images/")] == []


@given(asked)
@effort(80)
def test_what_is_allowed_is_what_the_client_asks_for(text: str) -> None:
    if is_allowed(text):
        sent = Request("GET", parse(text).location).prepare()
        assert sent.url
        assert sent.url.startswith("https://host/")
        assert resolved(sent.path_url.split("?", 1)[0]).startswith("/pub/images")


@given(st.lists(plain_names, max_size=4), st.sampled_from(["", "?v=1", "@sha256:" + "0" * 64]))
@effort(30)
def test_plain_names_below_are_allowed(names: list[str], more: str) -> None:
    assert is_allowed("/".join([PREFIX, *names]) + more)


@given(st.sampled_from(["http", "https"]), hosts, ports, st.lists(plain_names, max_size=3))
@effort(40)
def test_origins_are_equal_or_strangers(scheme: str, host: str, port: int, names: list[str]) -> None:
    origin = f"{scheme}://{host}:{port}"
    text = "/".join([origin, *names])
    assert is_allowed(text, origin)
    for other in (
        f"{scheme}://{host}:{port % 65535 + 1}",
        f"{scheme}://{host}x.y:{port}",
        f"http{'' if scheme[4:] else 's'}://{host}:{port}",
    ):
        assert not is_allowed(text, other.replace("]x.y", "]"), "/") or "[" in other


@given(hostile_text | asked)
@effort(60)
def test_nothing_is_allowed_to_strangers(text: str) -> None:
    assert not is_allowed(text) or parse(text).location.startswith(PREFIX)
    assert not is_allowed(f"/{text}", "https://host/")


@given(st.lists(st.sampled_from(["apps", "..", ".", "x", "", "%2e%2e"]), max_size=6).map("/".join))
@effort(40)
def test_files_stay_below_by_name(tail: str) -> None:
    for text in (f"/nowhere/apps/{tail}", f"file:///nowhere/apps/{tail}", f"/nowhere/{tail}/apps/x"):
        if is_allowed(text, "/nowhere/apps"):
            assert posixpath.normpath(parse(text).location).startswith("/nowhere/apps")
