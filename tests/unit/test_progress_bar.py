from __future__ import annotations

import io
import re
import sys

import pytest

from stager.progress_bar import BarTeller

MIB = 1 << 20
ERASE = "\x1b[2K"


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._patch = patch

    def isatty(self) -> bool:
        return True

    def bar(self) -> BarTeller:
        """Return a bar that is drawn here; only now, as pytest sets stderr at the beginning of each test."""
        self._patch.setattr(sys, "stderr", self)
        return BarTeller("tool.sif")

    @property
    def plain(self) -> str:
        """What was written, without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name, value in (("TERM", "xterm"), ("COLUMNS", "120"), ("LINES", "24")):
        monkeypatch.setenv(name, value)
    return Terminal(monkeypatch)


def test_nothing_is_drawn_before_there_is_something(terminal: Terminal) -> None:
    terminal.bar().close()
    assert terminal.getvalue() == ""


def test_the_bar_shows_phase_subject_and_bytes_and_goes_away(terminal: Terminal) -> None:
    told = terminal.bar()
    told.progress("resolving", 0, 0)
    told.progress("fetching", 2 * MIB, 8 * MIB)
    told.close()
    assert "fetching tool.sif" in terminal.plain
    assert "2.0/8.0 MiB" in terminal.plain
    assert terminal.getvalue().rstrip("\n").endswith(ERASE)


def test_a_bar_can_be_drawn_again(terminal: Terminal) -> None:
    told = terminal.bar()
    told.progress("fetching", 1, 2)
    told.close()
    terminal.truncate(0)
    told.progress("mounting", 2, 2)
    told.close()
    assert "mounting tool.sif" in terminal.plain


def test_lines_stay_above_the_bar(terminal: Terminal) -> None:
    told = terminal.bar()
    told.progress("fetching", 1, 2)
    told.say("going on with [the next] mirror")
    told.close()
    assert "stage-image: going on with [the next] mirror\n" in terminal.plain


def test_a_long_line_is_left_whole(terminal: Terminal) -> None:
    told = terminal.bar()
    told.say("x" * 500)
    told.waiting(4711, 0.0)
    assert f"stage-image: {'x' * 500}\n" in terminal.plain
    assert "waiting for tool.sif: pid 4711 on " in terminal.plain


def test_an_unknown_size_draws_too(terminal: Terminal) -> None:
    told = terminal.bar()
    told.progress("fetching", 3 * MIB, 0)
    told.close()
    assert "3.0/? MiB" in terminal.plain
