"""Trying again: with growing random pauses, and no longer than there is hope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from stager.errors import StageImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import RetryCallState

    from stager.clock import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to hope. All bounds are on lack of progress: a slow origin that goes on sending is never given up.

    `base` and `cap` (seconds): before retry number n without progress, the pause is a random time up to
    min(cap, base * 2**(n-1)); "full jitter" keeps thousands of nodes from coming back at the same moment
    (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter). `deadline`: seconds without progress after
    which no further try begins. `attempts`: tries without progress, the first included.
    """

    base: float = 0.5
    cap: float = 30.0
    deadline: float = 300.0
    attempts: int = 12


def retrying(
    action: Callable[[], T],
    *,
    policy: RetryPolicy,
    clock: Clock,
    progressed: Callable[[], int] = lambda: 0,
    on_wait: Callable[[StageImageError, float], None] | None = None,
) -> T:
    """Return what `action` returns, calling it again while it raises retryable StageImageErrors.

    `progressed` says how far things are (bytes held, say): a failure that finds it higher than ever before begins a
    new count of attempts and a new deadline. A `retry_after` is waited for, plus the pause; one that ends behind the
    deadline is not worth waiting for. `on_wait` is told each error and the seconds until the next try. Raises the last
    error of `action`.
    """
    from tenacity import Retrying, retry_if_exception

    patience = _Patience(policy, clock, progressed)

    def tell(state: RetryCallState) -> None:
        if on_wait is not None:
            on_wait(_error_of(state), state.upcoming_sleep)

    attempts = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, StageImageError) and error.retryable),
        wait=patience.pause,
        stop=patience.is_over,
        sleep=clock.sleep,
        before_sleep=tell,
        reraise=True,
    )
    return attempts(action)


class _Patience:
    """The state between two tries. Tenacity asks for the pause first and then whether to stop."""

    def __init__(self, policy: RetryPolicy, clock: Clock, progressed: Callable[[], int]) -> None:
        from tenacity import wait_random_exponential

        self._policy = policy
        self._clock = clock
        self._progressed = progressed
        self._furthest = progressed()
        self._since = clock.now()
        self._jitter = wait_random_exponential(multiplier=policy.base, max=policy.cap)

    @property
    def _left(self) -> float:
        return max(0.0, self._since + self._policy.deadline - self._clock.now())

    def pause(self, state: RetryCallState) -> float:
        reached = self._progressed()
        if reached > self._furthest:
            # A lower mark, reached again after starting over, is no progress: an origin without ranges that breaks off
            # at the same place each time would be tried for ever.
            self._furthest, self._since = reached, self._clock.now()
            state.attempt_number = 1
        asked = _error_of(state).retry_after or 0.0
        return max(asked, min(asked + self._jitter(state), self._left))

    def is_over(self, state: RetryCallState) -> bool:
        error, left = _error_of(state), self._left
        if state.attempt_number >= self._policy.attempts or left <= 0:
            return True
        asked = error.retry_after or 0.0
        if asked > left:
            _add(error, f"it asks us to come back in {asked:.0f} s, and we give up in {left:.0f} s")
        return asked > left


def _error_of(state: RetryCallState) -> StageImageError:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, StageImageError):
        raise TypeError(f"{error!r} is no StageImageError")
    return error


def _add(error: StageImageError, reason: str) -> None:
    error.message = f"{error.message}; {reason}"
    error.args = (error.message,)
