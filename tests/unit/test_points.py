from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support import points

if TYPE_CHECKING:
    from pathlib import Path

WORK = """
import os, sys
sys.path.insert(0, {root!r})
from tests.support import points
points.tell(sys.argv[1])
sum(range(300_000))
import json
if not os.fork():
    os.link(sys.argv[1], sys.argv[2])
    os._exit(0)
os.wait()
"""


def test_points_are_told_of_both_sides_of_a_fork(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = [sys.executable, "-c", WORK.format(root=points.ROOT), str(log), str(tmp_path / "a b")]
    subprocess.run(program, check=True, timeout=20)
    parent, child = points.read(log).values()
    imported = [point.about for point in parent if point.what == "import"]
    assert imported[0] == "json"
    assert parent[-1].what == "os.fork"
    assert [(point.what, point.about) for point in child] == [("os.link", str(tmp_path / "a b"))]
    assert child[0].cpu < parent[0].cpu, "a fork counts from zero again"


def test_the_program_is_stage_image(tmp_path: Path) -> None:
    told = subprocess.run(
        [*points.PROGRAM, str(tmp_path / "log"), "--version"], capture_output=True, text=True, check=True, timeout=20
    )
    assert told.stdout.startswith("stage-image ")
    (process,) = points.read(tmp_path / "log").values()
    assert "stager.cli.main" in {point.about for point in process}
    assert not os.path.exists(tmp_path / "--version")
