"""Cluster scope by real processes on one machine: several stores, a real ZooKeeper, no namespaces."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import Fault, Stall
from tests.support.origin import Origin
from tests.support.tasks import Tasks, all_end, image, published, until
from tests.support.zookeeper import Servers, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.needs("zookeeper")]

SIZE = 3 << 20


class Nodes:
    """Stores that stand for nodes; what runs there leaves nothing behind."""

    def __init__(self, tasks: list[Tasks], origin: Origin, url: str) -> None:
        self.tasks = tasks
        self.origin = origin
        self.url = url

    def store(self, number: int) -> Path:
        return Path(self.tasks[number].environ()["STAGE_IMAGE_STORE"])

    def sent(self) -> int:
        """Bytes of bodies that left the origin."""
        return self.origin.sent("/tool.sqsh")


@contextmanager
def nodes(tmp_path: Path, count: int, *, zookeeper: str = "", content: bytes = b"", **settings: str) -> Iterator[Nodes]:
    with ExitStack() as stack:
        hosts = zookeeper or stack.enter_context(Servers()).hosts
        origin = stack.enter_context(Origin())
        origin.put("/tool.sqsh", content or image(SIZE))
        common = {"STAGE_IMAGE_CLUSTER_ZOOKEEPER": hosts, "SLURM_JOB_ID": "7", "STAGE_IMAGE_CLUSTER_LINGER": "0s"}
        tasks = []
        for number in range(count):
            folder = tmp_path / f"node{number}"
            folder.mkdir()
            own = {"SLURM_NODEID": str(number), "STAGE_IMAGE_STORE": str(folder / "store")}
            tasks.append(stack.enter_context(Tasks(folder, **{**common, **own, **settings})))
        yield Nodes(tasks, origin, origin.url("/tool.sqsh"))
        until(lambda: not relays(tmp_path), "the relays' end")


def relays(tmp_path: Path) -> list[int]:
    """Return the processes that work in a store below `tmp_path`."""
    found = []
    for name in os.listdir("/proc"):
        try:
            environ = Path(f"/proc/{name}/environ").read_bytes() if name.isdigit() else b""
        except OSError:
            continue
        if f"STAGE_IMAGE_STORE={tmp_path}/node".encode() in environ:
            found.append(int(name))
    return found


def test_the_shared_transport_keeps_one_copy(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    content = image(SIZE)
    with nodes(
        tmp_path, 3, content=content, STAGE_IMAGE_CLUSTER_TRANSPORT="shared", STAGE_IMAGE_CLUSTER_SHARED_DIR=str(shared)
    ) as site:
        waiting = [tasks.start(site.url) for tasks in site.tasks]
        all_end(waiting)
        assert {task.answer for task in waiting} == {str(published(shared, content))}
        assert site.sent() == len(content)
        assert [list((site.store(number) / "images" / "sha256").iterdir()) for number in range(3)] == [[], [], []]
        late = site.tasks[0].start(site.url, env={"SLURM_JOB_ID": "8"})
        all_end([late])
        assert site.sent() == len(content), "the origin says that it is current, and the copy is found"


def test_enough_nodes_are_waited_for(tmp_path: Path) -> None:
    with nodes(tmp_path, 2) as site:
        first = site.tasks[0].start("--min-nodes", "2", "--deadline", "60s", site.url)
        until(lambda: list((site.store(0) / "images" / "sha256").glob("*/*/image.json")), "the first node's image")
        assert first.running
        second = site.tasks[1].start("--min-nodes", "2", site.url)
        all_end([first, second])


def test_too_few_nodes_are_told(tmp_path: Path) -> None:
    with nodes(tmp_path, 1, STAGE_IMAGE_STALL_TIMEOUT="0.1") as site:
        task = site.tasks[0].start("--min-nodes", "2", "--deadline", "1s", site.url)
        assert task.done() == 86
        assert "1 of 1 nodes have the image; 2 are wanted" in task.err
        assert site.tasks[0].start(site.url).done() == 0, "who wants it on one node gets it"


@pytest.mark.parametrize("policy", ["node", "fail"])
def test_without_zookeeper_it_goes_by_policy(tmp_path: Path, policy: str) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with nodes(
        tmp_path,
        2,
        zookeeper=nowhere,
        STAGE_IMAGE_CLUSTER_ON_FAILURE=policy,
        STAGE_IMAGE_CLUSTER_CONNECT_TIMEOUT="1s",
    ) as site:
        tasks = [node.start(site.url) for node in site.tasks for _ in range(2)]
        assert {task.done() for task in tasks} == {0 if policy == "node" else 85}
        said = "".join(task.err for task in tasks)
        if policy == "node":
            assert said.count("goes on alone") == 2, "one warning on each node"
        assert nowhere in said


def test_a_private_image_is_not_relayed_to_strangers(tmp_path: Path) -> None:
    content = image(SIZE)
    token = tmp_path / "token"
    token.write_text("s3cret")
    token.chmod(0o600)
    with nodes(tmp_path, 2, content=content, STAGE_IMAGE_TOKEN_FILE=str(token)) as site:
        begun = time.monotonic()
        tasks = [node.start(site.url) for node in site.tasks]
        all_end(tasks)
        assert time.monotonic() - begun < 20
        assert "private" in "".join(task.err for task in tasks)
        assert [published(site.store(number), content).exists() for number in range(2)] == [True, True]


def test_an_image_that_everybody_has_is_asked_for_once(tmp_path: Path) -> None:
    with nodes(tmp_path, 3) as site:
        all_end([node.start(site.url) for node in site.tasks])
        before = len(site.origin.requests)
        all_end([node.start(site.url, env={"SLURM_JOB_ID": "8"}) for node in site.tasks])
        asked = site.origin.requests[before:]
        assert [request.status for request in asked] == [304]


def test_the_end_of_the_only_task_that_waits_ends_it(tmp_path: Path) -> None:
    """And keeps the bytes."""
    with nodes(tmp_path, 1) as site:
        stall = Stall(at=8 << 20)
        site.origin.put("/tool.sqsh", image(32 << 20), Fault(stall=stall))
        task = site.tasks[0].start(site.url)
        assert stall.reached.wait(20)
        task.kill()
        until(lambda: not relays(tmp_path), "the relay's end", patience=30)
        stall.go.set()
        assert [folder.name.startswith("left.") for folder in (site.store(0) / "partial").glob("*/*")] == [True]


def test_the_doctor_asks_zookeeper(tmp_path: Path) -> None:
    with nodes(tmp_path, 1) as site:
        fine = site.tasks[0].run("doctor")
        assert "answers within" in fine.out
        assert "others reach this node at" in fine.out
        away = site.tasks[0].run("doctor", env={"STAGE_IMAGE_CLUSTER_ZOOKEEPER": f"127.0.0.1:{free_port()}"})
        assert "NO  cluster" in away.out
        assert away.process.returncode == 0, "images can be staged here all the same"
