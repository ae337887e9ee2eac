from __future__ import annotations

import hashlib

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


HUB = "docker://docker.io/library"
IMAGES = [
    *(("docker://ubuntu", f"{HUB}/ubuntu:latest"), ("DOCKER://ubuntu:22.04", f"{HUB}/ubuntu:22.04")),
    *(
        ("docker://a/b", "docker://docker.io/a/b:latest"),
        ("docker://index.docker.io/a/b:1", "docker://docker.io/a/b:1"),
    ),
    *(
        ("docker://Host:5000/a/b/c", "docker://host:5000/a/b/c:latest"),
        ("docker://joe@h.x/a", "docker://joe@h.x/a:latest"),
    ),
    (f"docker://h.x/a:1@SHA256:{HEX.upper()}", f"docker://h.x/a:1@sha256:{HEX}"),
    *((f"docker://a@sha256:{HEX}", f"{HUB}/a@sha256:{HEX}"), ("oras://h.x/a/tool.sif", "oras://h.x/a/tool.sif:latest")),
    *(("library://lolcow", "library://library/default/lolcow:latest"), ("library://a/b:1", "library://a/b:1")),
    *(("library://E/C/X_y:2.0-a", "library://E/C/X_y:2.0-a"), ("library:///e/c/x", "library://e/c/x:latest")),
    *(("library://Host.x:8080/e/c/x", "library://host.x:8080/e/c/x:latest"), ("oci:dir", "oci:/work/dir")),
    *(("library://H.x/x", "library://h.x/x:latest"), ("library://E/c/d/x:1", "library://e/c/d/x:1")),
    *(("OCI:dir:tag", "oci:/work/dir:tag"), ("oci:/a/b:c:tag", "oci:/a/b:c:tag"), ("oci:/a/b:c:", "oci:/a/b:c:")),
    *(
        ("oci:/a//b/", "oci:/a/b"),
        ("oci:/a/b/:tag", "oci:/a/b:tag"),
        ("oci:/a:b/c", "oci:/a:b/c"),
        ("oci:.", "oci:/work"),
    ),
    *(("oci-archive:x.tar:t", "oci-archive:/work/x.tar:t"), ("oci:a://b", "oci:/work/a:/b"), ("oci:/a:", "oci:/a")),
    *(("docker-archive:x.tar", "docker-archive:/work/x.tar"), ("docker-archive:/x.tar:", "docker-archive:/x.tar")),
    ("docker-archive:/x.tar:a/b:1", "docker-archive:/x.tar:a/b:1"),
]


@pytest.mark.parametrize(("text", "location"), IMAGES)
def test_container_images(text: str, location: str) -> None:
    reference = parse(text, "/work")
    assert (reference.location, reference.digest) == (location, None)
    assert reference.scheme == location.partition(":")[0]
    assert parse(str(reference)) == reference


def test_only_a_library_pins_a_file() -> None:
    assert parse(f"library://e/c/x:1@sha256:{HEX}").digest == Digest(HEX)
    by_hash = parse(f"library://e/c/x:sha256.{HEX}")
    assert by_hash.digest == Digest(HEX), "that tag is the file's own hash"
    assert parse(str(by_hash)) == by_hash
    assert parse(f"docker://x@sha256:{HEX}").digest is None


@pytest.mark.parametrize(
    ("text", "path", "name"),
    [
        *(
            ("oci:/a/b:c", "/a/b", "c"),
            ("oci:/a/b:c:", "/a/b:c", ""),
            ("oci:/a:b/c", "/a:b/c", ""),
            ("/a:b", "/a:b", ""),
        ),
        *(("docker-archive:/a.tar:x/y:1", "/a.tar", "x/y:1"), ("oci-archive:/a.tar", "/a.tar", "")),
        *(("docker://x", "", ""), ("https://h/x", "", "")),
    ],
)
def test_where_in_the_file_system(text: str, path: str, name: str) -> None:
    assert (parse(text).path, parse(text).inner_name) == (path, name)


