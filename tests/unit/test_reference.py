from __future__ import annotations

import pytest

from stager.errors import InvalidReference
from stager.reference import MAX_LENGTH, Digest, Reference, parse

HEX = "0123456789abcdef" * 4

URLS = [
    *(("https://h/x.sif", "https://h/x.sif"), ("HTTPS://Host.Example/X.sif", "https://host.example/X.sif")),
    *(("https://h", "https://h/"), ("https://h?a=b", "https://h/?a=b"), ("http://h/#top", "http://h/")),
    *(("http://h:80/x", "http://h/x"), ("https://h:443/x", "https://h/x"), ("https://h:80/x", "https://h:80/x")),
    *(("https://h:/x", "https://h/x"), ("https://h:08443/x", "https://h:8443/x")),
    *(("http://[::1]/x", "http://[::1]/x"), ("http://[FE80::1]:8080/x", "http://[fe80::1]:8080/x")),
    *(("https://h/a//b/../c", "https://h/a//b/../c"), ("https://h/%41?x=%20&y", "https://h/%41?x=%20&y")),
    *(("https://h/a@b", "https://h/a@b"), ("https://h/x?u=a@b", "https://h/x?u=a@b")),
]


@pytest.mark.parametrize(("text", "location"), URLS)
def test_urls(text: str, location: str) -> None:
    reference = parse(text)
    assert reference.location == location
    assert reference.scheme == location.partition(":")[0]
    assert reference.digest is None


PATHS = [
    *(("/a/b.sif", "/a/b.sif"), ("b.sif", "/work/b.sif"), ("./b.sif", "/work/b.sif"), ("../b.sif", "/work/../b.sif")),
    *(("/a//b/./c/", "/a/b/c"), ("~/b.sif", "/work/~/b.sif"), ("./docker:x", "/work/docker:x"), ("a b", "/work/a b")),
    *(("file:///a/b", "/a/b"), ("file://localhost/a", "/a"), ("FILE:///a%20b", "/a b"), ("file:///a%ff", "/a\udcff")),
    *(
        ("docker", "/work/docker"),
        ("sha256:abc", "/work/sha256:abc"),
        ("a@b", "/work/a@b"),
        ("@sha256", "/work/@sha256"),
    ),
]


@pytest.mark.parametrize(("text", "location"), PATHS)
def test_paths(text: str, location: str) -> None:
    reference = parse(text, "/work")
    assert (reference.scheme, reference.location, reference.digest) == ("file", location, None)


@pytest.mark.parametrize("text", ["https://h/x", "/a/b", "a/b", "file:///a"])
def test_pins(text: str) -> None:
    plain = parse(text)
    pinned = parse(f"{text}@SHA256:{HEX.upper()}")
    assert (pinned.scheme, pinned.location) == (plain.scheme, plain.location)
    assert str(pinned) == f"{plain}@sha256:{HEX}"
    assert pinned != plain
    assert pinned.key != plain.key


BAD = {
    "empty": "",
    "too long": "/" + "a" * MAX_LENGTH,
    "control character": "/a\nb",
    "delete character": "/a\x7fb",
    "pin without image": f"@sha256:{HEX}",
    "short pin": "/a@sha256:abc",
    "pin of no digits": "/a@sha256:" + "g" * 64,
    "other scheme": "ftp://h/x",
    "registry": "docker://busybox",
    "registry without slashes": "docker:busybox",
    "archive": "oci-archive:/x.tar",
    "no scheme": "://h/x",
    "no host": "https:///x",
    "dots for a host": "https://../x",
    "blank in a host": "https://a b/x",
    "blank in a path": "https://h/a b",
    "port of letters": "https://h:x/",
    "port 0": "https://h:0/",
    "port too high": "https://h:65536/",
    "port in Arabic": "https://h:\u0668\u0660/",
    "open bracket": "https://[::1/",
    "brackets without colon": "https://[h]/",
    "percent in a host": "https://h%41/",
    "another host's file": "file://other/x",
    "file without a path": "file://",
    "zero byte": "file:///a%00b",
    "line feed in a file": "file:///a%0Ab",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_not_references(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse(text, "/work")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 250
    assert caught.value.hint


@pytest.mark.parametrize("text", ["https://joe:hunter2@h/x", "https://hunter2@h/x", "http://joe:hunter2@[::1]:80/?a"])
def test_credentials_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidReference, match="carries credentials") as caught:
        parse(text)
    assert "hunter2" not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize(
    ("text", "name"),
    [("https://h/a/x.sif?y=/z", "x.sif"), ("https://h/a/", "a"), ("https://h", "h"), ("/a/b", "b"), ("/", "/")],
)
def test_name(text: str, name: str) -> None:
    assert parse(text).name == name


def test_digest() -> None:
    digest = Digest(f"SHA256:{HEX.upper()}")
    assert (digest.hex, str(digest), repr(digest)) == (HEX, f"sha256:{HEX}", f"Digest('sha256:{HEX}')")
    assert digest == Digest(HEX) != Digest("f" * 64)
    assert len({digest, Digest(HEX)}) == 1
    assert digest != HEX


@pytest.mark.parametrize(
    "text", ["", "sha256:", HEX[1:], HEX + "0", "md5:" + HEX, "sha256:sha256:" + HEX, "\u0660" * 64]
)
def test_not_digests(text: str) -> None:
    with pytest.raises(InvalidReference, match="is not a sha256 digest"):
        Digest(text)


def test_references_compare_by_what_they_print() -> None:
    reference = Reference("file", "/a")
    assert reference == parse("/a") != parse("/b")
    assert len({reference, parse("/a")}) == 1
    assert repr(reference) == "Reference('/a')"
    assert reference != "/a"


@pytest.mark.parametrize(
    "text",
    [
        *("file:///a%09b", "file:///a%0Db", "file:///a%7Fb"),  # printed with a control character, so not read back
        *(f"file:///a%40sha256:{HEX}", f"/a@sha256:{HEX}@sha256:{HEX}"),  # read back as another file, and pinned
        "file:///a%40sha256:x",
        "https://h:0655350/",
    ],
)
def test_what_cannot_be_printed_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse(text)
