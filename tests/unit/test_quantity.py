from __future__ import annotations

import pytest

from stager.quantity import format_duration, format_size, parse_duration, parse_size

SIZES = [
    *(("0", 0), ("4096", 4096), ("10GiB", 10 * 2**30), ("500MB", 500_000_000), ("1.5 GB", 1_500_000_000)),
    *(("1kib", 1024), (" 7 B ", 7), ("0.5KiB", 512), ("1.000999999KB", 1000), ("9223372036854775807", 2**63 - 1)),
]


@pytest.mark.parametrize(("text", "size"), SIZES)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", "GiB", "10G", "10g", "-1", "+1", "1e3", "1_000", "0x10", "1.", ".5", "10 Gi B", "5%", "nan"),
        *("9223372036854775808", "8193PiB", "\u0661", "1" * 5000),
    ],
)
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is "):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (1, "1B"), (1000, "1000B"), (1024, "1KiB"), (64 << 20, "64MiB"), (3 << 29, "1536MiB")],
)
def test_size_in_short(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("0", 0), ("0.25", 0.25), ("90s", 90), ("5m", 300), ("2h", 7200), ("1.5 h", 5400), ("1d", 86400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "5M", "5min", "-5", "1:30", "inf", "nan", "1e9", "5 m 3 s", "5ms"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (90, "90s"), (300.0, "5m"), (7200, "2h"), (86400, "1d"), (0.5, "0.5s")]
)
def test_duration_in_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
