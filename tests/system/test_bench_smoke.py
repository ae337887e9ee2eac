"""The benchmarks run, from end to end, and leave nothing behind; that their numbers mean anything is not tested."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.bench.__main__ import NEEDS, PARTS, main
from tests.support.leftovers import Traces
from tests.support.tasks import ROOT, until

if TYPE_CHECKING:
    from pathlib import Path


def bench(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench", *words],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def nothing_is_left(folder: Path) -> None:
    assert Traces("none", (str(folder),)).after_grace() == []
    assert list(folder.iterdir()) == []


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.mark.needs(*NEEDS)
def test_a_quick_run_fills_every_line_and_leaves_nothing(disk: Path) -> None:
    text, log = bench(disk, "--quick").communicate(timeout=55)
    assert "not measured" not in text, (text, log)
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 13, text
    assert [line.split()[1] for line in log.splitlines() if line.startswith("bench: ")] == list(PARTS)
    nothing_is_left(disk)


@pytest.mark.needs(*NEEDS)
def test_a_run_that_is_told_to_end_leaves_nothing(disk: Path) -> None:
    process = bench(disk, "--quick", "release")
    until(lambda: list(disk.glob("stage-image-bench-*/store*/locks/*.wake")), "a download")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    nothing_is_left(disk)


def test_only_a_whole_run_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    assert main(["--quick", "--write"]) == 2
    assert main(["--write", "warm"]) == 2
    assert capsys.readouterr().err.count("whole run") == 2
    assert time.monotonic() - begun < 5
