"""Measure, print the table, and keep it in the documentation if asked to."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING

from tests.bench import machine, memory, release, storm, throughput, warm
from tests.bench.ground import FULL, QUICK, ROOT, Ground
from tests.bench.processes import Failed
from tests.bench.table import Row, Unmeasured, page
from tests.support import capabilities

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from tests.bench.table import Row as AnyRow

PAGE = ROOT / "docs" / "reference" / "benchmarks.md"

NEEDS = ("root", "loop", "nginx", "curl", "openssl", "mksquashfs")

PARTS: dict[str, Callable[[Ground], Sequence[Row | Unmeasured]]] = {
    "warm": warm.rows,
    "storm": storm.rows,
    "release": release.rows,
    "memory": memory.rows,
    "throughput": throughput.rows,
}


def main(arguments: list[str]) -> int:
    """Return 0 if everything could be measured, whether the goals were met or not."""
    asked = _parser().parse_args(arguments)
    if asked.write and (asked.quick or asked.part):
        sys.stderr.write("bench: only one whole run at full scale is worth keeping\n")
        return 2
    if lacking := capabilities.missing(NEEDS):
        sys.stderr.write(f"bench: this machine lacks: {', '.join(lacking)}\n")
        return 2
    load = os.getloadavg()[0]
    if asked.write and (why := _not_worth_keeping(load)):
        sys.stderr.write(f"bench: nothing is kept: {why}\n")
        return 2
    signal.signal(signal.SIGTERM, _end)
    code = machine.code(ROOT)  # before it is installed: commits go on meanwhile
    with Ground(QUICK if asked.quick else FULL) as ground:
        os.chdir(ground.folder)
        try:
            rows = [row for name in asked.part or PARTS for row in _measured(ground, name)]
            text = page([code, *machine.described(ground.folder, load)], rows)
        finally:
            os.chdir(ROOT)
    sys.stdout.write(text)
    if asked.write:
        PAGE.write_text(text, encoding="utf-8")
    return int(any(isinstance(row, Unmeasured) for row in rows))


def _not_worth_keeping(load: float) -> str:
    if machine.busy(load, os.cpu_count() or 1):
        return f"the load average is {load:.2f}, on a machine that ought to be quiet"
    changed = machine.changed(ROOT)
    return f"the code is not as committed: {', '.join(line.split()[-1] for line in changed)}" if changed else ""


def _measured(ground: Ground, name: str) -> Sequence[AnyRow | Unmeasured]:
    sys.stderr.write(f"bench: {name} …\n")
    try:
        return PARTS[name](ground)
    except Failed as error:
        return [Unmeasured(name, str(error))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="everything tiny, to see that it works; no numbers")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {PAGE.relative_to(ROOT)}")
    parser.add_argument("part", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"of {', '.join(PARTS)}")
    return parser


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
