"""The pure parts of the benchmarks: medians, goals, the table."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docs.links import anchors
from tests.bench import machine
from tests.bench.samples import Goal, Sample, interleaved
from tests.bench.table import HEAD, Row, Unmeasured, markdown, page, show, show_goal

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = st.floats(1e-6, 1e4)


def test_rounds_are_interleaved_and_turned_round() -> None:
    order: list[str] = []

    def action(name: str) -> int:
        order.append(name)
        return len(order)

    assert interleaved(3, lambda: action("a"), lambda: action("b")) == ([1, 4, 5], [2, 3, 6])
    assert "".join(order) == "abbaab"


def test_three_can_be_interleaved() -> None:
    order: list[int] = []
    interleaved(2, lambda: order.append(0), lambda: order.append(1), lambda: order.append(2))
    assert order == [0, 1, 2, 2, 1, 0]


# Whole numbers: between two equal floats, interpolation may find a larger one.
@given(st.lists(st.integers(0, 10**9), min_size=1))
def test_the_median_lies_within_the_spread(values: list[int]) -> None:
    sample = Sample(values)
    low, high = sample.spread
    assert min(values) <= low <= high <= max(values)
    if len(values) > 1:
        assert low <= sample.median <= high


def test_the_spread_leaves_out_the_outermost_tenths() -> None:
    assert Sample(range(101)).spread == (10, 90)
    assert Sample([3.0]).spread == (3.0, 3.0)


@given(measured=SECONDS, reference=SECONDS, times=st.floats(0, 10), plus=st.floats(0, 10))
def test_a_goal_is_met_up_to_its_limit(measured: float, reference: float, times: float, plus: float) -> None:
    goal = Goal(times=times, plus=plus)
    limit = goal.limit(reference)
    assert goal.met(limit, reference)
    assert goal.met(measured, reference) == (measured <= times * reference + plus)
    assert not goal.met(limit * 1.001 + 1e-9, reference)


def test_a_goal_without_a_reference() -> None:
    assert Goal(plus=0.1).met(0.1, None)
    assert not Goal(plus=0.1).met(0.11, None)


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        (Goal(times=3), "≤ 3 ×"),
        (Goal(times=1.15, plus=0.5), "≤ 1.15 × + 500 ms"),
        (Goal(plus=0.1), "≤ 100 ms"),
    ],
)
def test_goals_for_people(goal: Goal, text: str) -> None:
    assert show_goal(goal, "s") == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (12.345, "s", "12.35 s"),
        (0.1234, "s", "123 ms"),
        (0.0019, "s", "1.90 ms"),
        (1 << 20, "B", "1.0 MiB"),
    ],
)
def test_values_for_people(value: float, unit: str, text: str) -> None:
    assert show(value, unit) == text


def row(measured: float, reference: float | None = 1.0, goal: Goal | None = None) -> Row:
    other = Sample([reference]) if reference is not None else None
    return Row(what="a | b", measured=Sample([measured]), against="c", reference=other, goal=goal, notes=("why",))


@pytest.mark.parametrize(
    ("found", "ratio", "verdict"),
    [
        (row(2.0, 1.0, Goal(times=2)), "2.00", "met"),
        (row(2.1, 1.0, Goal(times=2)), "2.10", "**missed**"),
        (row(0.2, None, Goal(plus=0.1)), "", "**missed**"),
        (row(9.0, 3.0), "3.00", ""),
    ],
)
def test_verdicts(found: Row, ratio: str, verdict: str) -> None:
    assert found.cells()[4] == ratio
    assert found.cells()[6] == verdict


def test_a_broken_promise_misses_the_goal() -> None:
    found = Row(what="", measured=Sample([0.0]), goal=Goal(plus=1), broken="two downloads")
    assert found.verdict == "**missed**: two downloads"


def test_the_ratio_is_one_of_medians() -> None:
    both = Row(what="", measured=Sample([9.0, 1.0, 4.0]), reference=Sample([2.0, 2.0, 100.0]))
    assert both.ratio == 2.0


def test_every_line_of_the_table_has_all_columns_and_the_same_width() -> None:
    lines = markdown([row(1.0), row(1234.5, None), Unmeasured("d", "no reason")]).splitlines()
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(HEAD) + 1}
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 5


def test_what_holds_a_goal_back_is_told_where_it_is_missed() -> None:
    def details(measured: float) -> list[str]:
        return Row(what="", measured=Sample([measured]), goal=Goal(plus=1), obstacle="a wall").details()

    assert details(2.0)[-1] == "what holds it back: a wall"
    assert "a wall" not in details(1.0)[-1]


def test_the_page_tells_what_was_not_measured_and_why(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = page(["2 cores"], [row(1.0), Unmeasured("d", "no reason")])
    assert "- 2 cores\n" in text
    assert "- no reason\n" in text
    assert "- why\n" in text
    assert "not measured" in text
    path = tmp_path_factory.mktemp("page") / "benchmarks.md"
    path.write_text(text)
    assert anchors(path) == {"benchmarks", "the-rows-in-detail"}


@pytest.mark.parametrize(
    ("load", "cores", "is_busy"), [(0.0, 1, False), (1.0, 2, False), (1.1, 2, True), (9, 64, False)]
)
def test_a_machine_is_busy_when_half_of_it_is(load: float, cores: int, *, is_busy: bool) -> None:
    assert machine.busy(load, cores) is is_busy


def test_an_archive_without_history_can_be_measured(tmp_path: Path) -> None:
    assert machine.changed(tmp_path) == []
    assert machine.code(tmp_path).endswith("commit unknown")


def test_the_page_says_whether_the_code_was_changed(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        user = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *user, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "stager").mkdir()
    file = tmp_path / "stager" / "a.py"
    file.write_text("1\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=a")
    assert machine.changed(tmp_path) == []
    file.write_text("2\n")
    assert machine.changed(tmp_path) == [" M stager/a.py"]
    assert machine.code(tmp_path).endswith("changed since")
