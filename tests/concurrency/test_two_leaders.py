"""Locks are an optimisation: where they hold nobody back, several download, and one whole image results."""

from __future__ import annotations

import contextlib
from hashlib import sha256
from pathlib import Path

from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import Tasks, all_end, image, published

LAWLESS = {"STAGE_IMAGE_TEST_NO_LOCKS": "1", "SLURM_JOB_ID": "1"}
CROWD = 8


def anarchy(store: Path, origin: Origin, count: int) -> None:
    """Take away the notes by which tasks know of each other, until so many requests have come."""
    for _ in range(10_000):
        for note in (store / "locks").glob("[!.]*.leader*"):  # the FIFO too, whose reader would not look again soon
            note.unlink(missing_ok=True)
        with contextlib.suppress(TimeoutError):
            origin.wait_for(count, 0.005)
            return
    raise AssertionError(f"only {len(origin.requests)} of {count} requests came")


def test_everybody_downloads_and_one_image_results(tmp_path: Path, store_path: Path) -> None:
    content = image(3 << 20)
    stall = Stall(1 << 20)
    with Origin() as origin, Tasks(tmp_path, **LAWLESS) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(stall=stall))
        crowd = tasks.many(CROWD, url)
        anarchy(store_path, origin, len(crowd))
        stall.go.set()
        all_end(crowd)
        assert len(origin.requests) == CROWD
    assert {task.answer for task in crowd} == {str(published(store_path, content))}
    assert published(store_path, content).read_bytes() == content
    assert [path.name for path in (store_path / "images").glob("sha256/*/*")] == [sha256(content).hexdigest()]
    assert not list((store_path / "partial").glob("*/*"))


def test_a_job_runs_one_digest_even_if_each_leader_meets_another_version(tmp_path: Path, store_path: Path) -> None:
    stall = Stall(1000)
    with Origin() as origin, Tasks(tmp_path, **LAWLESS) as tasks:
        for n in range(CROWD):
            origin.put(f"/{n}.sqsh", image(seed=n), Fault(stall=stall))
        url = origin.put("/tool.sqsh", b"", *(Fault(location=f"/{n}.sqsh", times=1) for n in range(CROWD)))
        crowd = tasks.many(CROWD, url)
        anarchy(store_path, origin, 2 * CROWD)
        stall.go.set()
        all_end(crowd)
    assert len({task.answer for task in crowd}) == 1
    images = list((store_path / "images").glob("sha256/*/*/image.sqsh"))
    assert Path(crowd[0].answer) in images
    for path in images:
        assert sha256(path.read_bytes()).hexdigest() == path.parent.name


def test_all_leaders_are_killed_but_one(tmp_path: Path, store_path: Path) -> None:
    content = image(3 << 20)
    stall = Stall(1 << 20)
    with Origin() as origin, Tasks(tmp_path, **LAWLESS) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(stall=stall))
        crowd = tasks.many(4, url)
        anarchy(store_path, origin, len(crowd))
        for task in crowd[1:]:
            task.kill()
        stall.go.set()
        all_end(crowd[:1])
        assert tasks.run(url).answer == crowd[0].answer == str(published(store_path, content))
        assert len(origin.requests) == len(crowd)
