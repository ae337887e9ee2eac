from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from stager.quantity import MAX_SIZE, SIZE_UNITS, format_duration, format_size, parse_duration, parse_size
from tests.property.strategies import hostile_text
from tests.support.effort import effort


@given(st.integers(0, MAX_SIZE) | st.builds(lambda n, shift: n << shift, st.integers(0, 999), st.integers(0, 50)))
@effort(25)
def test_sizes(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 999), st.sampled_from(sorted(SIZE_UNITS)), st.sampled_from(["", " "]))
@effort(25)
def test_units_do_not_depend_on_case(number: int, unit: str, blank: str) -> None:
    text = f"{number}{blank}{unit}"
    assert parse_size(text) == parse_size(text.upper()) == parse_size(text.lower()) == number * SIZE_UNITS[unit]


@given(st.decimals(0, 1000, places=3), st.sampled_from(["KiB", "MB", "GiB"]))
@effort(25)
def test_fractions_are_exact_and_rounded_down(number: object, unit: str) -> None:
    from decimal import Decimal

    assert parse_size(f"{number}{unit}") == int(Decimal(str(number)) * SIZE_UNITS[unit])


@given(st.integers(0, 10**7) | st.floats(0.001, 10**6).map(lambda s: round(s, 3)))
@effort(25)
def test_durations(seconds: float) -> None:
    assert math.isclose(parse_duration(format_duration(seconds)), seconds, rel_tol=1e-12)


@given(hostile_text)
@effort(25)
def test_anything_else_is_a_value_error(text: str) -> None:
    for parse in (parse_size, parse_duration):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert str(error)  # noqa: PT017 - raising is one of two right answers
