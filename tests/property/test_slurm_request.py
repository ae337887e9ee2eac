"""Whatever a user writes, the Prolog gets references that are written there, or one documented error."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from stager.errors import InvalidReference
from stager.reference import parse
from stager.schedulers.request import MAX_IMAGES, MAX_REFERENCE, MAX_TEXT, Request, read
from tests.property.strategies import (
    file_urls,
    hostile_text,
    library_texts,
    long_hostile_text,
    pins,
    registry_texts,
    urls,
)
from tests.support.effort import effort

blanks = st.text(" \t\r\n;", min_size=1, max_size=3)
ON_DISK = ("oci:/", "oci-archive:/", "docker-archive:/")
fine = st.tuples((urls() | file_urls).map(lambda text: text.replace(",", "%2C")), pins).map("".join)
fine |= registry_texts | library_texts
in_a_word = fine.map(lambda text: text.replace(";", "%3B"))
foreign = (hostile_text | st.sampled_from(["project=x", "stage-images=/x", "--stage-image", '{"a":', "="])).filter(
    lambda text: "stage-image=" not in text
)
bits = st.sampled_from(
    [
        *(
            "stage-image=",
            "stage-image",
            "stage-image=https://h/x",
            '"stage-image":',
            '{"stage-image":"',
            '"}',
            "{",
            "}",
        ),
        *(
            "https://",
            "http://h",
            "docker://",
            "oci:/a",
            "oras://h.x/y:1",
            "/apps/x",
            ",",
            ";",
            " ",
            "\n",
            "\0",
            "\\u000a",
            "\\",
            '"',
            "[",
            "]",
            "%0a",
            "%00",
        ),
        *("@", "u:p@h", "@sha256:", "0" * 64, "../", "\u2028", "\x85", "\udcff", "x" * 1025, "x" * 4090, "[" * 1100),
    ]
)
nasty = st.lists(bits | hostile_text, max_size=8).map("".join) | long_hostile_text


def texts_of(comment: str, extra: str, spank: str) -> list[str]:
    """Return what a person would find in what was printed: the texts, and the texts in a JSON object."""
    try:
        members = json.loads(extra)
    except (ValueError, RecursionError):
        members = None
    members = members if isinstance(members, dict) else {}
    values = [text for value in members.values() for text in (value if isinstance(value, list) else [value])]
    return [comment, extra, spank, *(text for text in values if isinstance(text, str))]


@given(nasty, nasty, nasty)
@effort(60)
def test_whatever_is_written(comment: str, extra: str, spank: str) -> None:
    try:
        references = read(comment, extra, spank).references
    except InvalidReference as error:
        assert error.message.isprintable()  # noqa: PT017 - raising is one of two right answers
        assert len(error.message) < 400  # noqa: PT017 - as above
        return
    texts = texts_of(comment, extra, spank)
    for text in references:
        assert any(text in written for written in texts)
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text
        assert 0 < len(text) <= MAX_REFERENCE
        assert text.startswith("/") or "://" in text or text.lower().startswith(ON_DISK)
    assert len({parse(text).key for text in references}) == len(references) <= MAX_IMAGES


@given(foreign, foreign.filter(lambda text: "\\" not in text and "stage-image" not in text))
@effort(60)
def test_others_words_are_never_ours(comment: str, extra: str) -> None:
    assert read(comment, extra, "") == Request()


def unique(texts: list[str]) -> tuple[str, ...]:
    return tuple({parse(text).key: text for text in reversed(texts)}[key] for key in {parse(t).key: 0 for t in texts})


@given(st.lists(st.lists(in_a_word, min_size=1, max_size=2), max_size=3), st.lists(foreign, max_size=3), st.data())
@effort(40)
def test_words_are_found_in_order_wherever_they_stand(
    words: list[list[str]], others: list[str], data: st.DataObject
) -> None:
    placed = [f"stage-image={','.join(one)}" for one in words]
    for other in others:
        placed.insert(data.draw(st.integers(0, len(placed))), other)
    comment = "".join(word + data.draw(blanks) for word in placed)
    assert read(comment, "", "").references == unique([text for one in words for text in one])


@given(st.lists(fine, max_size=4), st.dictionaries(st.text("abc", max_size=3), st.none() | st.text("abc"), max_size=3))
@effort(30)
def test_json_says_the_same(texts: list[str], others: dict[str, object]) -> None:
    for value in (texts, ",".join(texts)):
        if value:
            assert read("", json.dumps(others | {"stage-image": value}), "").references == unique(texts)


@given(st.lists(fine, min_size=1, max_size=4))
@effort(20)
def test_the_plugins_list_says_the_same(texts: list[str]) -> None:
    assert read("", "", ",".join(texts)).references == unique(texts)


@given(in_a_word, st.integers(0, 200), st.sampled_from(["", " ", ";x", "\nstage-image=/later"]))
@effort(40)
def test_where_looking_ends_a_reference_is_there_whole_or_not_at_all(text: str, behind: int, more: str) -> None:
    word = f"stage-image={text}"
    comment = word.rjust(MAX_TEXT + behind) + more
    try:
        found = read(comment, "", "").references
    except InvalidReference:
        found = ()
    assert found in ((), (text,))
    assert found or behind
    assert not found or not behind
