from __future__ import annotations

import pytest
from requests.structures import CaseInsensitiveDict

from stager.errors import OriginUnavailable
from stager.interfaces import Validators
from stager.sources.answers import Asked, Delivery, Outcome, judge

DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
STRONG = Validators('"a"', DATE, 100)
WEAK = Validators('W/"a"', "", 100)
SIZELESS = Validators('"a"', DATE)
DATED = Validators("", DATE, 100)


def answered(asked: Asked, status: int, **headers: str) -> Delivery | Outcome:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return judge(asked, status, CaseInsensitiveDict(named))


def delivered(asked: Asked, status: int, **headers: str) -> Delivery:
    answer = answered(asked, status, **headers)
    assert isinstance(answer, Delivery)
    return answer


@pytest.mark.parametrize(
    ("asked", "headers"),
    [
        (Asked(), {}),
        (Asked(5), {"Range": "bytes=5-"}),
        (Asked(5, 9), {"Range": "bytes=5-8"}),
        (Asked(0, 9), {"Range": "bytes=0-8"}),
        (Asked(5, if_range=STRONG), {"Range": "bytes=5-", "If-Range": '"a"'}),
        (Asked(5, if_range=DATED), {"Range": "bytes=5-", "If-Range": DATE}),
        (Asked(5, if_range=Validators('W/"a"', DATE)), {"Range": "bytes=5-", "If-Range": DATE}),
        (Asked(5, if_range=WEAK), {}),
        (Asked(5, if_range=Validators('"a" at mirror')), {}),
        (Asked(5, if_range=Validators(size=100)), {"Range": "bytes=5-"}),
        (Asked(0, 9, if_range=STRONG), {"Range": "bytes=0-8"}),
        (Asked(100, if_range=STRONG), {"If-None-Match": '"a"'}),
        (Asked(100, if_range=WEAK), {"If-None-Match": 'W/"a"'}),
        (Asked(99, if_range=STRONG), {"Range": "bytes=99-", "If-Range": '"a"'}),
        (Asked(unless=STRONG), {"If-None-Match": '"a"'}),
        (Asked(unless=WEAK), {"If-None-Match": 'W/"a"'}),
        (Asked(unless=DATED), {"If-Modified-Since": DATE}),
        (Asked(unless=Validators('"a" at mirror')), {}),
        (Asked(5, 9, STRONG, DATED).anew(), {"If-Modified-Since": DATE}),
    ],
)
def test_questions(asked: Asked, headers: dict[str, str]) -> None:
    assert asked.headers() == {"Accept-Encoding": "identity", **headers}


def test_whole_image() -> None:
    answer = delivered(Asked(), 200, content_length="100", etag='"a"', last_modified=DATE, accept_ranges="bytes")
    assert answer == Delivery(0, 100, 100, STRONG, ranges=True)


@pytest.mark.parametrize(
    "headers",
    [
        {"etag": '"a"', "content_length": "100"},
        {"etag": '"a"', "content_length": "100", "accept_ranges": "none"},
        {"etag": 'W/"a"', "content_length": "100", "accept_ranges": "bytes"},
        {"content_length": "100", "accept_ranges": "bytes"},
        {"last_modified": DATE, "date": DATE, "content_length": "100", "accept_ranges": "bytes"},
        {"etag": '"a"', "accept_ranges": "bytes"},
    ],
)
def test_no_ranges_unless_they_are_sure_to_fit(headers: dict[str, str]) -> None:
    assert not delivered(Asked(), 200, **headers).ranges


@pytest.mark.parametrize(
    "said", [{}, {"content_length": "-1"}, {"content_length": "1", "transfer_encoding": "chunked"}]
)
def test_size_is_unknown(said: dict[str, str]) -> None:
    answer = delivered(Asked(), 200, **said)
    assert (answer.size, answer.stop) == (None, None)


def test_whole_image_instead_of_a_part() -> None:
    answer = delivered(Asked(40, 60, STRONG), 200, content_length="100", etag='"b"')
    assert (answer.offset, answer.stop, answer.size) == (0, 60, 100)


def test_part() -> None:
    answer = delivered(Asked(40, 60, STRONG), 206, content_range="bytes 40-59/100", etag='"a"')
    assert answer == Delivery(40, 60, 100, STRONG, ranges=True)


def test_the_origin_may_send_less_than_asked_for_but_promised_it_all() -> None:
    assert delivered(Asked(40), 206, content_range="bytes 40-59/100").stop == 100


