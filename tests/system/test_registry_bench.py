"""The benchmark of container images runs from end to end, tiny, and leaves nothing; its numbers are not tested."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.bench.registry import NEEDS, PAGE
from tests.support.leftovers import Traces
from tests.support.tasks import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def bench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.bench.registry", *words],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.needs(*NEEDS)
def test_a_quick_run_fills_every_line_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = bench(folder, "--quick")
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(table) in (7, 9), done.stdout  # without Charliecloud, or with it
    assert Traces("none", (str(folder),)).after_grace() == []
    assert list(folder.iterdir()) == []


@pytest.mark.needs(*NEEDS)
def test_a_quick_run_is_never_kept(tmp_path: Path) -> None:
    before = PAGE.read_bytes() if PAGE.exists() else b""
    assert bench(tmp_path, "--quick", "--write").returncode == 2
    assert (PAGE.read_bytes() if PAGE.exists() else b"") == before
