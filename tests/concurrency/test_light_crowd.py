"""One of many tasks goes the long way; the others wait by its note without importing what it needs, 100 ms of CPU each.

Who has gone it is told by Python itself: `-X importtime` lists on stderr what a process imports.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import WAITING, Tasks, all_end, image, published, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.tasks import Task

CROWD = 24

TELLING = (sys.executable, "-X", "importtime", "-m", "stager")
LONG_WAY = re.compile(r"\| +stager\.cli\.full$", re.MULTILINE)


def long_way(tasks: Sequence[Task]) -> list[Task]:
    return [task for task in tasks if LONG_WAY.search(task.err)]


def crowd_at(tasks: Tasks, url: str, store: str) -> list[Task]:
    env = {"STAGE_IMAGE_STORE": store, "SLURM_JOB_ID": "4711"}
    return [tasks.start(url, program=TELLING, env=env) for _ in range(CROWD)]


@pytest.fixture(params=["missing", "empty", "begun"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store that is not there, is an empty directory, or has been begun by somebody."""
    store = tmp_path / "new"
    if request.param != "missing":
        store.mkdir(0o700)
    if request.param == "begun":
        (store / "images").mkdir(0o700)
    return store


def test_one_of_a_crowd_on_a_new_store_goes_the_long_way(tmp_path: Path, new_store: Path) -> None:
    content = image()
    stall = Stall(len(content) // 2)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(stall=stall))
        crowd = crowd_at(tasks, url, str(new_store))
        until(lambda: sum(WAITING in task.err for task in crowd) == CROWD - 1, "all but one to wait")
        assert len(long_way(crowd)) == 1
        stall.go.set()
        all_end(crowd)
        assert len(origin.requests) == 1
    assert {task.out for task in crowd} == {f"{published(new_store, content)}\n"}
    assert new_store.stat().st_mode & 0o022 == 0


def test_who_goes_the_long_way_is_seen(tmp_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path, SLURM_JOB_ID="4711") as tasks:
        url = origin.put("/tool.sqsh", image())
        asked = [tasks.run(*words, program=TELLING) for words in ((url,), ("--json", url))]
        light = tasks.run("-X", "importtime", "-c", "import stager.cli.main", program=(sys.executable,))
    assert long_way([*asked, light]) == asked


@pytest.mark.parametrize("what", ["foreign", "open", "no parent", "relative", "unclean", "newer"])
def test_nothing_is_left_where_no_store_may_be(tmp_path: Path, what: str) -> None:
    """The entry makes nothing but what the long way would have made."""
    for name, mode in (("foreign", 0o700), ("open", 0o777), ("newer", 0o700)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    (tmp_path / "foreign" / "thesis.tex").touch()
    (tmp_path / "newer" / "VERSION").write_text("99\n")
    stores = {
        "foreign": f"{tmp_path}/foreign",
        "open": f"{tmp_path}/open",
        "no parent": f"{tmp_path}/none/at/all\n",
        "relative": "relative",
        "unclean": f"{tmp_path}/foreign/../unclean\n",
        "newer": f"{tmp_path}/newer",
    }
    before = sorted(map(str, tmp_path.rglob("*")))
    source = tmp_path / "tool.sqsh"
    source.write_bytes(image())
    with Tasks(tmp_path, STAGE_IMAGE_STORE=stores[what], SLURM_JOB_ID="1") as tasks:
        task = tasks.run(str(source))
        assert task.done() != 0, task.out
    after = {str(path) for path in tmp_path.rglob("*") if "task-" not in str(path)}
    assert sorted(after - {str(source)}) == before
