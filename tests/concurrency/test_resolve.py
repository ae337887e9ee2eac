"""`stage-image resolve`: what a reference means now, with as little traffic as can be."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Fault, Origin
from tests.support.tasks import Tasks, all_end, image, published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT, OTHER = image(100_000), image(100_000, seed=2)
DIGEST, OTHERS = sha256(CONTENT).hexdigest(), sha256(OTHER).hexdigest()


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def tasks(tmp_path: Path, store_path: Path) -> Iterator[Tasks]:
    with Tasks(tmp_path, STAGE_IMAGE_STORE=str(store_path)) as tasks:
        yield tasks


def declared(content: bytes) -> Fault:
    digest = b64encode(sha256(content).digest()).decode()
    return Fault(headers=(("Repr-Digest", f"sha-256=:{digest}:"),))


def how(tasks: Tasks, *words: str) -> tuple[str, str]:
    """Return how it was found, and the digest."""
    task = tasks.run("resolve", "--json", *words)
    assert task.done() == 0, task.err
    answer = json.loads(task.out)
    assert answer["reference"].endswith(f"@{answer['digest']}")
    return answer["how"], answer["digest"].removeprefix("sha256:")


def test_a_pin_is_the_answer(tasks: Tasks, tmp_path: Path) -> None:
    pinned = f"https://nowhere.invalid/x.sif@sha256:{DIGEST}"
    assert tasks.run("resolve", pinned).answer == pinned
    assert tasks.run("resolve", f"x@sha256:{DIGEST}").answer == f"{tmp_path}/x@sha256:{DIGEST}"


def test_an_origin_that_states_the_digest_sends_no_image(origin: Origin, tasks: Tasks, store_path: Path) -> None:
    url = origin.put("/a.sqsh", CONTENT, declared(CONTENT))
    assert how(tasks, url) == ("declared", DIGEST)
    assert (len(origin.requests), origin.sent("/a.sqsh")) == (1, 1)
    assert origin.requests[0].headers["want-repr-digest"] == "sha-256=10"
    assert not published(store_path, CONTENT).exists()


def test_a_redirect_leads_to_the_one_who_knows(origin: Origin, tasks: Tasks) -> None:
    there = origin.put("/there", CONTENT, declared(CONTENT))
    here = origin.put("/here", b"", Fault(location=there, headers=declared(OTHER).headers))
    assert tasks.run("resolve", here).answer == f"{here}@sha256:{DIGEST}"


def test_otherwise_it_is_staged_and_then_known(origin: Origin, tasks: Tasks, store_path: Path) -> None:
    url = origin.put("/a.sqsh", CONTENT)
    assert tasks.run("resolve", url).answer == f"{url}@sha256:{DIGEST}"
    assert published(store_path, CONTENT).exists()
    sent = origin.sent("/a.sqsh")
    assert how(tasks, url) == ("known", DIGEST)
    assert (origin.requests[-1].status, origin.sent("/a.sqsh")) == (304, sent)


def test_a_new_image_is_noticed_at_once(origin: Origin, tasks: Tasks) -> None:
    url = origin.put("/a.sqsh", CONTENT)
    assert tasks.run(url).done() == 0  # pins the session for a minute
    origin.put("/a.sqsh", OTHER)
    assert how(tasks, url) == ("staged", OTHERS)


def test_a_jobs_pin_is_not_for_those_it_submits(origin: Origin, tasks: Tasks) -> None:
    url, job = origin.put("/a.sqsh", CONTENT), {"SLURM_JOB_ID": "7"}
    assert tasks.run(url, env=job).done() == 0
    origin.put("/a.sqsh", OTHER)
    assert tasks.run("resolve", url, env=job).answer == f"{url}@sha256:{OTHERS}"


def test_an_origin_that_is_away(origin: Origin, tasks: Tasks) -> None:
    url = origin.put("/a.sqsh", CONTENT)
    assert how(tasks, url)[0] == "staged"
    origin.put("/a.sqsh", CONTENT, Fault(status=503))
    assert how(tasks, url) == ("staged", DIGEST)
    refused = tasks.run("resolve", "--offline=refuse", "--deadline=1s", url)
    assert (refused.done(), refused.out) == (68, "")


@pytest.mark.parametrize(("status", "code"), [(404, 66), (403, 67)])
def test_an_origin_that_refuses(origin: Origin, tasks: Tasks, status: int, code: int) -> None:
    url = origin.put("/a.sqsh", CONTENT, Fault(status=status))
    refused = tasks.run("resolve", url)
    assert (refused.done(), refused.out, len(origin.requests)) == (code, "", 1)
    assert url in refused.err


def test_a_file_is_read_once(tasks: Tasks, tmp_path: Path, store_path: Path) -> None:
    file = tmp_path / "a.sqsh"
    file.write_bytes(CONTENT)
    assert tasks.run("resolve", "a.sqsh").answer == f"{file}@sha256:{DIGEST}"
    assert how(tasks, f"file://{file}") == ("known", DIGEST)
    file.write_bytes(OTHER)
    assert how(tasks, str(file)) == ("hashed", OTHERS)
    assert not published(store_path, CONTENT).exists()


def test_a_file_without_a_store(tasks: Tasks, tmp_path: Path) -> None:
    (tmp_path / "a.sqsh").write_bytes(CONTENT)
    for _ in range(2):
        task = tasks.run("resolve", "--json", "a.sqsh", env={"STAGE_IMAGE_STORE": "/proc/nowhere"})
        assert json.loads(task.out)["how"] == "hashed", task.err


def test_a_file_that_is_no_image(tasks: Tasks, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>" * 1000)
    assert tasks.run("resolve", "page.html").done() == 72
    assert tasks.run("resolve", "nope").done() == 66


def test_many_at_a_time_stage_it_once(origin: Origin, tasks: Tasks) -> None:
    url = origin.put("/a.sqsh", CONTENT)
    started = [tasks.start("resolve", url) for _ in range(6)]
    all_end(started)
    assert {task.answer for task in started} == {f"{url}@sha256:{DIGEST}"}
    whole = [request for request in origin.seen("/a.sqsh") if request.sent > 1]
    assert len(whole) == 1
