"""Sizes and times as people write them: parse them, print them."""

from __future__ import annotations

import math
import re

SIZE_UNITS: dict[str, int] = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGTP", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", 1)},
}
"""Decimal and binary units as in IEC 80000-13. A bare `G` means 10^9 to some tools and 2^30 to others: not taken."""

TIME_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

SIZE_WORDS = "bytes, or a number with KB, MB, GB, TB, PB, KiB, MiB, GiB, TiB or PiB"
TIME_WORDS = "seconds, or a number with s, m, h or d"

MAX_SIZE = 2**63 - 1
"""off_t of Linux."""

_NUMBER = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?) ?([A-Za-z]{0,3})")
_BINARY_UNITS = [(f"{letter}iB", SIZE_UNITS[f"{letter}iB"]) for letter in "PTGMK"]
_UNIT_OF = {unit.lower(): unit for unit in SIZE_UNITS}


def parse_size(text: str) -> int:
    """Return the bytes that `10GiB`, `1.5 GB` or `4096` mean, rounded down; ValueError for anything else.

    `parse_size(format_size(n)) == n`.
    """
    number, unit = _split(text)
    if unit.lower() not in _UNIT_OF:
        raise ValueError(f"{unit!r} is not a unit of size")
    factor = SIZE_UNITS[_UNIT_OF[unit.lower()]]
    whole, _, fraction = number.partition(".")
    size = int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)
    if size > MAX_SIZE:
        raise ValueError(f"{text!r} is more than any file can hold")
    return size


def format_size(size: int) -> str:
    """Return the shortest exact form: `64MiB`, `1000B`."""
    return next(
        (f"{size // factor}{unit}" for unit, factor in _BINARY_UNITS if size and size % factor == 0), f"{size}B"
    )


def parse_duration(text: str) -> float:
    """Return the seconds that `90`, `0.5s`, `5m`, `2h` or `1d` mean; ValueError for anything else."""
    number, unit = _split(text)
    if unit not in TIME_UNITS:
        raise ValueError(f"{unit!r} is not a unit of time")
    return float(number) * TIME_UNITS[unit]


def format_duration(seconds: float) -> str:
    """Return the shortest exact form: `90s`, `5m`, `0.5s`."""
    if not math.isfinite(seconds) or seconds != int(seconds):
        return f"{seconds}s"
    whole = int(seconds)
    unit = next((u for u in ("d", "h", "m") if whole and whole % TIME_UNITS[u] == 0), "s")
    return f"{whole // TIME_UNITS[unit]}{unit}"


def _split(text: str) -> tuple[str, str]:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a number with a unit")
    return match[1], match[2]
