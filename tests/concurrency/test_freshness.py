"""When the origin is asked, what it is asked, and what happens while it is away."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import Tasks, all_end, image, published, told

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = image(seed=1), image(seed=2)

AWAY = {"STAGE_IMAGE_DEADLINE": "0.3s"}
"""For origins that are not there: how long to go on hoping."""


def job(number: int) -> dict[str, str]:
    return {"SLURM_JOB_ID": str(number)}


def test_a_job_keeps_its_image_while_the_next_one_gets_the_new(tmp_path: Path, store_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", OLD)
        assert tasks.run(url, env=job(1)).answer == str(published(store_path, OLD))
        origin.put("/tool.sqsh", NEW)
        answers = [tasks.run(url, env=job(number)).answer for number in (1, 2, 1, 2)]
        assert answers == [str(published(store_path, content)) for content in (OLD, NEW, OLD, NEW)]
        assert len(origin.requests) == 2
    assert published(store_path, OLD).read_bytes() == OLD


def test_a_login_session_keeps_its_image_as_well(tmp_path: Path, store_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", OLD)
        assert tasks.run(url).answer == str(published(store_path, OLD))
        origin.put("/tool.sqsh", NEW)
        assert tasks.run(url).answer == str(published(store_path, OLD))
        # Another session, even on the same node, is another matter.
        assert tasks.run(url, session=True).answer == str(published(store_path, NEW))


def test_an_unchanged_image_costs_one_question_and_no_bytes(tmp_path: Path, store_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", OLD)
        for number in (1, 2, 3):
            assert tasks.run(url, env=job(number)).answer == str(published(store_path, OLD))
        assert [request.status for request in origin.requests] == [200, 304, 304]
        assert [request.sent for request in origin.requests] == [len(OLD), 0, 0]
        assert all(request.headers["if-none-match"] for request in origin.requests[1:])


def test_a_crowd_of_a_new_job_asks_once(tmp_path: Path, store_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", OLD)
        assert tasks.run(url, env=job(1)).done() == 0
        crowd = tasks.many(8, url, env=job(2))
        all_end(crowd)
        assert {task.answer for task in crowd} == {str(published(store_path, OLD))}
        assert [request.status for request in origin.requests] == [200, 304]


def test_always_asks_at_every_call(tmp_path: Path, store_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path, **job(1)) as tasks:
        url = origin.put("/tool.sqsh", OLD)
        assert tasks.run("--freshness=always", url).answer == str(published(store_path, OLD))
        assert tasks.run("--freshness=always", url).answer == str(published(store_path, OLD))
        origin.put("/tool.sqsh", NEW)
        assert tasks.run("--freshness=always", url).answer == str(published(store_path, NEW))
        assert [request.status for request in origin.requests] == [200, 304, 200]


def test_those_who_always_ask_do_it_together(tmp_path: Path) -> None:
    """An answer counts for whoever began before the question was asked: all who came later ask once more."""
    stall = Stall()
    with Origin() as origin, Tasks(tmp_path, **job(1)) as tasks:
        url = origin.put("/tool.sqsh", OLD, Fault(stall=stall))
        first = tasks.start("--freshness=always", url)
        assert stall.reached.wait(30)
        later = tasks.many(3, "--freshness=always", url)
        told(later)
        stall.go.set()
        all_end([first, *later])
        assert [request.status for request in origin.requests] == [200, 304]


def test_never_takes_what_is_there(tmp_path: Path, store_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path, STAGE_IMAGE_FRESHNESS="never") as tasks:
        url = origin.put("/tool.sqsh", OLD)
        assert tasks.run(url, env=job(1)).answer == str(published(store_path, OLD))
        origin.put("/tool.sqsh", NEW)
        assert tasks.run(url, env=job(2)).answer == str(published(store_path, OLD))
        assert tasks.run(url, session=True).answer == str(published(store_path, OLD))
        assert len(origin.requests) == 1


def test_the_image_goes_back_to_what_it_was(tmp_path: Path, store_path: Path) -> None:
    """Found among the images already there once its bytes have come."""
    with Origin() as origin, Tasks(tmp_path) as tasks:
        inodes = []
        for number, content in enumerate((OLD, NEW, OLD)):
            url = origin.put("/tool.sqsh", content)
            assert tasks.run(url, env=job(number)).answer == str(published(store_path, content))
            inodes.append(published(store_path, OLD).stat().st_ino)
        assert len(set(inodes)) == 1


def test_a_pinned_image_is_nobodys_question(tmp_path: Path, store_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = f"{origin.put('/tool.sqsh', OLD)}@sha256:{sha256(OLD).hexdigest()}"
        assert tasks.run(url, env=job(1)).answer == str(published(store_path, OLD))
        origin.put("/tool.sqsh", NEW)
        for words in ((), ("--freshness=always",), ("--json",)):
            assert tasks.run(*words, url, env=job(2)).done() == 0
        assert len(origin.requests) == 1
    with Tasks(tmp_path / "home", **AWAY) as tasks:
        task = tasks.run(url, env=job(3))
        assert (task.answer, task.err) == (str(published(store_path, OLD)), "")


def test_the_same_bytes_pinned_under_another_reference(tmp_path: Path, store_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path) as tasks:
        assert tasks.run(origin.put("/tool.sqsh", OLD)).done() == 0
        # Content-addressed: no request, although nobody has ever seen this URL.
        task = tasks.run(f"{origin.url('/mirror.sqsh')}@sha256:{sha256(OLD).hexdigest()}")
        assert task.answer == str(published(store_path, OLD))
        assert len(origin.requests) == 1


def test_while_the_origin_is_away_the_known_image_is_used_and_a_warning_given(tmp_path: Path, store_path: Path) -> None:
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", OLD)
        assert tasks.run(url, env=job(1)).done() == 0
    with Tasks(tmp_path / "home", **AWAY) as tasks:
        task = tasks.run(url, env=job(2))
        assert task.answer == str(published(store_path, OLD))
        assert "using the image known from before" in task.err
        # Pinned from here on, so that the job keeps to it when the origin is back.
        assert tasks.run(url, env=job(2)).err == ""
        refused = tasks.run("--offline=refuse", url, env=job(3))
        assert (refused.done(), refused.out) == (68, "")


def test_an_origin_that_is_away_and_an_unknown_image(tmp_path: Path) -> None:
    with Origin() as origin:
        url = origin.url("/tool.sqsh")
    with Tasks(tmp_path, **AWAY) as tasks:
        assert tasks.run(url).done() == 68


def test_a_crowd_waits_once_for_an_origin_that_is_away(tmp_path: Path, store_path: Path) -> None:
    """Not one after the other, each for its own deadline."""
    stall = Stall()
    env = {**job(2), "STAGE_IMAGE_FRESHNESS": "always", "STAGE_IMAGE_DEADLINE": "1s"}
    with Origin() as origin, Tasks(tmp_path, **env) as tasks:
        url = origin.put("/tool.sqsh", OLD)
        assert tasks.run(url).done() == 0
        origin.put("/tool.sqsh", OLD, Fault(stall=stall, status=503, times=1), Fault(status=503))
        leader = tasks.start(url)
        assert stall.reached.wait(30)
        others = tasks.many(3, url)
        told(others)
        stall.go.set()
        all_end([leader])
        asked = len(origin.requests)
        all_end(others)
        assert {task.answer for task in [leader, *others]} == {str(published(store_path, OLD))}
        assert len(origin.requests) == asked


@pytest.mark.parametrize("known", ["etag", "date"])
def test_what_the_origin_gives_to_tell_versions_by(tmp_path: Path, known: str) -> None:
    fault = Fault(dated=known == "date", etag="none" if known == "date" else "weak")
    with Origin() as origin, Tasks(tmp_path) as tasks:
        url = origin.put("/tool.sqsh", OLD, fault)
        for number in (1, 2):
            assert tasks.run(url, env=job(number)).done() == 0
        assert [request.status for request in origin.requests] == [200, 304]


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path: Path, store_path: Path) -> None:
    shared = tmp_path / "shared.sqsh"
    shared.write_bytes(OLD)
    with Tasks(tmp_path) as tasks:
        assert tasks.run(str(shared), env=job(1)).answer == str(published(store_path, OLD))
        inode = published(store_path, OLD).stat().st_ino
        assert tasks.run(str(shared), env=job(2)).answer == str(published(store_path, OLD))
        assert published(store_path, OLD).stat().st_ino == inode
        shared.write_bytes(NEW)
        assert tasks.run(str(shared), env=job(3)).answer == str(published(store_path, NEW))
        shared.unlink()
        assert tasks.run(str(shared), env=job(3)).answer == str(published(store_path, NEW))
        assert tasks.run(str(shared), env=job(4)).done() == 66
