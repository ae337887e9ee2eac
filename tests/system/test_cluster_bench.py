"""The cluster's benchmarks can be run; what they measure is for a quiet machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.tasks import ROOT

pytestmark = pytest.mark.needs("root", "netns", "zookeeper", "nginx", "curl")


def test_a_quick_run_fills_its_rows() -> None:
    command = [sys.executable, "-m", "tests.bench.cluster", "--quick", "--rounds=1", "healthy", "killed", "origin"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 3
    assert done.stdout.count("round 1:") == 3
    assert "the origin sent 1.0" in done.stdout
    assert "the origin sent 3.0" in done.stdout
