"""Measuring side by side: rounds of A B A B, medians, goals."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
U = TypeVar("U")


@overload
def interleaved(rounds: int, one: Callable[[], T], other: Callable[[], U], /) -> tuple[list[T], list[U]]: ...
@overload
def interleaved(rounds: int, *actions: Callable[[], T]) -> tuple[list[T], ...]: ...
def interleaved(rounds: int, *actions: Callable[[], Any]) -> tuple[list[Any], ...]:
    """Do A B C A B C …; return the results of each action, in order.

    What disturbs the machine for a while then disturbs all of them. The order is turned round every other round, so
    that none always comes after the same one.
    """
    results: tuple[list[Any], ...] = tuple([] for _ in actions)
    for number in range(rounds):
        order = range(len(actions))
        for which in order if number % 2 == 0 else reversed(order):
            results[which].append(actions[which]())
    return results


@dataclass(frozen=True)
class Sample:
    """Values of one thing, at least one, measured again and again."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The 10th and the 90th percentile: eight of ten values lie between them."""
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        tenths = quantiles(self.values, n=10, method="inclusive")
        return tenths[0], tenths[-1]


@dataclass(frozen=True)
class Goal:
    """At most `times` the reference, plus `plus` in the unit of what is measured."""

    times: float = 0.0
    plus: float = 0.0

    def limit(self, reference: float | None) -> float:
        return self.times * (reference or 0.0) + self.plus

    def met(self, measured: float, reference: float | None) -> bool:
        return measured <= self.limit(reference)
