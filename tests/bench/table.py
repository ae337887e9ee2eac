"""Rows and the page that shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.samples import Goal, Sample

HEAD = ("what", "measured", "against", "measured", "ratio", "goal", "verdict")

NOTICE = "<!-- Written by `python -m tests.bench --write`; measure again instead of changing it. -->"

PAGE = """\
{notice}

# Benchmarks

Every number is a ratio to something that everybody knows, measured in one run on one machine, in turns (A B A B …), as
the median of its rounds. `tox -e bench` prints the same table for another machine: as root, on a quiet one. The notes
below the table say what each number is made of.

{machine}

{table}

## The rows in detail

{details}
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; `unit` is s or B. Without a reference, the goal is absolute.

    `broken` is what misses the goal whatever was measured. `notes` say what the number is made of, `obstacle` what
    holds it back if it misses its goal.
    """

    what: str
    measured: Sample
    against: str = ""
    reference: Sample | None = None
    unit: str = "s"
    goal: Goal | None = None
    broken: str = ""
    obstacle: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float | None:
        return self.measured.median / self.reference.median if self.reference else None

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        reference = self.reference.median if self.reference else None
        if self.broken:
            return f"**missed**: {self.broken}"
        return "met" if self.goal.met(self.measured.median, reference) else "**missed**"

    def cells(self) -> tuple[str, ...]:
        reference = show(self.reference.median, self.unit) if self.reference else ""
        ratio = f"{self.ratio:.2f}" if self.ratio is not None else ""
        goal = show_goal(self.goal, self.unit) if self.goal else ""
        return self.what, show(self.measured.median, self.unit), self.against, reference, ratio, goal, self.verdict

    def details(self) -> list[str]:
        """Return the lines below the table: how much the values vary, and the notes."""
        samples = [("", self.measured), (f"{self.against}: ", self.reference)]
        spreads = [f"{name}{_spread(sample, self.unit)}" for name, sample in samples if sample is not None]
        missed = self.goal is not None and self.verdict != "met"
        return ["; ".join(spreads), *self.notes, *([f"what holds it back: {self.obstacle}"] if missed else [])]


@dataclass(frozen=True)
class Unmeasured:
    """A line of the table that could not be filled, and why."""

    what: str
    why: str

    def cells(self) -> tuple[str, ...]:
        return self.what, "", "", "", "", "", "not measured"

    def details(self) -> list[str]:
        return [self.why]


def show(value: float, unit: str) -> str:
    """Return a value for people: milliseconds below 1 s, MiB for bytes."""
    if unit == "B":
        return f"{value / (1 << 20):.1f} MiB"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1000:.0f} ms" if value >= 0.1 else f"{value * 1000:.2f} ms"


def show_goal(goal: Goal, unit: str) -> str:
    """Return a goal for people."""
    parts = [f"{goal.times:g} ×" if goal.times else "", show(goal.plus, unit) if goal.plus else ""]
    return f"≤ {' + '.join(part for part in parts if part)}"


def markdown(rows: Sequence[Row | Unmeasured]) -> str:
    """Return the table, its columns as wide as they need to be."""
    lines = [HEAD, *(row.cells() for row in rows)]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    drawn = [_line(line, widths) for line in cells]
    return "\n".join([drawn[0], _line(["-" * width for width in widths], widths), *drawn[1:]])


def details(rows: Sequence[Row | Unmeasured]) -> str:
    """Return a paragraph and a list for each row."""
    return "\n\n".join("\n".join([f"**{row.what}**", "", *(f"- {line}" for line in row.details())]) for row in rows)


def page(machine: Sequence[str], rows: Sequence[Row | Unmeasured]) -> str:
    """Return the page of the documentation."""
    described = "\n".join(f"- {line}" for line in machine)
    return PAGE.format(notice=NOTICE, machine=described, table=markdown(rows), details=details(rows))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |"


def _spread(sample: Sample, unit: str) -> str:
    low, high = sample.spread
    count = len(sample.values)
    return f"{show(low, unit)} – {show(high, unit)} in {count} round{'s' * (count > 1)} (10th – 90th percentile)"
