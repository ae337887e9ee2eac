"""A failure is shared: one request, the same words for everybody, and tried again when it may have gone."""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import Tasks, all_but_one_wait, all_end, image, published, told, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.tasks import Task

CROWD = 64

IN_A_JOB = {"SLURM_JOB_ID": "1"}


def verdict(task: Task) -> str:
    """What a task says in the end: the error and the hint, without what it said while it waited."""
    return "".join(line for line in task.err.splitlines(keepends=True) if "waiting for" not in line)


def test_one_request_and_the_same_words_for_all(tmp_path: Path) -> None:
    stall = Stall()
    with Origin() as origin, Tasks(tmp_path, **IN_A_JOB) as tasks:
        url = origin.put("/missing.sqsh", b"", Fault(stall=stall, status=404))
        crowd = tasks.many(CROWD, url)
        all_but_one_wait(crowd)
        stall.go.set()
        all_end(crowd, 66)
        assert len(origin.requests) == 1
    assert {task.out for task in crowd} == {""}
    (words,) = {verdict(task) for task in crowd}
    assert f"error: {url} answered 404 Not Found (on " in words
    assert "try: " in words
    assert "--retry" in words


def test_with_retry_a_crowd_still_asks_once(tmp_path: Path) -> None:
    """Each wants it tried again; that it was, after each of them had come, is enough for all."""
    stall = Stall()
    with Origin() as origin, Tasks(tmp_path, **IN_A_JOB) as tasks:
        url = origin.put("/missing.sqsh", b"", Fault(status=404, times=1), Fault(stall=stall, status=404))
        assert tasks.run(url).done() == 66
        crowd = tasks.many(CROWD, "--retry", url)
        all_but_one_wait(crowd)
        stall.go.set()
        all_end(crowd, 66)
        assert len(origin.requests) == 2
    words = Counter(verdict(task) for task in crowd)
    assert len(words) == 1, words


def test_a_failure_stands_until_retry_or_back_off(tmp_path: Path, store_path: Path) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path, **IN_A_JOB) as tasks:
        url = origin.put("/late.sqsh", content, Fault(status=404, times=1))
        assert [tasks.run(url).done() for _ in range(3)] == [66, 66, 66]
        assert len(origin.requests) == 1
        assert tasks.run("--retry", url).answer == str(published(store_path, content))
        assert tasks.run(url).answer == str(published(store_path, content))
        assert len(origin.requests) == 2


def test_after_the_back_off_it_is_tried_again(tmp_path: Path, store_path: Path) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path, STAGE_IMAGE_FAILURE_BACKOFF="0.5", **IN_A_JOB) as tasks:
        url = origin.put("/late.sqsh", content, Fault(status=404, times=1))
        assert tasks.run(url).done() == 66
        until(lambda: tasks.run(url).done() == 0, "the back-off to be over")
        assert tasks.run(url).answer == str(published(store_path, content))
        assert len(origin.requests) == 2


def test_one_failure_is_no_other(tmp_path: Path, store_path: Path) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path, **IN_A_JOB) as tasks:
        assert tasks.run(origin.url("/missing.sqsh")).done() == 66
        assert tasks.run(origin.put("/there.sqsh", content)).answer == str(published(store_path, content))


def test_a_failure_of_one_job_is_that_of_the_next(tmp_path: Path) -> None:
    """The back-off spares the origin whoever asks."""
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.url("/missing.sqsh")
        for job in ("1", "2", "3"):
            assert tasks.run(url, env={"SLURM_JOB_ID": job}).done() == 66
        assert len(origin.requests) == 1


def test_a_killed_leader_is_no_failure(tmp_path: Path, store_path: Path) -> None:
    content = image()
    ends = {signal.SIGTERM: Stall(70_000), signal.SIGKILL: Stall(70_000)}
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", content, *(Fault(stall=stall, times=1) for stall in ends.values()))
        for number, stall in ends.items():
            task = tasks.start(url)
            assert stall.reached.wait(30)
            task.send(number)
            assert task.done() == -number
        assert not list((store_path / "failures").iterdir())
        assert tasks.run(url).answer == str(published(store_path, content))


def test_what_the_store_holds_is_not_kept_from_anybody_by_a_failure(tmp_path: Path, store_path: Path) -> None:
    content = image()
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", content)
        assert tasks.run(url, env={"SLURM_JOB_ID": "1"}).done() == 0
        origin.put("/tool.sqsh", content, Fault(status=404))
        assert tasks.run(url, env={"SLURM_JOB_ID": "2"}).done() == 66
        assert tasks.run(url, env={"SLURM_JOB_ID": "1"}).answer == str(published(store_path, content))


@pytest.mark.parametrize(
    ("reference", "code", "words"),
    [
        ("", 65, "the reference is empty"),
        ("s3://alpine/x", 65, "not supported"),
        ("https://user:secret@example.org/x.sif", 65, "credentials"),
        ("https://example.org/x.sif@sha256:12", 65, "64 hexadecimal digits"),
        ("/no/such/file.sif", 66, "cannot be found"),
        ("/proc", 66, "is a directory"),
        ("http://127.0.0.1:1/x.sif", 68, "cannot reach 127.0.0.1:1: Connection refused"),
    ],
)
def test_every_failure_has_a_code_a_reason_a_host_and_a_remedy(
    tmp_path: Path, reference: str, code: int, words: str
) -> None:
    with Tasks(tmp_path, STAGE_IMAGE_DEADLINE="0.2s") as tasks:
        task = tasks.run(reference)
        assert task.done() == code, task.err
        error, remedy = task.err.splitlines()[-2:]
    assert error.startswith("stage-image: error: ")
    assert words in error
    assert "(on " in error
    assert remedy.startswith("stage-image: try: ")
    assert "secret" not in task.err
    assert task.out == ""


def test_json_says_nothing_on_stdout_when_it_fails(tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        task = tasks.run("--json", "/no/such/file.sif")
    assert (task.done(), task.out) == (66, "")


def test_a_whole_crowd_fails_soon_after_its_leader(tmp_path: Path) -> None:
    """Also where each task would have had to find out by itself: the leader dies, and the next one fails."""
    stall = Stall()
    with Origin() as origin, Tasks(tmp_path, **IN_A_JOB) as tasks:
        url = origin.put("/missing.sqsh", b"", Fault(stall=stall, times=1), Fault(status=404))
        leader = tasks.start(url)
        assert stall.reached.wait(30)
        others = tasks.many(8, url)
        told(others)
        leader.kill()
        all_end(others, 66)
        assert len(origin.requests) == 2
