"""Laws of trying again, whatever fails, however long it takes, whoever asks to wait."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.errors import NotFound, OriginUnavailable, StageImageError
from stager.retry import RetryPolicy, retrying
from tests.support.effort import effort
from tests.support.fake_clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

policies = st.builds(
    RetryPolicy,
    base=st.floats(0.01, 5),
    cap=st.floats(0.01, 60),
    deadline=st.floats(0, 600),
    attempts=st.integers(1, 30),
)


@dataclass(frozen=True)
class Try:
    """One call of the action: how long it takes, what it brings, and how it ends (None: well)."""

    seconds: float
    brings: int
    error: StageImageError | None


errors = st.one_of(
    st.builds(OriginUnavailable, st.just("away")),
    st.builds(OriginUnavailable, st.just("busy"), retry_after=st.floats(0, 1000)),
    st.builds(NotFound, st.just("gone")),
    st.none(),
)
tries = st.builds(Try, st.floats(0, 100), st.integers(0, 3), errors)


@dataclass
class Story:
    """Plays tries one after the other, the last one again and again, and notes what happened when."""

    plan: list[Try]
    clock: FakeClock = field(default_factory=FakeClock)
    bytes: int = 0
    begun: list[float] = field(default_factory=list)
    ended: list[tuple[float, int]] = field(default_factory=list)
    last: StageImageError | None = None

    def act(self) -> str:
        step = self.plan[min(len(self.begun), len(self.plan) - 1)]
        self.begun.append(self.clock.now())
        self.clock.advance(step.seconds)
        # A plan that never ends must not bring bytes for ever: that would be progress, rightly without a bound.
        self.bytes += step.brings if len(self.begun) <= len(self.plan) else 0
        self.ended.append((self.clock.now(), self.bytes))
        self.last = step.error
        if step.error is not None:
            raise step.error
        return "done"

    def run(self, policy: RetryPolicy) -> StageImageError | None:
        try:
            assert retrying(self.act, policy=policy, clock=self.clock, progressed=lambda: self.bytes) == "done"
        except StageImageError as error:
            return error
        return None

    def spans(self) -> Iterator[list[tuple[float, float]]]:
        """Yield, for each stretch without progress, (time of its start, time at which a try in it began)."""
        mark, since, span = 0, self.clock.now() if not self.begun else self.begun[0], []
        for began, (ended, held) in zip(self.begun, self.ended, strict=True):
            span.append((since, began))
            if held > mark:
                mark, since = held, ended
                yield span
                span = []
        yield span


plans = st.lists(tries, min_size=1, max_size=12)


@given(plans, policies)
@effort(25)
def test_no_try_begins_behind_the_deadline(plan: list[Try], policy: RetryPolicy) -> None:
    story = Story(plan)
    story.run(policy)
    for span in story.spans():
        assert all(began - since <= policy.deadline + 1e-6 for since, began in span)


@given(plans, policies)
@effort(25)
def test_no_more_tries_without_progress_than_allowed(plan: list[Try], policy: RetryPolicy) -> None:
    story = Story(plan)
    story.run(policy)
    spans = list(story.spans())
    assert len(spans[0]) <= policy.attempts
    # The failure that showed progress is the first of the next count.
    assert all(len(span) <= policy.attempts - 1 or policy.attempts == 1 for span in spans[1:])


@given(plans, policies)
@effort(25)
def test_the_outcome_is_that_of_the_last_try(plan: list[Try], policy: RetryPolicy) -> None:
    story = Story(plan)
    assert story.run(policy) is story.last


@given(plans, policies)
@effort(25)
def test_pauses_are_bounded_by_the_cap_and_what_the_origin_asks(plan: list[Try], policy: RetryPolicy) -> None:
    story = Story(plan)
    story.run(policy)
    for number, pause in enumerate(story.clock.sleeps):
        error = plan[min(number, len(plan) - 1)].error
        assert error is not None
        asked = error.retry_after or 0
        assert asked <= pause <= asked + policy.cap


@given(policies, st.sampled_from([NotFound, KeyError]))
@effort(25)
def test_what_cannot_get_better_is_tried_once(policy: RetryPolicy, kind: type[Exception]) -> None:
    calls = []

    def act() -> None:
        calls.append(1)
        raise kind("no")

    with pytest.raises(kind):
        retrying(act, policy=policy, clock=FakeClock())
    assert calls == [1]
    # One instance may be past hope although its class is not.
    hopeless = OriginUnavailable("the certificate is wrong")
    hopeless.retryable = False
    story = Story([Try(0, 0, hopeless)])
    assert story.run(policy) is hopeless
    assert len(story.begun) == 1


@given(st.integers(1, 200), st.floats(1, 100))
@effort(25)
def test_progress_is_never_given_up(breaks: int, seconds: float) -> None:
    steps = [Try(seconds, 1, OriginUnavailable("broke off"))] * breaks
    story = Story([*steps, Try(0, 1, None)])
    assert story.run(RetryPolicy(deadline=seconds / 2, attempts=2)) is None


@given(st.integers(2, 9))
@effort(25)
def test_the_same_bytes_again_are_no_progress(attempts: int) -> None:
    clock, marks, calls = FakeClock(), iter([0, 5, 3, 5, 0, *[5] * 20]), []

    def act() -> None:
        calls.append(1)
        raise OriginUnavailable("broke off at 5")

    with pytest.raises(OriginUnavailable):
        retrying(act, policy=RetryPolicy(attempts=attempts), clock=clock, progressed=lambda: next(marks))
    assert len(calls) == attempts
