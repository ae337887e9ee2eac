"""LibrarySource against a library and its store on loopback; the library itself is tested at the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import requests

from stager.errors import AccessDenied, ConfigError, NotFound, OriginUnavailable
from stager.interfaces import Validators
from stager.oci import Platform
from stager.sources.library import LibrarySource
from stager.sources.library_settings import LibrarySettings, parse
from stager.sources.settings import HttpSettings
from tests.support.library import Image, Library
from tests.support.origin import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stager.interfaces import Stream

BODY = bytes(range(256)) * 400
PATH, TAG = "lab/tools/blast", "2.1"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"


@pytest.fixture
def library() -> Iterator[Library]:
    with Library(TOKEN) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def log_in(home: Path, host: str, token: str = TOKEN, mode: int = 0o600) -> None:
    path = home / ".apptainer" / "remote.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"Active: lab\nRemotes:\n  lab:\n    URI: {host}\n    Token: {token}\n    System: false\n")
    path.chmod(mode)


def source(library: Library, home: Path, location: str = f"{PATH}:{TAG}", arch: str = "amd64") -> LibrarySource:
    http = HttpSettings(connect_timeout=5, stall_timeout=5)
    settings = LibrarySettings(http, library.url, {"HOME": str(home)})
    return LibrarySource(parse(location), Platform("linux", arch), settings)


def read(stream: Stream | None) -> bytes:
    assert stream is not None
    try:
        return b"".join(stream.chunks())
    finally:
        stream.close()


def test_an_image(library: Library, home: Path) -> None:
    image = library.put(PATH, TAG, Image(BODY))
    stream = source(library, home).open()
    assert stream is not None
    assert stream.validators == Validators(image.hash, "", len(BODY))
    assert (stream.offset, stream.size, stream.ranges, stream.private) == (0, len(BODY), True, False)
    assert read(stream) == BODY
    assert [one.path for one in library.asked] == [f"/v1/images/{PATH}:{TAG}", f"/v1/imagefile/{PATH}:{image.hash}"]
    assert all(one.fields == {"arch": "amd64"} for one in library.asked)


@pytest.mark.parametrize(("start", "end"), [(100, None), (0, 10), (100, 200), (len(BODY) - 1, None)])
def test_parts(library: Library, home: Path, start: int, end: int | None) -> None:
    image = library.put(PATH, TAG, Image(BODY))
    stream = source(library, home).open(start, end, if_range=Validators(image.hash, "", len(BODY)))
    assert stream is not None
    assert (stream.offset, stream.size) == (start, len(BODY))
    assert read(stream) == BODY[start:end]


def test_a_part_of_another_version_begins_anew(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY))
    stream = source(library, home).open(100, if_range=Validators("sha256." + "0" * 64, "", len(BODY)))
    assert stream is not None
    assert stream.offset == 0
    assert read(stream) == BODY


def test_all_is_there_already(library: Library, home: Path) -> None:
    image = library.put(PATH, TAG, Image(BODY))
    stream = source(library, home).open(len(BODY), if_range=Validators(image.hash, "", len(BODY)))
    assert stream is not None
    assert (stream.offset, stream.size, read(stream)) == (len(BODY), len(BODY), b"")
    assert library.seen("imagefile") == []


def test_unless_costs_one_question(library: Library, home: Path) -> None:
    image = library.put(PATH, TAG, Image(BODY))
    assert source(library, home).open(unless=Validators(image.hash)) is None
    assert len(library.asked) == 1
    assert read(source(library, home).open(unless=Validators("sha256." + "1" * 64))) == BODY


def test_a_tag_that_moves_in_between_gives_the_image_that_was_named(library: Library, home: Path) -> None:
    image = library.put(PATH, TAG, Image(BODY))
    library.put(PATH, "held", image)
    library.moved = lambda: library.put(PATH, TAG, Image(BODY[::-1]))
    stream = source(library, home).open()
    assert stream is not None
    assert (stream.validators.etag, read(stream)) == (image.hash, BODY)


def test_a_library_that_knows_tags_only_gives_no_ranges(home: Path) -> None:
    with Library(by_hash=False) as library:
        image = library.put(PATH, TAG, Image(BODY))
        stream = source(library, home).open(100, if_range=Validators(image.hash, "", len(BODY)))
        assert stream is not None
        assert (stream.offset, stream.ranges, read(stream)) == (0, False, BODY)


def test_a_library_without_a_store(home: Path) -> None:
    with Library(redirects=False) as library:
        library.put(PATH, TAG, Image(BODY))
        stream = source(library, home).open(100)
        assert stream is not None
        assert (stream.offset, stream.ranges, read(stream)) == (0, False, BODY)


def test_another_size_than_was_said(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY, extra={"size": 5}))
    with pytest.raises(OriginUnavailable, match=rf"says 5 bytes, and sends {len(BODY)}"):
        source(library, home).open()


@pytest.mark.parametrize("size", [0, -1, "many", None, True, 1e300])
def test_no_size_is_no_matter(library: Library, home: Path, size: object) -> None:
    library.put(PATH, TAG, Image(BODY, extra={"size": size}))
    assert read(source(library, home).open()) == BODY


def test_an_old_hash_is_a_version_too(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY, hash="sif.5b2c7b1e-1d26-4e0e-9f5b-0a7f0b3b2f33"))
    stream = source(library, home).open()
    assert stream is not None
    assert (stream.validators.etag[:4], stream.ranges, read(stream)) == ("sif.", False, BODY)


def test_short_names_go_as_they_are(library: Library, home: Path) -> None:
    library.put("library/default/alpine", "latest", Image(BODY))
    assert read(source(library, home, "alpine").open()) == BODY


def test_by_hash(library: Library, home: Path) -> None:
    image = library.put(PATH, TAG, Image(BODY))
    assert read(source(library, home, f"library://{PATH}:{image.hash}").open()) == BODY


def test_a_host_in_the_reference(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY))
    settings = LibrarySettings(HttpSettings(), "https://library.example", {"HOME": str(home)})
    name = parse(f"library://{library.host}/{PATH}:{TAG}")
    there = LibrarySource(name, Platform("linux", "amd64"), settings)
    assert there.name == library.host
    assert read(there.open()) == BODY


def test_the_architecture_counts(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY))
    library.put(PATH, TAG, Image(BODY[::-1], "arm64"))
    assert read(source(library, home, arch="arm64").open()) == BODY[::-1]
    with pytest.raises(NotFound, match=rf"has no library://{PATH}:{TAG} for ppc64le: image not found"):
        source(library, home, arch="ppc64le").open()


def test_a_library_that_does_not_care_for_the_architecture(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY, extra={"arch": "\x1b[2J" * 1000}))
    with pytest.raises(NotFound, match=r"there for (\\x1b\[2J){5,} only") as caught:
        source(library, home).open()
    assert len(caught.value.message) < 300
    library.put(PATH, TAG, Image(BODY, extra={"arch": "s390x"}))
    with pytest.raises(NotFound, match="for s390x only"):
        source(library, home).open()


def test_an_upload_that_broke_off(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY, uploaded=False))
    with pytest.raises(NotFound, match="not been uploaded to the end"):
        source(library, home).open()


def test_too_many_requests(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY))
    library.refusals = [(429, {"Retry-After": "7"})]
    with pytest.raises(OriginUnavailable, match="429 Too Many Requests: not now") as caught:
        source(library, home).open()
    assert (caught.value.retryable, caught.value.retry_after) == (True, 7)
    assert read(source(library, home).open()) == BODY


def test_a_private_image_needs_the_token(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY, private=True))
    with pytest.raises(AccessDenied, match="to anonymous users: authentication required") as caught:
        source(library, home).open()
    assert "apptainer remote login" in caught.value.hint
    log_in(home, library.host)
    stream = source(library, home).open()
    assert stream is not None
    assert stream.private
    assert read(stream) == BODY
    # The store refuses everybody who has an Authorization header.
    assert [request.status for request in library.store.requests] == [200]


def test_a_public_image_is_not_private_for_having_a_token(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY))
    log_in(home, library.host)
    stream = source(library, home).open()
    assert stream is not None
    assert not stream.private
    read(stream)
    assert all("Authorization" not in one.headers for one in library.asked)


def test_a_wrong_token(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY, private=True))
    log_in(home, library.host, "old")
    with pytest.raises(AccessDenied, match=r"to the token of remote\.yaml: the token is not valid") as caught:
        source(library, home).open()
    assert "old" not in caught.value.message.split()


@pytest.mark.parametrize("host", ["library.example", "127.0.0.1", "127.0.0.1:1"])
def test_the_token_of_another_host_stays_here(library: Library, home: Path, host: str) -> None:
    library.put(PATH, TAG, Image(BODY, private=True))
    log_in(home, host)
    with pytest.raises(AccessDenied, match="anonymous"):
        source(library, home).open()
    assert all("Authorization" not in one.headers for one in library.asked)


def test_a_token_that_others_can_read(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY, private=True))
    log_in(home, library.host, mode=0o640)
    with pytest.raises(ConfigError, match=r"remote\.yaml holds a token"):
        source(library, home).open()


def test_the_token_of_web_servers_is_not_for_libraries(library: Library, home: Path) -> None:
    (home / "token").write_text("secret")
    (home / "token").chmod(0o600)
    library.put(PATH, TAG, Image(BODY))
    settings = LibrarySettings(HttpSettings(token_file=str(home / "token")), library.url, {"HOME": str(home)})
    read(LibrarySource(parse(f"{PATH}:{TAG}"), Platform("linux", "amd64"), settings).open())
    assert all("Authorization" not in one.headers for one in library.asked)


def test_the_store_refuses(library: Library, home: Path) -> None:
    library.put(PATH, TAG, Image(BODY))
    library.faults = (Fault(status=403),)
    with pytest.raises(AccessDenied, match="/bucket/") as caught:
        source(library, home).open()
    assert "signature" not in caught.value.message


def test_a_broken_transfer_is_taken_up_again(library: Library, home: Path) -> None:
    image = library.put(PATH, TAG, Image(BODY))
    library.faults = (Fault(truncate_at=1000),)
    stream = source(library, home).open()
    assert stream is not None
    got: list[bytes] = []
    with pytest.raises(OriginUnavailable):
        got.extend(stream.chunks())
    stream.close()
    library.faults = ()
    rest = source(library, home).open(1000, if_range=Validators(image.hash, "", len(BODY)))
    assert rest is not None
    assert rest.offset == 1000
    assert b"".join(got) + read(rest) == BODY


@pytest.mark.parametrize("hash_", ["", "x" * 300, "a b", "sha256.\n"])
def test_what_is_no_library(library: Library, home: Path, hash_: str) -> None:
    library.put(PATH, TAG, Image(BODY, extra={"hash": hash_}))
    with pytest.raises(OriginUnavailable, match="does not answer like a library") as caught:
        source(library, home).open()
    assert not caught.value.retryable


def get(url: str, **headers: str) -> requests.Response:
    return requests.get(url, headers=headers, timeout=5, allow_redirects=False)


def test_the_library_of_the_tests(library: Library) -> None:
    image = library.put(PATH, TAG, Image(BODY, private=True))
    url = f"{library.url}/v1/images/{PATH}:{TAG}?arch=amd64"
    assert (get(url).status_code, get(url).json()["error"]["code"]) == (401, 401)
    assert get(url, Authorization="Bearer x").status_code == 401
    answer = get(url, Authorization=f"Bearer {TOKEN}")
    assert json.loads(answer.content)["data"]["hash"] == image.hash
    assert get(f"{library.url}/v1/images/{PATH}:other").status_code == 404
    assert get(f"{library.url}/v2/images/{PATH}:{TAG}").status_code == 404
    redirect = get(url.replace("/images/", "/imagefile/"), Authorization=f"Bearer {TOKEN}")
    assert redirect.status_code == 303
    place = redirect.headers["Location"]
    assert urlsplit(place).port != urlsplit(library.url).port
    assert get(place).content == BODY
    assert get(place, Range="bytes=5-9").content == BODY[5:10]
    assert get(place, Authorization=f"Bearer {TOKEN}").status_code == 400
