"""A store that cannot be written, as in a node's own image or a snapshot: what it holds is served, the rest refused."""

from __future__ import annotations

import json
import subprocess
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Origin
from tests.support.tasks import Tasks, all_end, image, published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("mount")

CONTENT, OTHER = image(seed=1), image(seed=2)
PIN = f"@sha256:{sha256(CONTENT).hexdigest()}"


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        server.put("/tool.sqsh", CONTENT)
        server.put("/other.sqsh", OTHER)
        yield server


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    with Tasks(tmp_path, STAGE_IMAGE_DEADLINE="1s") as started:
        yield started


@pytest.fixture
def frozen(store_path: Path, tasks: Tasks, origin: Origin) -> Iterator[Path]:
    """A store with one image that nothing uses, mounted over itself for reading only."""
    assert tasks.run(origin.url("/tool.sqsh"), env={"SLURM_JOB_ID": "1"}, session=True).done() == 0
    origin.requests.clear()
    subprocess.run(["mount", "--bind", str(store_path), str(store_path)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(store_path)], check=True)
    yield store_path
    subprocess.run(["umount", "--lazy", str(store_path)], check=True)


def test_the_job_that_has_it_still_has_it(tasks: Tasks, frozen: Path, origin: Origin) -> None:
    for words in ((), ("--json",), ("path",)):
        task = tasks.run(*words, origin.url("/tool.sqsh"), env={"SLURM_JOB_ID": "1"})
        assert task.done() == 0, task.err
        assert str(published(frozen, CONTENT)) in task.out
    assert origin.requests == []


def test_a_pinned_reference_is_found_by_any_job(tasks: Tasks, frozen: Path, origin: Origin) -> None:
    task = tasks.run(origin.url("/tool.sqsh") + PIN, env={"SLURM_JOB_ID": "2"})
    assert (task.done(), task.answer) == (0, str(published(frozen, CONTENT))), task.err
    assert origin.requests == []


@pytest.mark.parametrize("freshness", ["job", "never"])
def test_a_new_job_takes_what_is_there_and_is_told_so(
    tasks: Tasks, frozen: Path, origin: Origin, freshness: str
) -> None:
    task = tasks.run(f"--freshness={freshness}", origin.url("/tool.sqsh"), env={"SLURM_JOB_ID": "2"})
    assert (task.done(), task.answer) == (0, str(published(frozen, CONTENT))), task.err
    assert "read-only" in task.err or "no lease can be written" in task.err


def test_a_crowd(tasks: Tasks, frozen: Path, origin: Origin) -> None:
    crowd = tasks.many(8, origin.url("/tool.sqsh"), env={"SLURM_JOB_ID": "2"})
    all_end(crowd)
    assert {task.answer for task in crowd} == {str(published(frozen, CONTENT))}


def test_a_command_runs_on_it(tasks: Tasks, frozen: Path, origin: Origin) -> None:
    command = ("--", "sh", "-c", 'sha256sum < "$STAGE_IMAGE_PATH"')
    task = tasks.run("exec", "--runtime=none", "--mount=none", origin.url("/tool.sqsh") + PIN, *command)
    assert (task.done(), task.answer) == (0, f"{sha256(CONTENT).hexdigest()}  -"), task.err


def test_what_is_not_there_is_refused(tasks: Tasks, frozen: Path, origin: Origin) -> None:
    task = tasks.run(origin.url("/other.sqsh"), env={"SLURM_JOB_ID": "2"})
    assert (task.done(), task.out) == (75, "")
    assert "Read-only file system" in task.err or "read-only" in task.err
    assert origin.requests == []


@pytest.mark.parametrize("verb", ["list", "doctor", "verify", "config"])
def test_verbs_that_only_look(tasks: Tasks, frozen: Path, verb: str) -> None:
    task = tasks.run(verb, "--json")
    assert task.done() == 0, task.err
    assert json.loads(task.out)


def test_doctor_says_that_it_is_read_only(tasks: Tasks, frozen: Path) -> None:
    store = next(row for row in json.loads(tasks.run("doctor", "--json").out) if row["name"] == "store")
    assert not store["ok"]
    assert "read-only" in store["detail"]


def test_inspect(tasks: Tasks, frozen: Path, origin: Origin) -> None:
    task = tasks.run("inspect", "--json", origin.url("/tool.sqsh"))
    assert task.done() == 0, task.err
    assert json.loads(task.out)["path"] == str(published(frozen, CONTENT))


@pytest.mark.parametrize("words", [("remove", "REF"), ("remove", "--force", "REF"), ("prune",)], ids=" ".join)
def test_verbs_that_take_away_say_that_they_cannot(
    tasks: Tasks, frozen: Path, origin: Origin, words: tuple[str, ...]
) -> None:
    task = tasks.run(*(origin.url("/tool.sqsh") if word == "REF" else word for word in words))
    assert task.done() == 75, task.err
    assert "a bug in" not in task.err
    assert published(frozen, CONTENT).exists()


def test_a_bad_image_that_cannot_be_put_aside_is_still_told(tasks: Tasks, frozen: Path) -> None:
    for mode in ("rw", "ro"):
        subprocess.run(["mount", "-o", f"remount,bind,{mode}", str(frozen)], check=True)
        if mode == "rw":
            with published(frozen, CONTENT).open("r+b") as file:
                file.write(b"nothing that was ever published")
    task = tasks.run("verify")
    assert task.done() in (75, 84), task.err
    assert "a bug in" not in task.err


def test_an_empty_place_that_cannot_be_written(tasks: Tasks, tmp_path: Path, origin: Origin) -> None:
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=0700", "tmpfs", str(place)], check=True)
    try:
        for store in (place, place / "below"):
            task = tasks.run(origin.url("/tool.sqsh"), env={"STAGE_IMAGE_STORE": str(store)})
            assert task.done() == 75
            assert "Read-only file system" in task.err
            assert str(store) in task.err
    finally:
        subprocess.run(["umount", str(place)], check=True)
