"""However many tasks ask at a time, the image leaves its origin once, and nobody sees a part of it."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import Tasks, all_but_one_wait, all_end, held, image, published, told, until

if TYPE_CHECKING:
    from pathlib import Path

CROWD = 64

IN_A_JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NUM_NODES": "1"}

HASH = ("--", "sh", "-c", 'sha256sum < "$STAGE_IMAGE_PATH"')


@pytest.mark.parametrize(("job", "size"), [({}, CROWD // 2), (IN_A_JOB, CROWD)], ids=["no-job", "job"])
def test_a_crowd_on_an_empty_store(tmp_path: Path, store_path: Path, job: dict[str, str], size: int) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path, **job) as tasks:
        url = origin.put("/tool.sqsh", content)
        crowd = tasks.many(size, url)
        all_end(crowd)
        assert [(r.method, r.status, r.sent) for r in origin.requests] == [("GET", 200, len(content))]
    assert {task.answer for task in crowd} == {str(published(store_path, content))}
    assert published(store_path, content).read_bytes() == content
    assert not list((store_path / "partial").glob("*/*"))


def test_every_task_runs_on_the_whole_image(tmp_path: Path) -> None:
    """Each hashes what it was given at the moment that it is given it."""
    content = image(4 << 20)
    stall = Stall(1 << 20)
    with Origin() as origin, Tasks(tmp_path, **IN_A_JOB) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(stall=stall, times=1))
        crowd = tasks.many(16, "exec", "--runtime=none", "--mount=none", url, *HASH)
        all_but_one_wait(crowd)
        assert stall.reached.wait(30)
        assert {task.out for task in crowd} == {""}
        stall.go.set()
        all_end(crowd)
        assert len(origin.requests) == 1
    assert {task.answer for task in crowd} == {f"{sha256(content).hexdigest()}  -"}


def test_nothing_appears_before_the_last_byte(tmp_path: Path, store_path: Path) -> None:
    content = image(2 << 20)
    stall = Stall(len(content) - 1)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(stall=stall))
        task = tasks.start(url)
        assert stall.reached.wait(30)
        until(lambda: held(store_path) == len(content) - 1, "all bytes but one")
        assert not list((store_path / "images").glob("sha256/*/*"))
        stall.go.set()
        assert task.done() == 0
    assert published(store_path, content).read_bytes() == content


def test_a_task_that_comes_in_the_middle_waits_like_all_others(tmp_path: Path) -> None:
    content = image()
    stall = Stall(len(content) // 2)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", content, Fault(stall=stall))
        leader = tasks.start(url)
        assert stall.reached.wait(30)
        late = [*tasks.many(2, url), *tasks.many(2, "--json", url), *tasks.many(2, f"{url}#part-that-no-server-sees")]
        told(late)
        stall.go.set()
        all_end([leader, *late])
        assert len(origin.requests) == 1


def test_several_references_at_a_time_do_not_wait_for_each_other(tmp_path: Path, store_path: Path) -> None:
    slow, quick = image(seed=1), image(seed=2)
    stall = Stall(1000)
    with Origin() as origin, Tasks(tmp_path) as tasks:
        waiting = tasks.start(origin.put("/slow.sqsh", slow, Fault(stall=stall)))
        assert stall.reached.wait(30)
        assert tasks.run(origin.put("/quick.sqsh", quick)).answer == str(published(store_path, quick))
        assert waiting.running
        stall.go.set()
        assert waiting.done() == 0


def test_two_references_of_the_same_bytes_are_one_image(tmp_path: Path, store_path: Path) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path) as tasks:
        urls = [origin.put(f"/{n}.sqsh", content) for n in range(4)]
        crowd = [tasks.start(url) for url in urls * 2]
        all_end(crowd)
        assert sorted(request.path for request in origin.requests) == [f"/{n}.sqsh" for n in range(4)]
    assert {task.answer for task in crowd} == {str(published(store_path, content))}


def test_a_file_on_a_shared_file_system_is_read_once(tmp_path: Path, store_path: Path) -> None:
    content = image(8 << 20)
    shared = tmp_path / "shared.sqsh"
    shared.write_bytes(content)
    with Tasks(tmp_path) as tasks:
        crowd = tasks.many(8, str(shared))
        all_end(crowd)
    assert {task.answer for task in crowd} == {str(published(store_path, content))}
    assert sum("staged shared.sqsh: 8.0 MiB" in task.err for task in crowd) == 1


def test_a_later_task_of_the_job_asks_nobody(tmp_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path, **IN_A_JOB) as tasks:
        url = origin.put("/tool.sqsh", image())
        first, *later = [tasks.run(*words, url) for words in ((), (), ("--json",), ("path",))]
        assert len(origin.requests) == 1
        assert later[0].answer == first.answer
        all_end(later)
