"""Locks are an optimisation: where they hold nobody back, several download, and one whole image results."""

from __future__ import annotations

import signal
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import Tasks, all_end, image, published

if TYPE_CHECKING:
    from tests.support.tasks import Task

LAWLESS = {"STAGE_IMAGE_TEST_NO_LOCKS": "1", "SLURM_JOB_ID": "1"}
CROWD = 8


def leaders(tasks: Tasks, store: Path, origin: Origin, requests: int = 1) -> list[Task]:
    """Start tasks that all lead: each is stopped once it has asked, and the note by which others know of it removed.

    The origin must not have sent a byte by then: a new leader takes what an older one has, and may need no more.
    """
    crowd: list[Task] = []
    while len(crowd) < CROWD:
        crowd.append(tasks.start(origin.url("/tool.sqsh")))
        origin.wait_for(len(crowd) * requests)
        crowd[-1].send(signal.SIGSTOP)
        crowd[-1].stops()
        for note in (store / "locks").glob("*.leader"):
            note.unlink()
    for task in crowd:
        task.send(signal.SIGCONT)
    return crowd


def test_everybody_downloads_and_one_image_results(tmp_path: Path, store_path: Path) -> None:
    content = image(3 << 20)
    stall = Stall()
    with Origin() as origin, Tasks(tmp_path, **LAWLESS) as tasks:
        origin.put("/tool.sqsh", content, Fault(stall=stall))
        crowd = leaders(tasks, store_path, origin)
        stall.go.set()
        all_end(crowd)
        assert origin.sent("/tool.sqsh") == CROWD * len(content)
    assert {task.answer for task in crowd} == {str(published(store_path, content))}
    assert published(store_path, content).read_bytes() == content
    assert [path.name for path in (store_path / "images").glob("sha256/*/*")] == [sha256(content).hexdigest()]
    assert not list((store_path / "partial").glob("*/*"))


def test_a_job_runs_one_digest_even_if_each_leader_meets_another_version(tmp_path: Path, store_path: Path) -> None:
    stall = Stall()
    with Origin() as origin, Tasks(tmp_path, **LAWLESS) as tasks:
        for n in range(CROWD):
            origin.put(f"/{n}.sqsh", image(seed=n), Fault(stall=stall))
        origin.put("/tool.sqsh", b"", *(Fault(location=f"/{n}.sqsh", times=1) for n in range(CROWD)))
        crowd = leaders(tasks, store_path, origin, requests=2)
        stall.go.set()
        all_end(crowd)
    assert len({task.answer for task in crowd}) == 1
    images = list((store_path / "images").glob("sha256/*/*/image.sqsh"))
    assert Path(crowd[0].answer) in images
    for path in images:
        assert sha256(path.read_bytes()).hexdigest() == path.parent.name


def test_all_leaders_are_killed_but_one(tmp_path: Path, store_path: Path) -> None:
    content = image(3 << 20)
    stall = Stall()
    with Origin() as origin, Tasks(tmp_path, **LAWLESS) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(stall=stall))
        crowd = leaders(tasks, store_path, origin)
        for task in crowd[1:]:
            task.kill()
        stall.go.set()
        all_end(crowd[:1])
        assert tasks.run(url).answer == crowd[0].answer == str(published(store_path, content))
        assert len(origin.requests) == CROWD