def test_a_part_to_the_end_without_a_size_might_not_be_the_end() -> None:
    assert answered(Asked(40), 206, content_range="bytes 40-59/*") is Outcome.START_OVER
    assert delivered(Asked(40, 60), 206, content_range="bytes 40-59/*").stop == 60


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content_range": "bytes 41-99/100", "etag": '"a"'},
        {"content_range": "bytes 0-99/100", "etag": '"a"'},
        {"content_range": "nonsense", "etag": '"a"'},
        {"content_range": "bytes 40-99/100", "etag": '"b"'},
        {"content_range": "bytes 40-99/100"},
        {"content_range": "bytes 40-100/101", "etag": '"a"'},
        {"content_range": "bytes 40-99/100", "etag": '"a"', "content_encoding": "gzip"},
    ],
)
def test_parts_that_do_not_fit(headers: dict[str, str]) -> None:
    assert answered(Asked(40, None, STRONG), 206, **headers) is Outcome.START_OVER


@pytest.mark.parametrize(
    ("headers", "fits"),
    [
        ({}, True),
        ({"last_modified": DATE}, True),
        ({"last_modified": DATE.replace("20", "21")}, False),
        ({"etag": '"b"'}, False),
    ],
)
def test_parts_of_a_version_known_by_date(headers: dict[str, str], *, fits: bool) -> None:
    answer = answered(Asked(40, None, DATED), 206, content_range="bytes 40-99/100", **headers)
    assert isinstance(answer, Delivery) is fits


def test_nothing_left() -> None:
    answer = delivered(Asked(100, None, SIZELESS), 416, content_range="bytes */100", etag='"a"')
    assert answer == Delivery(100, 100, 100, STRONG, ranges=True)
    assert delivered(Asked(100), 416, content_range="bytes */100").stop == 100


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content_range": "bytes */100"},
        {"content_range": "bytes */99"},
        {"content_range": "bytes */200"},
        {"content_range": "bytes */100", "etag": '"b"'},
    ],
)
def test_nothing_left_of_something_else(headers: dict[str, str]) -> None:
    assert answered(Asked(100, None, SIZELESS), 416, **headers) is Outcome.START_OVER


@pytest.mark.parametrize("version", [STRONG, WEAK, DATED])
def test_all_is_held_and_current(version: Validators) -> None:
    said = {"etag": version.etag, "last_modified": version.modified, "content_length": "100"}
    for answer in (answered(Asked(100, None, version), 304), answered(Asked(100, None, version), 200, **said)):
        assert answer == Delivery(100, 100, 100, version, ranges=version is STRONG)


def test_all_is_held_and_outdated() -> None:
    assert delivered(Asked(100, None, STRONG), 200, content_length="100", etag='"b"').offset == 0


@pytest.mark.parametrize("version", [STRONG, WEAK, DATED])
def test_unchanged(version: Validators) -> None:
    assert answered(Asked(unless=version), 304) is Outcome.UNCHANGED
    said = {"etag": version.etag, "last_modified": version.modified, "content_length": "100"}
    assert answered(Asked(unless=version), 200, **said) is Outcome.UNCHANGED


@pytest.mark.parametrize("headers", [{"etag": '"b"'}, {}, {"last_modified": DATE}])
def test_changed(headers: dict[str, str]) -> None:
    assert delivered(Asked(unless=STRONG), 200, **headers).offset == 0


def test_same_date_and_another_size_is_changed() -> None:
    assert delivered(Asked(unless=DATED), 200, last_modified=DATE, content_length="101").size == 101


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP"])
def test_gzip_is_undone_and_never_resumed(coding: str) -> None:
    said = {"content_encoding": coding, "content_length": "10", "etag": '"a"', "accept_ranges": "bytes"}
    answer = delivered(Asked(0, 60), 200, **said)
    assert answer == Delivery(0, 60, None, Validators('"a"'), ranges=False, gzipped=True)


@pytest.mark.parametrize(
    ("asked", "status", "headers"),
    [
        (Asked(), 200, {"content_encoding": "br"}),
        (Asked(), 200, {"content_encoding": "gzip, gzip"}),
        (Asked(), 204, {}),
        (Asked(), 206, {"content_range": "bytes 0-9/10"}),
        (Asked(5).anew(), 206, {"content_range": "bytes 5-9/10"}),
        (Asked(), 304, {}),
        (Asked(), 416, {"content_range": "bytes */0"}),
    ],
)
def test_answers_to_other_questions(asked: Asked, status: int, headers: dict[str, str]) -> None:
    with pytest.raises(OriginUnavailable) as caught:
        answered(asked, status, **headers)
    assert not caught.value.retryable
