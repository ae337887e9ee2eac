"""Laws of what Grid Engine is told: no limit of execd's is passed, and a request matches exactly one name."""

from __future__ import annotations

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from stager import report
from stager.reference import parse
from stager.schedulers import sensor
from tests.property.strategies import hex_digests, hostile_text, reference_texts
from tests.support.effort import effort

_near = st.text("ab.-:+_", min_size=1, max_size=4)
"""Names that are parts of each other."""
names = _near | hostile_text | reference_texts.map(lambda text: parse(text).shown)
items = st.builds(report.item, names, hex_digests)
many = st.lists(items, max_size=40) | st.lists(items, max_size=3).map(
    lambda few: [f"{n}{x}" for n in range(90) for x in few]
)


@given(many, st.integers(0, 2**64), st.integers(0, 10**6))
@effort(60)
def test_no_limit_of_execd_is_passed(told: list[str], free: int, busy: int) -> None:
    text = sensor.report("n" * 255, told, free=free, busy=busy)
    begin, *lines, end = text.split("\n")[:-1]
    assert (begin, end) == ("begin", "end")
    assert text.isascii()
    for line in lines:
        host, name, value = line.split(":", 2)
        assert host == "n" * 255
        assert 0 < len(value) <= 900
        assert not set(value) & set(", \t[]*?!&|()=\"'\\\r")
        assert name in (*sensor.IMAGES, "stage_images_cut", "stage_free", "stage_busy")


@given(many)
@effort(60)
def test_all_are_told_in_order_or_it_is_said_that_some_are_not(told: list[str]) -> None:
    values, is_cut = sensor.values(told)
    seen = [item for value in values if value != "none" for item in value.strip(";").split(";")]
    distinct = list(dict.fromkeys(told))
    assert seen == distinct[: len(seen)]
    assert is_cut is (len(seen) < len(distinct))
    assert not is_cut or sum(map(len, values)) > 8 * (900 - 135), "it was cut too early"


@given(st.lists(st.tuples(names, hex_digests), min_size=1, max_size=8), names)
@effort(80)
def test_a_request_matches_exactly_one_name(images: list[tuple[str, str]], wanted: str) -> None:
    # execd hands values to fnmatch(3) without flags, as fnmatchcase does it.
    value = sensor.values([report.item(*image) for image in images])[0][0]
    pattern = f"*;{report.item_name(wanted)}@*"
    assert fnmatchcase(value, pattern) is (report.item_name(wanted) in {report.item_name(name) for name, _ in images})


@given(names)
@effort(60)
def test_a_name_is_plain_and_short(shown: str) -> None:
    name = report.item_name(shown)
    assert 0 < len(name) <= 120
    assert report.item_name(name) == name
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:+-")


@given(reference_texts, hex_digests)
@effort(60)
def test_a_pin_does_not_change_the_name(text: str, digits: str) -> None:
    location = parse(text).shown.partition("@sha256:")[0]
    assert report.item_name(f"{location}@sha256:{digits}") == report.item_name(location)
