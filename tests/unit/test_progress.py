from __future__ import annotations

import io
import os
import re
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.progress import LineTeller, describe, teller, write_line
from stager.progress_bar import BarTeller
from tests.support.effort import effort

MIB = 1 << 20


class Seconds:
    """What `time.monotonic` is to the module; moved by hand."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    return Seconds(monkeypatch)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    found = capsys.readouterr()
    assert found.out == ""
    return found.err.splitlines()


def test_a_line_begins_with_who_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    LineTeller("tool.sif").say("what happened")
    assert lines(capsys) == ["stage-image: what happened"]


def test_progress_is_a_line_every_ten_seconds(seconds: Seconds, capsys: pytest.CaptureFixture[str]) -> None:
    told = LineTeller("tool.sif")
    for _ in range(21):
        told.progress("fetching", 0, 0)
        seconds.now += 1
    assert len(lines(capsys)) == 2


def test_the_speed_is_measured_from_the_first_look(seconds: Seconds, capsys: pytest.CaptureFixture[str]) -> None:
    told = LineTeller("tool.sif")
    told.progress("fetching", 10 * MIB, 40 * MIB)  # resumed: these bytes were there before
    seconds.now += 10
    told.progress("fetching", 20 * MIB, 40 * MIB)
    line = "fetching tool.sif: 20.0 MiB of 40.0 MiB (50 %), 1.0 MiB/s, about 20 s left"
    assert lines(capsys) == [f"stage-image: {line}"]


def test_bytes_that_were_lost_are_no_negative_speed(seconds: Seconds, capsys: pytest.CaptureFixture[str]) -> None:
    told = LineTeller("tool.sif")
    told.progress("fetching", 10 * MIB, 0)
    seconds.now += 10
    told.progress("fetching", 0, 0)
    assert lines(capsys) == ["stage-image: fetching tool.sif"]


def test_who_is_quiet_says_what_matters_only(seconds: Seconds, capsys: pytest.CaptureFixture[str]) -> None:
    told = LineTeller("tool.sif", quiet=True)
    told.waiting(7, 0.0)
    told.progress("fetching", 0, 0)
    seconds.now += 100
    told.progress("fetching", 5, 9)
    assert lines(capsys) == []
    told.say("going on")
    assert lines(capsys) == ["stage-image: going on"]


def test_the_leader_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    since = time.mktime((2026, 11, 20, 12, 34, 56, 0, 0, -1))
    LineTeller("tool.sif").waiting(4711, since)
    host = os.uname().nodename
    line = f"waiting for tool.sif: pid 4711 on {host} has been fetching it since 12:34:56"
    assert lines(capsys) == [f"stage-image: {line}"]


@pytest.mark.parametrize(
    ("done", "total", "speed", "text"),
    [
        (0, 0, 0.0, "0 B"),
        (1023, 0, 0.0, "1023 B"),
        (1024, 0, 0.0, "1.0 KiB"),
        (5 << 40, 0, 0.0, "5.0 TiB"),
        (MIB, 3 * MIB, 0.0, "1.0 MiB of 3.0 MiB (33 %)"),
        (MIB, MIB, MIB, "1.0 MiB of 1.0 MiB (100 %), 1.0 MiB/s"),
        (0, 90 * MIB, MIB, "0 B of 90.0 MiB (0 %), 1.0 MiB/s, about 1 min 30 s left"),
        (0, 7260 * MIB, MIB, "0 B of 7.1 GiB (0 %), 1.0 MiB/s, about 2 h 01 min left"),
    ],
)
def test_descriptions(done: int, total: int, speed: float, text: str) -> None:
    assert describe(done, total, speed) == text


@given(st.integers(0, 2**62), st.integers(0, 2**62), st.just(0.0) | st.floats(1e-5, 1e15))
@effort(50)
def test_any_description_is_one_short_line(done: int, total: int, speed: float) -> None:
    text = describe(done, total, speed)
    assert text.isprintable()
    assert len(text) < 120
    assert ("left" in text) == (speed > 0 and total > done)


class Broken(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, _text: str) -> int:
        raise self.error


@pytest.mark.parametrize("stderr", [Broken(OSError(28, "full")), Broken(ValueError("closed file")), None])
def test_telling_never_fails(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO | None) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    write_line("nobody hears this")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("mode", "quiet", "terminal", "kind"),
    [
        ("auto", False, True, BarTeller),
        ("auto", True, True, LineTeller),
        ("auto", False, False, LineTeller),
        ("bar", True, False, BarTeller),
        ("lines", False, True, LineTeller),
        ("none", False, True, LineTeller),
    ],
)
def test_who_speaks(monkeypatch: pytest.MonkeyPatch, mode: str, *, quiet: bool, terminal: bool, kind: type) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    assert type(teller("tool.sif", mode, quiet=quiet)) is kind


def test_none_says_what_matters_only(capsys: pytest.CaptureFixture[str]) -> None:
    told = teller("tool.sif", "none")
    told.waiting(7, 0.0)
    told.say("a warning")
    assert re.fullmatch("stage-image: a warning\n", capsys.readouterr().err)
