"""Laws of names of images in registries."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from stager.errors import InvalidReference
from stager.image_names import LONGEST_REPOSITORY, ImageName, parse

WORD = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
HOSTS = st.sampled_from(["docker.io", "localhost", "localhost:5000", "ghcr.io", "[::1]:5000", "127.0.0.1:443", "h:1"])
NAMES = st.builds(
    ImageName,
    host=HOSTS,
    repository=st.lists(WORD, min_size=2, max_size=4).map("/".join),
    tag=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}", fullmatch=True),
    digest=st.just("") | st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
    user=st.just("") | st.from_regex(r"[A-Za-z0-9._+$|-]{1,8}", fullmatch=True),
)
PIECES = st.sampled_from(
    ["a", "A", "/", ":", "@", ".", "-", "_", "sha256:", "f" * 64, "localhost", "0", "[", "]", "\n", "é"]
)


@given(NAMES)
def test_written_and_read_again(name: ImageName) -> None:
    assert parse(str(name)) == name


@given(NAMES)
def test_the_digest_counts_more_than_the_tag(name: ImageName) -> None:
    assert name.target == (name.digest or name.tag)


@given(st.lists(PIECES, max_size=10).map("".join) | st.text(max_size=20))
@example("a@a:1")
@example("sha256:a@sha256:" + "f" * 64)
def test_whatever_is_read_has_one_form(text: str) -> None:
    try:
        name = parse(text)
    except InvalidReference as error:
        assert error.message.isprintable()  # noqa: PT017
        return
    assert parse(str(name)) == name
    assert str(name).isascii()
    assert name.tag or name.digest
    assert "/../" not in f"/{name.repository}/"
    assert len(name.host) + 1 + len(name.repository) <= LONGEST_REPOSITORY
