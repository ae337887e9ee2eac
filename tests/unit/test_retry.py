from __future__ import annotations

import pytest

from stager.errors import OriginUnavailable, StageImageError
from stager.retry import RetryPolicy, retrying
from tests.support.fake_clock import FakeClock


def test_waits_are_told_before_they_are_slept() -> None:
    clock, told = FakeClock(), []
    errors = [OriginUnavailable("one"), OriginUnavailable("two", retry_after=7)]

    def act() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    def on_wait(error: StageImageError, seconds: float) -> None:
        told.append((error.message, seconds, len(clock.sleeps)))

    assert retrying(act, policy=RetryPolicy(), clock=clock, on_wait=on_wait) == "done"
    assert [(message, slept) for message, _, slept in told] == [("one", 0), ("two", 1)]
    assert [seconds for _, seconds, _ in told] == clock.sleeps
    assert clock.sleeps[1] >= 7


def test_an_origin_that_asks_for_too_long_is_given_up_at_once() -> None:
    clock = FakeClock()

    def act() -> None:
        raise OriginUnavailable("host answered 503", retry_after=3600)

    with pytest.raises(OriginUnavailable) as caught:
        retrying(act, policy=RetryPolicy(deadline=300), clock=clock)
    assert clock.sleeps == []
    expected = "host answered 503; it asks us to come back in 3600 s, and we give up in 300 s"
    assert caught.value.message == str(caught.value) == expected


def test_the_last_pause_is_cut_so_that_one_try_falls_on_the_deadline() -> None:
    clock, tries = FakeClock(), []

    def act() -> None:
        tries.append(clock.now())
        clock.advance(0.001)
        raise OriginUnavailable("away")

    with pytest.raises(OriginUnavailable):
        retrying(act, policy=RetryPolicy(base=1000, cap=1000, deadline=10, attempts=10**6), clock=clock)
    assert tries[-1] - tries[0] == pytest.approx(10, abs=0.01)


def test_pauses_differ_between_processes() -> None:
    sleeps = set()
    for _ in range(5):
        clock = FakeClock()
        with pytest.raises(OriginUnavailable):
            retrying(_away, policy=RetryPolicy(attempts=2), clock=clock)
        sleeps.update(clock.sleeps)
    assert len(sleeps) == 5


def _away() -> None:
    raise OriginUnavailable("away")
