from __future__ import annotations

from typing import TYPE_CHECKING

from stager.clock import SystemClock
from tests.support.fake_clock import BOOT, FakeClock

if TYPE_CHECKING:
    from stager.clock import Clock


def test_time_passes_only_by_sleeping() -> None:
    clock: Clock = FakeClock()
    start = clock.now()
    assert clock.now() == start
    clock.sleep(2.5)
    assert clock.now() == start + 2.5
    assert clock.wall() == BOOT + clock.now()


def test_it_remembers_who_slept() -> None:
    clock = FakeClock()
    clock.sleep(1)
    clock.advance(5)
    clock.sleep(-1)
    assert clock.sleeps == [1, -1]
    assert clock.now() == 1006


def test_things_happen_while_one_sleeps() -> None:
    clock = FakeClock(0)
    seen: list[tuple[str, float]] = []
    clock.after(3, lambda: seen.append(("late", clock.now())))
    clock.after(1, lambda: seen.append(("early", clock.now())))
    clock.sleep(2)
    assert seen == [("early", 1)]
    clock.sleep(2)
    assert seen == [("early", 1), ("late", 3)]
    assert clock.now() == 4


def test_what_happens_may_ask_for_more() -> None:
    clock = FakeClock(0)
    seen: list[float] = []

    def tick() -> None:
        seen.append(clock.now())
        if len(seen) < 3:
            clock.after(1, tick)

    clock.after(1, tick)
    clock.sleep(10)
    assert seen == [1, 2, 3]


def test_the_real_clock_has_the_same_shape() -> None:
    clock: Clock = SystemClock()
    before = clock.now()
    clock.sleep(-1)
    assert before <= clock.now()
    assert clock.wall() > BOOT
