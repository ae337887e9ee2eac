from __future__ import annotations

import pytest

from stager.interfaces import Validators
from stager.sources import headers as said
from stager.sources.headers import Part

NOW = 1_700_000_000.0
NOW_TEXT = "Tue, 14 Nov 2023 22:13:20 GMT"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("bytes 0-0/1", Part(0, 1, 1)),
        ("bytes 5-9/10", Part(5, 10, 10)),
        ("Bytes  5-9/*", Part(5, 10, None)),
        ("bytes 5-10/10", None),
        ("bytes 9-5/10", None),
        ("bytes */10", None),
        ("bytes -5/10", None),
        ("bytes 5-/10", None),
        ("items 5-9/10", None),
        ("bytes \u0665-\u0669/10", None),
        (f"bytes 0-{10**18}/{10**19}", None),
        ("", None),
    ],
)
def test_content_range(text: str, part: Part | None) -> None:
    assert said.content_range(text) == part


@pytest.mark.parametrize(
    ("text", "size"), [("bytes */10", 10), ("bytes */0", 0), ("bytes */*", None), ("bytes 0-1/2", None), ("", None)]
)
def test_size_of_what_has_no_such_range(text: str, size: int | None) -> None:
    assert said.unsatisfied_size(text) == size


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), (" 12 ", 12), ("-1", None), ("1_0", None), ("5, 5", None), ("9" * 19, None), ("²", None)],
)
def test_numbers(text: str, count: int | None) -> None:
    assert said.number(text) == count


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("9" * 400, said.LONGEST_WAIT),
        ("-7", None),
        ("7.5", None),
        ("soon", None),
        ("", None),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
        ("Tue, 14 Nov 2023 22:12:20 GMT", 0),
        ("Fri, 14 Nov 9999 22:13:20 GMT", said.LONGEST_WAIT),
        ("Tue, 31 Feb 2023 22:13:20 GMT", None),
        ("Tue, 14 Nov 2023 22:13:20 +0100", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert said.retry_after({"Retry-After": value}, NOW) == seconds


def test_retry_after_a_date_counts_by_the_clock_of_the_origin() -> None:
    headers = {"Retry-After": "Tue, 14 Nov 2023 22:13:30 GMT", "Date": NOW_TEXT}
    assert said.retry_after(headers, NOW - 100_000) == 10


def test_retry_after_is_not_said() -> None:
    assert said.retry_after({}, NOW) is None


@pytest.mark.parametrize("etag", ['"abc"', 'W/"abc"', '""', '"a,b;c"'])
def test_entity_tags_are_kept_as_sent(etag: str) -> None:
    assert said.validators({"ETag": etag}, 5) == Validators(etag, "", 5)


@pytest.mark.parametrize(
    "etag", ["abc", "'abc'", '"a"b"', 'w/"a"', '"a", "b"', '"a\r\n b"', '"ä"', f'"{"a" * 2000}"', '"a']
)
def test_odd_entity_tags_are_none(etag: str) -> None:
    assert said.validators({"ETag": etag}, None) == Validators()


@pytest.mark.parametrize("modified", ["yesterday", f"{NOW_TEXT} at mirror", "Tue Nov 14 22:13:20 2023"])
def test_odd_dates_are_none(modified: str) -> None:
    assert said.validators({"Last-Modified": modified}, None) == Validators()


@pytest.mark.parametrize(
    ("version", "date", "one"),
    [
        (Validators('"a"'), "", True),
        (Validators('W/"a"', NOW_TEXT), "Tue, 14 Nov 2024 22:13:20 GMT", False),
        (Validators("", NOW_TEXT), "Tue, 14 Nov 2023 22:14:20 GMT", True),
        (Validators("", NOW_TEXT), "Tue, 14 Nov 2023 22:13:21 GMT", False),
        (Validators("", NOW_TEXT), "", False),
        (Validators(), NOW_TEXT, False),
    ],
)
def test_what_names_one_version(version: Validators, date: str, *, one: bool) -> None:
    assert said.names_one_version({"Date": date}, version) is one
