"""A container image whose leader dies at any named point, and many tasks that want it at the same time."""

from __future__ import annotations

import json
import os
import signal
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.support.registry import Registry, tar_layer
from tests.support.tasks import Tasks, all_end, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("docker-registry", "mksquashfs")

POINTS = (
    *("locked", "claimed", "written", "synced", "renamed", "committed", "pulled", "converted"),
    *("fetched", "verified", "published", "seen", "pinned", "leased"),
)
WITH_ALL_LAYERS = POINTS[POINTS.index("pulled") :]
"""Points at which every layer is in the cache."""

MADE = POINTS[POINTS.index("fetched") :]
"""Points at which the image has been made."""

LAYERS = 3


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    random = Random(6)
    with Registry() as server:
        layers = [tar_layer({f"data/{number}": random.randbytes(300_000)}) for number in range(LAYERS)]
        server.push_image("team/tool", "1", layers)
        yield server


def reference(registry: Registry) -> str:
    return f"docker://{registry.host}/team/tool:1"


def in_flight(store: Path) -> list[str]:
    """Return what is in the store that is neither an image, a layer nor a record."""
    found = [*store.glob("partial/*/*"), *store.glob("blobs/partial/*"), *store.glob("locks/*.leader")]
    return [str(path) for path in found]


@pytest.mark.parametrize("point", POINTS)
def test_the_next_call_goes_on(point: str, registry: Registry, tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        store = tmp_path / "store"
        env = {"STAGE_IMAGE_STORE": str(store)}
        dead = tasks.start(reference(registry), env={**env, "STAGE_IMAGE_TEST_CRASH_AT": point})
        assert dead.done() == -signal.SIGKILL, dead.err
        since = len(registry.log)
        task = tasks.start(reference(registry), env=env)
        assert task.done() == 0, task.err
        again = registry.asked("GET", "blobs", since)
        assert again <= (1 if point in WITH_ALL_LAYERS else LAYERS + 1), "layers that were there are fetched again"
        if point in MADE:
            assert "converting" not in task.err
        (image,) = store.glob("images/sha256/*/*/image.sqsh")
        assert task.answer == str(image)
        assert len(list(store.glob("blobs/sha256/*/*"))) == LAYERS
        for path in in_flight(store):
            os.utime(path, (1, 1))  # what is younger than a second may be somebody's who is about to go on with it
        assert tasks.start("prune", "--max-size=1TiB", env=env).done() == 0
        assert in_flight(store) == []


def test_tasks_of_two_jobs_are_one_pull(registry: Registry, tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        env = {"STAGE_IMAGE_STORE": str(tmp_path / "store")}
        since = len(registry.log)
        started = [
            tasks.start(reference(registry), env={**env, "SLURM_JOB_ID": str(job)}) for job in (1, 2) for _ in range(8)
        ]
        wait_for(started)
        all_end(started)
        assert len({task.answer for task in started}) == 1
        assert registry.asked("GET", "blobs", since) == LAYERS + 1
        assert in_flight(tmp_path / "store") == []


def test_two_images_that_share_layers_fetch_them_once(registry: Registry, tmp_path: Path) -> None:
    random = Random(7)
    shared = [tar_layer({f"data/{number}": random.randbytes(3_000_000)}) for number in range(2)]
    for tag in ("a", "b"):
        registry.push_image("team/shared", tag, [*shared, tar_layer({f"own/{tag}": tag.encode()})])
    with Tasks(tmp_path) as tasks:
        env = {"STAGE_IMAGE_STORE": str(tmp_path / "store")}
        since = len(registry.log)
        started = [tasks.start(f"docker://{registry.host}/team/shared:{tag}", env=env) for tag in ("a", "b")]
        wait_for(started)
        all_end(started)
        assert registry.asked("GET", "blobs", since) == 2 + 2 + 2, "two shared layers, an own one and a config for each"


def test_a_frozen_leader_is_passed_over(registry: Registry, tmp_path: Path) -> None:
    with Tasks(tmp_path) as tasks:
        env = {"STAGE_IMAGE_STORE": str(tmp_path / "store"), "STAGE_IMAGE_DEADLINE": "1s"}
        env |= {"STAGE_IMAGE_STALL_TIMEOUT": "1s"}
        frozen = tasks.start(reference(registry), env={**env, "STAGE_IMAGE_TEST_STOP_AT": "pulled"})
        frozen.stops()
        task = tasks.start(reference(registry), env=env)
        assert task.done() == 0, task.err
        assert "has stopped moving" in task.err
        frozen.send(signal.SIGCONT)
        assert frozen.done() == 0, frozen.err
        assert frozen.answer == task.answer


def test_what_a_tag_meant_is_known_while_its_registry_is_away(tmp_path: Path) -> None:
    with Registry() as server, Tasks(tmp_path) as tasks:
        server.push_image("team/tool", "1", [tar_layer({"a": b"b"})])
        named = reference(server)
        env = {"STAGE_IMAGE_STORE": str(tmp_path / "store")}
        first = tasks.run("resolve", named, env=env)
        assert tasks.run(named, env=env).done() == 0
        server.stop()
        again = tasks.run("resolve", "--json", named, env=env)
        assert again.done() == 0, again.err
        assert "taking what it was when last staged here" in again.err
        assert json.loads(again.out) == {
            "reference": first.answer,
            "digest": first.answer.rpartition("@")[2],
            "how": "known",
        }
        assert tasks.run("resolve", "--offline=refuse", "--deadline=1s", named, env=env).done() == 68
