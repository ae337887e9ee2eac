"""A whole cluster stages an image: one request at the origin, one digest for a job, and nothing that stays behind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from stager.errors import ClusterUnavailable
from tests.support.cluster.job import LINGER, PATIENCE, RATE, SIZE, UNDER_WAY, Job, nothing_is_left, ready
from tests.support.cluster.scenarios import Outcomes, Scenarios
from tests.support.tasks import all_end, image, published, until, wait_for

if TYPE_CHECKING:
    from pathlib import Path

scenarios = Scenarios()
outcomes = scenarios.fixture()

MOVED = 6 << 20
"""Bytes under way to a node that is sent to another one to get them; a few times, as nodes come in."""

pytestmark = pytest.mark.needs("root", "netns", "zookeeper", "nginx", "curl")


@scenarios
def eight_nodes_of_four_tasks_are_one_request(folder: Path) -> None:
    with ready(folder, 8) as job:
        job.start(tasks=4)
        job.end()
        (request,) = job.cluster.origin.requests
        assert (request.method, request.status, request.size) == ("GET", 200, len(job.content))
        assert job.egress < 1.02
        assert max(node.sent for node in job.cluster.nodes) < len(job.content) + MOVED
        again = [task for node in job.cluster.nodes for task in node.stage(job.url)]
        all_end(again)
        assert len(job.cluster.origin.requests) == 1
        nothing_is_left(job.cluster)


@scenarios
def a_job_means_one_digest_whatever_the_origin_does(folder: Path) -> None:
    with ready(folder, 3, STAGE_IMAGE_CLUSTER_LINGER="1m") as job:
        one, other, third = job.cluster.nodes
        job.start(one)
        job.end()
        changed = image(SIZE, seed=2)
        job.cluster.origin.put("tool.sqsh", changed)
        job.start(other)
        job.end()
        assert sum(request.size for request in job.cluster.origin.requests) == len(job.content)
        another = Job(job.cluster, changed, job.url, name="2")
        another.start(third)
        another.end()


@scenarios
def who_comes_in_the_middle_and_at_the_end_is_served_by_the_others(folder: Path) -> None:
    with ready(folder, 4, STAGE_IMAGE_CLUSTER_LINGER="5s") as job:
        first, second, middle, last = job.cluster.nodes
        job.start(first, second)
        job.await_part(0.5, first, second)
        job.start(middle)
        job.end()
        job.start(last)
        job.end()
        assert len(job.cluster.origin.requests) == 1
        nothing_is_left(job.cluster, linger=5)


@scenarios
def who_comes_when_all_are_gone_asks_the_origin(folder: Path) -> None:
    with ready(folder, 2) as job:
        first, late = job.cluster.nodes
        job.start(first)
        job.end()
        nothing_is_left(job.cluster)
        job.start(late)
        job.end()
        assert [request.size for request in job.cluster.origin.requests] == [len(job.content)] * 2
        nothing_is_left(job.cluster)


@scenarios
def two_jobs_on_overlapping_nodes_share(folder: Path) -> None:
    with ready(folder, 6) as job:
        nodes = job.cluster.nodes
        other = Job(job.cluster, job.content, job.url, name="2")
        job.start(*nodes[:4])
        other.start(*nodes[2:])
        job.end()
        other.end()
        assert len(job.cluster.origin.requests) == 1
        assert job.egress < 1.02
        nothing_is_left(job.cluster)


@scenarios
def two_images_at_once_do_not_meet(folder: Path) -> None:
    with ready(folder, 4) as job:
        content = image(SIZE // 2, seed=3)
        other = Job(job.cluster, content, job.cluster.origin.put("other.sqsh", content))
        job.start()
        other.start()
        job.end(patience=PATIENCE + 5)
        other.end(patience=PATIENCE + 5)
        for path, size in (("/other.sqsh", len(content)), ("/tool.sqsh", len(job.content))):
            served = sum(request.size for request in job.cluster.origin.requests if request.path == path)
            assert size <= served < 1.05 * size + UNDER_WAY
        assert job.cluster.origin.host.sent < 1.05 * (len(content) + len(job.content))
        nothing_is_left(job.cluster)


@scenarios
def strangers_get_nothing(folder: Path) -> None:
    with ready(folder, 3) as job:
        one, other, stranger = job.cluster.nodes
        job.start(one, other)
        job.await_part(0.3)
        head = job.head()
        (port,) = head.host.listening()
        (staging,) = {path.rpartition("/")[2] for path in job.cluster.zookeeper.paths() if "/stagings/" in path}
        for path in ("image", "chunks"):
            url = f"http://{head.address}:{port}/v1/{staging}/1/{path}"
            curl = stranger.start("curl", "-s", "-o", "answer", "-w", "%{http_code}", url)
            assert curl.done() == 0
            assert curl.out == "403"
            assert (stranger.host.folder / "answer").read_bytes() == b""
        job.end()
        (log,) = head.store.glob("locks/*.relay.log")
        told = [line for line in log.read_text().splitlines() if "refused a request" in line]
        assert [stranger.address in line for line in told] == [True, True]


CROWD = """\
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
crowd = []
for _ in range(600):
    try: crowd.append(socket.create_connection((sys.argv[1], int(sys.argv[2])), 5))
    except OSError: pass
