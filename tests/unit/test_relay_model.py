"""The model against what was measured with real processes and shaped links, and the goals against the model.

The measurements: 256 MiB by chains of 4 to 32 network namespaces, medians of three runs, times of the last node as
multiples of what the links allow; prototypes with the same rules, whose chunks were 256 KiB or 1 MiB.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.support.relay_model import Model, Setting, setting

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
BOX = pytest.approx


def ratio(model: Model, *but: int) -> float:
    return model.last(*but) / model.setting.ideal


def ran(model: Model, fault: Callable[[Model], None] | None = None, but: tuple[int, ...] = ()) -> Model:
    if fault is not None:
        fault(model)
    model.run(but=but)
    return model


def chain(nodes: int, mbit: float, chunk: int = MIB // 4) -> Model:
    return Model(setting(nodes, mbit, chunk=chunk))


def half_way(model: Model, what: Callable[[int], None], *numbers: int) -> None:
    for number in numbers:
        model.at(model.setting.ideal / 2, lambda number=number: what(number))  # type: ignore[misc]


def two_slow(model: Model) -> None:
    model.slow(4, 10)
    model.slow(5, 10)


@pytest.mark.parametrize(
    ("nodes", "mbit", "chunk", "measured"),
    [
        (8, 200, MIB // 4, 1.053),
        (16, 200, MIB // 4, 1.060),
        (32, 120, MIB // 4, 1.075),
        (4, 200, MIB, 1.060),
        (8, 200, MIB, 1.088),
        (16, 200, MIB, 1.117),
        (32, 120, MIB, 1.194),
    ],
)
def test_a_healthy_chain_takes_as_long_as_measured(nodes: int, mbit: float, chunk: int, measured: float) -> None:
    model = ran(chain(nodes, mbit, chunk))
    assert ratio(model) == BOX(measured, rel=0.03)
    assert model.sent == model.setting.grains


@pytest.mark.parametrize(
    ("fault", "but", "measured"),
    [
        (lambda model: half_way(model, model.kill, 4), (), 1.080),
        (lambda model: half_way(model, model.cut, 4), (), 1.175),
        (lambda model: model.slow(4, 10), (4,), 1.152),
    ],
    ids=["killed", "cut off", "slow"],
)
def test_faults_cost_what_was_measured(fault: Callable[[Model], None], but: tuple[int, ...], measured: float) -> None:
    assert ratio(ran(chain(8, 200, MIB), fault, but), *but) == BOX(measured, rel=0.03)


@pytest.mark.parametrize(("nodes", "mbit", "goal"), [(16, 200, 1.08), (32, 120, 1.10)])
def test_the_goal_for_healthy_nodes(nodes: int, mbit: float, goal: float) -> None:
    assert ratio(ran(chain(nodes, mbit))) <= goal


@pytest.mark.parametrize("number", [0, 1, 8, 14])
@pytest.mark.parametrize(("how", "goal"), [("kill", 1.10), ("cut", 1.20)])
def test_the_goal_for_one_that_goes_half_way(number: int, how: str, goal: float) -> None:
    model = ran(chain(16, 200), lambda model: half_way(model, getattr(model, how), number))
    assert ratio(model) <= goal
    assert model.sent <= 1.02 * model.setting.grains


@pytest.mark.parametrize("number", [1, 8, 14])
def test_the_goal_for_a_slow_one(number: int) -> None:
    model = ran(chain(16, 200), lambda model: model.slow(number, 10), (number,))
    assert ratio(model, number) <= 1.18
    assert model.sent == model.setting.grains


@pytest.mark.parametrize(
    ("fault", "but", "most"),
    [
        (lambda model: model.slow(0, 10), (0,), 1.65),
        (lambda model: setattr(model.node(4), "up", model.setting.rate / 10), (), 1.45),
        (lambda model: setattr(model.node(4), "down", model.setting.rate / 10), (4,), 1.18),
        (two_slow, (4, 5), 1.35),
        (lambda model: model.slow(4, 1.5), (4,), 1.25),
        (lambda model: half_way(model, model.kill, *range(0, 16, 2)), (), 1.10),
        (lambda model: half_way(model, model.cut, *range(4, 9)), (), 1.20),
    ],
    ids=["slow head", "slow to send", "slow to receive", "two slow", "two thirds", "every other killed", "a rack gone"],
)
def test_the_rules_beyond_the_goals(fault: Callable[[Model], None], but: tuple[int, ...], most: float) -> None:
    assert ratio(ran(chain(16, 200), fault, but), *but) <= most


def test_late_ones_take_no_longer_than_others() -> None:
    model = chain(16, 200)
    model.run([0.0] * 8 + [model.setting.ideal * 1.2] * 8)
    assert ratio(model) <= 1.2 + 1.08
    assert model.sent == model.setting.grains


def test_the_order_of_coming_does_not_matter() -> None:
    model = chain(16, 200)
    draw = random.Random(1)
    joins = [draw.random() for _ in range(16)]
    model.run(joins)
    assert ratio(model) <= 1.08 + max(joins) / model.setting.ideal


def test_one_node_takes_what_its_link_allows() -> None:
    model = Model(Setting(nodes=1, size=10 * MIB, rate=MIB, hop=0.0, grain=MIB))
    assert model.run() == BOX(10.0, abs=0.1)


def test_a_node_that_sends_to_two_halves_its_rate() -> None:
    model = Model(Setting(nodes=3, size=10 * MIB, rate=MIB, hop=0.0, grain=MIB))
    model.coordinator.roster.tree.fan = 2
    model.coordinator.roster._reckon = lambda order: None  # type: ignore[method-assign]
    model.node(1).order = model.node(2).order = 0
    assert model.run() == BOX(20.0, rel=0.1)