NO_IMAGES = {
    "no slashes": ("docker:busybox", "docker://name"),
    "a closed hub": ("shub://a/b", "registry"),
    "a closed hub without slashes": ("shub:a/b", "registry"),
    "slashes": ("oci://host/x", "docker://host"),
    "no path": ("oci:", "oci:/path"),
    "no path but a name": ("docker-archive::x", "docker-archive:/path"),
    "no name": ("docker://", "docker://host"),
    "capitals": ("docker://host.x/Tool", "lower-case"),
    "a short digest": ("oras://h.x/a@sha256:abc", "64 hex"),
    "an archive's digest": (f"oci-archive:/x.tar@sha256:{HEX}", "tag"),
    "a layout's digest": (f"oci:/x:t@SHA256:{HEX}", "tag"),
    "too deep a library": ("library://h.x/a/b/c/d", "library://entity"),
    "a library's odd name": ("library://a/../b", "library://entity"),
    "a library's odd host": ("library://h*/a/b/c", "library://entity"),
    "a library's odd tag": ("library://a/b/c:d,e", "library://entity"),
    "another scheme": ("ftp://h/x", "oci-archive"),
}


@pytest.mark.parametrize(("text", "hint"), NO_IMAGES.values(), ids=NO_IMAGES)
def test_no_container_images(text: str, hint: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse(text, "/work")
    assert caught.value.message.isprintable()
    assert hint in caught.value.hint


def test_a_docker_archive_cannot_lie_below_a_colon() -> None:
    with pytest.raises(InvalidReference, match="has a colon"):
        parse("docker-archive:x.tar", "/a:b")
    assert parse("oci:x", "/a:b").path == "/a:b/x"


@pytest.mark.parametrize("scheme", ["docker", "oras", "library"])
@pytest.mark.parametrize(
    "shape", ["{}://joe:hunter2@host.x/a/b", "{}:joe:hunter2@host.x/a", "{}://joe:hunter2@a/b/c/d/e"]
)
def test_passwords_of_registries_are_refused_and_not_repeated(scheme: str, shape: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        parse(shape.format(scheme))
    assert "hunter2" not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize(
    ("text", "shown", "name"),
    [
        ("docker://ubuntu:22.04", f"{HUB}/ubuntu:22.04", "ubuntu:22.04"),
        ("docker://token@h.x/a/b", "docker://h.x/a/b:latest", "b:latest"),
        (f"oras://h.x/a@sha256:{HEX}", f"oras://h.x/a@sha256:{HEX}", "a"),
        (f"docker://joe@h.x/a:1@sha256:{HEX}", f"docker://h.x/a:1@sha256:{HEX}", "a:1"),
        (f"library://a/b/c:1@sha256:{HEX}", f"library://a/b/c:1@sha256:{HEX}", "c:1"),
        ("oci:/a/b?c:d", "oci:/a/b?c:d", "b?c:d"),
        ("docker-archive:/a.tar:x/y:1", "docker-archive:/a.tar:x/y:1", "y:1"),
        ("/a?b", "/a?b", "a?b"),
    ],
)
def test_what_people_see(text: str, shown: str, name: str) -> None:
    assert (parse(text).shown, parse(text).name) == (shown, name)


@pytest.mark.parametrize(
    ("text", "immutable"),
    [
        *((f"docker://a@sha256:{HEX}", True), (f"oras://h.x/a:1@sha256:{HEX}", True), ("docker://a:1", False)),
        *((f"library://a/b/c:sha256.{HEX}", True), ("library://a/b/c:sha256.1", False), ("oci:/a:b", False)),
        *((f"/a:sha256.{HEX}", False), (f"https://h/x@sha256:{HEX}", False)),
    ],
)
def test_what_always_means_the_same(text: str, *, immutable: bool) -> None:
    assert parse(text).is_immutable is immutable


def test_variants() -> None:
    plain = parse("docker://ubuntu")
    one, other = plain.with_variant("linux/amd64"), plain.with_variant("linux/arm64")
    assert str(one) == str(other) == str(plain)
    assert len({plain.key, one.key, other.key}) == len({plain, one, other}) == 3
    assert one.with_variant("") == plain
    assert one.with_variant("").key == plain.key
    pinned = parse("/a").with_variant("x").with_digest(Digest(HEX))
    assert (pinned.variant, str(pinned)) == ("x", f"/a@sha256:{HEX}")


def test_keys_of_todays_stores_stay() -> None:
    """They name the records of references: another key for the same reference would forget what is known of it."""
    for text in ("https://h/x.sif", f"/a/b@sha256:{HEX}"):
        assert parse(text).key == hashlib.sha256(text.encode()).hexdigest()


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