print("there", flush=True)
sys.stdin.read() or __import__("time").sleep(1000)
"""


@scenarios
def a_crowd_of_idle_strangers_does_not_keep_the_others_out(folder: Path) -> None:
    with ready(folder, 4) as job:
        *nodes, stranger = job.cluster.nodes
        # The crowd fills what the process may open at all.
        words = ("sh", "-c", 'ulimit -n 256; exec "$0" -m stager "$1"')
        job.start_by(words, nodes[0])
        job.await_part(0.1, nodes[0])
        (port,) = nodes[0].host.listening()
        crowd = stranger.python(CROWD, nodes[0].address, str(port))
        until(lambda: "there" in crowd.out, "the crowd")
        job.start(*nodes[1:])
        job.end()
        assert job.egress < 1.05
        nothing_is_left(job.cluster, dead=[stranger])


@scenarios
def without_zookeeper_every_node_is_on_its_own_and_says_so(folder: Path) -> None:
    with ready(folder, 3) as job:
        job.cluster.zookeeper.kill()
        job.start(tasks=2)
        job.end(patience=PATIENCE + 3 * SIZE / (RATE * 125_000))
        assert len(job.cluster.origin.requests) == 3
        for tasks in job.tasks.values():
            lines = [line for task in tasks for line in task.err.splitlines() if "goes on alone" in line]
            assert len(lines) == 1
            assert "ZooKeeper" in lines[0]
        assert [line for node in job.cluster.nodes for line in node.leftovers()] == []


@scenarios
def a_site_may_prefer_to_fail_without_zookeeper(folder: Path) -> None:
    with ready(folder, 2, STAGE_IMAGE_CLUSTER_ON_FAILURE="fail") as job:
        job.cluster.zookeeper.kill()
        began = time.monotonic()
        job.start(tasks=2)
        for tasks in job.tasks.values():
            assert set(wait_for(tasks)) == {ClusterUnavailable.exit_code}
        assert time.monotonic() - began < PATIENCE
        assert job.cluster.origin.requests == []
        assert [line for node in job.cluster.nodes for line in node.leftovers()] == []


@scenarios
def zookeeper_that_says_nothing_is_given_up(folder: Path) -> None:
    with ready(folder, 1) as job:
        job.cluster.zookeeper.freeze()
        job.start()
        job.end()
        (node,) = job.cluster.nodes
        assert "goes on alone" in job.tasks[node][0].err
        assert published(node.store, job.content).exists()
        job.cluster.zookeeper.thaw()
        nothing_is_left(job.cluster, linger=LINGER)


@pytest.mark.parametrize("scenario", scenarios.names)
def test_staging(scenario: str, outcomes: Outcomes) -> None:
    outcomes[scenario].result()
