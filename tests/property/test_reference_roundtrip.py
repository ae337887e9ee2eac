from __future__ import annotations

import posixpath
from hashlib import sha256

from hypothesis import assume, given
from hypothesis import strategies as st

from stager.errors import InvalidReference
from stager.reference import Digest, parse
from tests.property.strategies import (
    absolute_paths,
    digests,
    file_texts,
    file_urls,
    hex_digests,
    host_names,
    hostile_text,
    image_texts,
    on_disk_texts,
    parts,
    pins,
    ports,
    reference_texts,
    registry_texts,
    relative_paths,
    url_tails,
    urls,
)
from tests.support.effort import effort

prefixes = st.sampled_from(
    [
        "",
        "https://",
        "http://h",
        "docker://",
        "oras://h.x/",
        "library://",
        "oci:",
        "docker-archive:/",
        "file://",
        "/",
        "file:///%",
        "http://[",
        "@sha256:",
        "/x@sha256:",
    ]
)
anything = st.builds(str.__add__, prefixes, hostile_text) | reference_texts


@given(reference_texts)
@effort(25)
def test_what_is_printed_means_the_same(text: str) -> None:
    reference = parse(text)
    assert parts(parse(str(reference))) == parts(reference)


@given(anything, absolute_paths)
@effort(25)
def test_whatever_is_accepted_can_be_printed_and_read_back(text: str, cwd: str) -> None:
    try:
        reference = parse(text, cwd)
    except InvalidReference as error:
        assert error.message.isprintable()  # noqa: PT017 - raising is one of two right answers
    else:
        assert parts(parse(str(reference))) == parts(reference)


@given(reference_texts)
@effort(25)
def test_keys_are_file_names(text: str) -> None:
    assert len(parse(text).key) == 64
    assert set(parse(text).key) <= set("0123456789abcdef")


@given(reference_texts, reference_texts)
@effort(25)
def test_keys_are_equal_exactly_if_references_are(one: str, two: str) -> None:
    assert (parse(one).key == parse(two).key) == (parse(one) == parse(two))
    assert parse(one).key == parse(str(parse(one))).key


@given(reference_texts, st.text("linux/amd64 zstd\n", max_size=20), st.text("linux/amd64 zstd\n", max_size=20))
@effort(25)
def test_each_variant_has_a_key_of_its_own(text: str, one: str, other: str) -> None:
    reference = parse(text)
    varied = reference.with_variant(one)
    assert (str(varied), varied.digest, varied.name) == (str(reference), reference.digest, reference.name)
    assert (
        (varied.key == reference.with_variant(other).key) == (one == other) == (varied == reference.with_variant(other))
    )
    assert (varied.key == reference.key) == (one == "")


@given(file_texts)
@effort(25)
def test_keys_of_old_stores_stay(text: str) -> None:
    printed = str(parse(text)).encode("utf-8", "surrogateescape")
    assert parse(text).key == sha256(printed).hexdigest()


@given(image_texts, absolute_paths)
@effort(50)
def test_images_do_not_depend_on_the_working_directory(text: str, cwd: str) -> None:
    assert parts(parse(text, cwd)) == parts(parse(text))


@given(on_disk_texts)
@effort(25)
def test_a_path_and_a_name_make_the_location(text: str) -> None:
    reference = parse(text)
    assert reference.path.startswith("/")
    shortest = f"{reference.scheme}:{reference.path}:{reference.inner_name}"
    assert parse(shortest) == reference


@given(registry_texts)
@effort(25)
def test_a_user_is_not_shown(text: str) -> None:
    assert "joe@" not in parse(text).shown
    assert ("joe@" in str(parse(text))) == ("joe@" in text)
    assert parse(text).is_immutable == ("@sha256:" in text)


@given(urls(), pins)
@effort(25)
def test_scheme_and_host_have_no_case(url: str, pin: str) -> None:
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    assume("?" not in authority)
    for shout in (str.upper, str.lower):
        assert parse(f"{shout(scheme)}://{shout(authority)}{slash}{path}{pin}") == parse(url + pin)


@given(host_names, url_tails)
@effort(25)
def test_the_default_port_goes_without_saying(host: str, tail: str) -> None:
    assert parse(f"http://{host}:80/{tail}") == parse(f"http://{host}/{tail}")
    assert parse(f"https://{host}:443/{tail}") == parse(f"https://{host}/{tail}")


@given(host_names, ports, url_tails)
@effort(25)
def test_other_ports_stay(host: str, port: int, tail: str) -> None:
    location = parse(f"https://{host}:{port}/{tail}").location
    assert (location == f"https://{host.lower()}:{port}/{tail}") == (port != 443)


@given(relative_paths, absolute_paths)
@effort(25)
def test_a_relative_path_is_taken_from_the_working_directory(path: str, cwd: str) -> None:
    assert parts(parse(f"./{path}", cwd)) == parts(parse(posixpath.join(cwd, path)))


@given(absolute_paths, absolute_paths)
@effort(25)
def test_an_absolute_path_does_not_depend_on_it(path: str, cwd: str) -> None:
    assert parts(parse(path, cwd)) == parts(parse(path))


@given(absolute_paths | file_urls)
@effort(25)
def test_paths_are_absolute_and_without_empty_parts(text: str) -> None:
    location = parse(text).location
    assert location.startswith("/")
    assert not {"", "."} & set(location.split("/")[1:-1])


@given(absolute_paths)
@effort(25)
def test_a_file_url_means_its_path(path: str) -> None:
    from urllib.parse import quote

    assert parts(parse("file://" + quote(path, errors="surrogateescape"))) == parts(parse(path))


@given(urls() | absolute_paths, hex_digests)
@effort(25)
def test_a_pin_is_taken_off_and_put_back(text: str, digits: str) -> None:
    pinned = parse(f"{text}@sha256:{digits}")
    assert pinned.digest == Digest(digits)
    assert str(pinned) == f"{parse(text)}@sha256:{digits}"


@given(digests)
@effort(25)
def test_digests(digest: Digest) -> None:
    assert Digest(str(digest)) == Digest(digest.hex) == Digest(str(digest).upper()) == digest


@given(st.text("0123456789abcdefABCDEF", max_size=70) | hostile_text)
@effort(25)
def test_only_64_digits_make_a_digest(text: str) -> None:
    try:
        assert Digest(text).hex == text.lower().removeprefix("sha256:")
    except InvalidReference:
        assert len(text) != 64 or not set(text) <= set("0123456789abcdefABCDEF")


@given(host_names, st.text("abc019", min_size=12, max_size=12), st.sampled_from(["{}@{}/x", "u:{}@{}/", "{}:p@{}?q"]))
@effort(25)
def test_credentials_are_never_repeated(host: str, secret: str, shape: str) -> None:
    assume(secret not in host)
    try:
        parse("https://" + shape.format(secret, host))
    except InvalidReference as error:
        assert secret not in f"{error.message} {error.hint}"  # noqa: PT017 - raising is tested by the next line
    else:
        raise AssertionError("credentials were accepted")
