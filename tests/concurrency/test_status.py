"""`stage-image status` asks ZooKeeper and real coordinators, here of members that are made up."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

import pytest

from stager.cli.clustering import owner, staging_id
from stager.clock import SystemClock
from stager.coordinator import Coordinator
from stager.process import ProcessIdentity, boot_id, current
from stager.reference import parse
from stager.relay.secret import Guard, Secret
from stager.relay.server import Server
from stager.store import files
from stager.store.memory import LeaderNote
from tests.support.tasks import Tasks, image, published, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stager.election.zookeeper import ZooKeeperRendezvous
    from tests.support.tasks import Task

pytestmark = pytest.mark.needs("zookeeper")

URL = "https://images.example.org/tools/app.sqsh"
SIZE = 12 << 30
CHUNK = 1 << 18
RATE = 1 << 30


class MadeUp:
    """A real coordinator at a real relay, with members that are made up; its time stands still when nothing is told."""

    def __init__(self, url: str = URL) -> None:
        self.key = parse(url).key
        self.staging = staging_id("", owner(), self.key, "")
        self.secret = Secret.new()
        self.coordinator = Coordinator(self.staging, url)
        self.now = 100.0
        self.lock = threading.Lock()
        self.server = Server("127.0.0.1", guard=Guard(self.secret, SystemClock()), log=lambda _: None)
        self.upstreams: dict[str, str | None] = {}
        self.url = url

    @property
    def record(self) -> dict[str, str]:
        about = {"host": "n0001", "reference": self.url, "key": self.key, "staging": self.staging}
        return {"address": self.server.address, "secret": self.secret.hex, **about}

    def join(self, count: int, scope: str = "slurm-1234", first: int = 0) -> None:
        for i in range(first, first + count):
            name = f"n{i + 1:04}"
            where = {"host": f"{name}.cluster.example", "address": f"10.0.{i >> 8}.{i & 255}:21940", "order": i}
            since = time.time() - 80
            self.say("join", node=f"{name}/{1000 + i}", scope=scope, offset=0, generation=None, since=since, **where)

    def report(self, offset: Callable[[int], int], state: Callable[[int], str] = lambda _: "receiving") -> None:
        """Let each member report; `offset` and `state` by its place."""
        self.now += 1.0
        version = {"etag": "e", "modified": "", "size": SIZE, "origin": "images.example.org", "private": False}
        for i, name in enumerate(list(self.upstreams)):
            said: dict[str, object] = {
                "generation": 1,
                "offset": offset(i),
                "silence": 0,
                "lost": None,
                "downstream": 1,
            }
            said |= {"digest": None, "root": None, "error": None, "version": version if not i else None}
            self.say("report", node=name, state=state(i), upstream=self.upstreams[name], **said)

    def say(self, verb: str, node: str, **message: object) -> None:
        answer: Any = self._answer(verb, {"node": node, **message, "version": message.get("version")})
        upstream = answer["upstream"]
        named = {"origin": "origin", "node": upstream["node"], "wait": None}
        self.upstreams[node] = named[upstream["kind"]]

    def _answer(self, verb: str, message: dict[str, object]) -> dict[str, Any]:
        with self.lock:
            return self.coordinator.answer(verb, message, self.now)

    def __enter__(self) -> Self:
        self.server.start()
        self.server.control(self.staging, self._answer)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()


@pytest.fixture
def tasks(tmp_path: Path, zookeeper: Any, cluster: str) -> Iterator[Tasks]:  # noqa: ANN401
    settings = {"STAGE_IMAGE_CLUSTER_ZOOKEEPER": zookeeper.hosts, "STAGE_IMAGE_CLUSTER_NAME": cluster}
    with Tasks(tmp_path, **settings) as started:
        yield started


@pytest.fixture
def rendezvous(meet: Any) -> ZooKeeperRendezvous:  # noqa: ANN401
    met: ZooKeeperRendezvous = meet(owner=owner())
    return met


@pytest.fixture
def crowd(rendezvous: ZooKeeperRendezvous) -> Iterator[MadeUp]:
    """A thousand members: 28 have it, 2 have just come, one is slow."""
    with MadeUp() as made_up:
        made_up.join(998)
        for second in range(1, 5):
            made_up.report(lambda i, s=second: offset(i, s), lambda i: "done" if i >= 970 else "receiving")  # type: ignore[misc]
        made_up.join(2, scope="slurm-99", first=998)
        assert rendezvous.claim(made_up.staging, json.dumps(made_up.record).encode())
        yield made_up


def offset(place: int, seconds: int) -> int:
    if place >= 970:
        return SIZE
    rate = RATE // 50 if place == 17 else RATE
    return max(0, rate * seconds - place * 4 * CHUNK) // CHUNK * CHUNK


def answer_of(task: Task, code: int = 0) -> Any:  # noqa: ANN401 - JSON is what it is
    assert task.done() == code, task.err
    return json.loads(task.out)


def claim(rendezvous: ZooKeeperRendezvous, made_up: MadeUp, **about: str) -> None:
    assert rendezvous.claim(made_up.staging, json.dumps({**made_up.record, **about}).encode())


def test_a_thousand_nodes_in_a_dozen_lines(tasks: Tasks, crowd: MadeUp) -> None:
    task = tasks.run("status", env={"COLUMNS": "80"})
    assert task.process.returncode == 0, task.err
    lines = task.out.splitlines()
    assert lines[0] == URL
    assert "12.0 GiB, since" in lines[1]
    assert lines[2] == "  1000 nodes: 1 leads, 969 receive, 2 wait, 28 done"
    assert lines[3] == "  rate: slowest 20.5 MiB/s, median 1.0 GiB/s, fastest 1.0 GiB/s"
    assert lines[4].endswith(" until all have it")
    assert lines[5] == f"  head n0001; coordinator n0001 ({crowd.server.address})"
    assert [line.split()[0] for line in lines[7:]] == ["NODE", "n0999", "n1000", "n0018"]
    assert max(map(len, lines)) <= 80


def test_every_one_of_a_thousand(tasks: Tasks, crowd: MadeUp) -> None:
    lines = tasks.run("status", "-v", URL, env={"COLUMNS": "80"}).out.splitlines()
    assert sum(line.split()[1:2] == ["done"] for line in lines) == 28
    assert len(lines) == 7 + 1000
    assert max(map(len, lines)) <= 80


def test_a_staging_that_is_known_by_two_names_is_shown_once(
    tasks: Tasks, rendezvous: ZooKeeperRendezvous, crowd: MadeUp
) -> None:
    assert rendezvous.claim("e" * 32, json.dumps(crowd.record).encode())
    (found,) = answer_of(tasks.start("status", "--json"))
    assert (found["staging"], len(found["nodes"])) == (crowd.staging, 1000)


def test_only_what_is_asked_for(tasks: Tasks, crowd: MadeUp) -> None:
    assert "nothing is being staged" in tasks.run("status", f"{URL}.other").out
    for job in ("99", "slurm-99"):
        (found,) = answer_of(tasks.start("status", "--job", job, "--json"))
        assert {each["host"] for each in found["nodes"]} == {"n0999.cluster.example", "n1000.cluster.example"}
        assert found["counts"]["waiting"] == 2
    assert answer_of(tasks.start("status", "--job", "12", "--json")) == []


def test_json_has_all_of_it(tasks: Tasks, crowd: MadeUp) -> None:
    (found,) = answer_of(tasks.start("status", "--json"))
    assert (found["scope"], found["reference"], found["staging"]) == ("cluster", URL, crowd.staging)
    assert (found["size"], found["digest"], found["generation"]) == (SIZE, None, 1)
    assert found["coordinator"] == {"host": "n0001", "address": crowd.server.address, "problem": ""}
    assert found["counts"] == {"leads": 1, "waiting": 2, "receiving": 969, "verifying": 0, "done": 28, "failed": 0}
    assert len(found["nodes"]) == 1000
    slow = found["nodes"][17]
    assert (slow["node"], slow["scope"], slow["order"], slow["rate"]) == ("n0018/1017", "slurm-1234", 17, 21495808)
    assert slow["upstream"] == "n0017/1016"
    assert found["seconds_left"] == pytest.approx(slow["seconds_left"])


def test_nothing(tasks: Tasks) -> None:
    task = tasks.run("status")
    assert task.out.startswith("nothing is being staged in the cluster ")
    assert answer_of(tasks.start("status", "--json")) == []
    assert tasks.run("status", "--watch").done() == 0


def test_coordinators_that_do_not_answer(tasks: Tasks, rendezvous: ZooKeeperRendezvous, crowd: MadeUp) -> None:
    """One is gone, four are silent, one has another secret, one is somebody else: all are told, within the bound."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as gone:
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (silent, gone)]
        gone.close()
        odd = [
            *({"address": each} for each in (*addresses, *addresses[:1] * 3)),
            {"secret": "0" * 64},
            {"address": "x"},
            {"address": ""},
        ]
        for i, about in enumerate(odd):
            record = {**crowd.record, "reference": f"https://example.org/{i}", "staging": "", **about}
            assert rendezvous.claim(f"{i:032x}", json.dumps(record).encode())
        assert rendezvous.claim("f" * 32, b"\x1b[2J no record at all")
        begun = time.monotonic()
        task = tasks.run("status", "--json")
        assert time.monotonic() - begun < 4 * 3  # what the silent ones take one after the other
    found = {each["reference"]: each["coordinator"]["problem"] for each in answer_of(task)}
    assert found.pop(URL) == ""
    assert set(found) == {f"https://example.org/{i}" for i in range(len(odd))}
    assert all(problem.startswith(("does not answer", "cannot be asked")) for problem in found.values())
    lines = tasks.run("status", "https://example.org/none").out.splitlines()
    assert len(lines) == 1


def test_one_that_does_not_answer_is_shown_with_its_host(
    tasks: Tasks, rendezvous: ZooKeeperRendezvous, crowd: MadeUp
) -> None:
    crowd.server.close()
    task = tasks.run("status")
    assert task.process.returncode == 0
    assert task.out.startswith(f"{URL}\n  coordinator n0001 ({crowd.server.address}) does not answer: ")


def test_zookeeper_away(tasks: Tasks) -> None:
    away = {"STAGE_IMAGE_CLUSTER_ZOOKEEPER": "127.0.0.1:1", "STAGE_IMAGE_CLUSTER_CONNECT_TIMEOUT": "0.5s"}
    for words in (["status"], ["status", "--watch"], ["list", "--cluster"]):
        assert tasks.run(*words, env=away).done() == 85


def test_watch_until_all_have_it(tasks: Tasks, rendezvous: ZooKeeperRendezvous) -> None:
    with MadeUp() as few:
        few.join(2)
        few.report(lambda _: CHUNK)
        claim(rendezvous, few)
        task = tasks.start("status", "--watch")
        until(lambda: "2 nodes: 1 leads, 1 receives" in task.out or not task.running, "a first look")
        assert "\x1b" not in task.out
        few.report(lambda _: SIZE, lambda _: "done")
        assert task.done() == 0, task.err
    assert "2 nodes: 2 done" in task.out


def test_watch_in_json_is_a_line_for_each_look(tasks: Tasks, rendezvous: ZooKeeperRendezvous) -> None:
    with MadeUp() as few:
        few.join(2)
        claim(rendezvous, few)
        task = tasks.start("status", "--watch", "--json")
        until(lambda: task.out.count("\n") >= 2 or not task.running, "two looks")
        rendezvous.resign(few.staging)
        assert task.done() == 0, task.err
    looks = [json.loads(line) for line in task.out.splitlines()]
    assert [len(look[0]["nodes"]) for look in looks[:2]] == [2, 2]
    assert looks[-1] == []


def test_watch_on_a_terminal(tasks: Tasks, rendezvous: ZooKeeperRendezvous) -> None:
    """What does not fit is cut off, so that the top stays in sight; Ctrl-C ends it as a shell expects."""
    with MadeUp() as few:
        few.join(9)
        claim(rendezvous, few)
        ours, theirs = pty.openpty()
        os.set_blocking(ours, False)
        command = f"stty rows 8 cols 80; exec {sys.executable} -m stager status --watch"
        process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=tasks.environ(),
            start_new_session=True,
        )
        try:
            seen = bytearray()
            until(lambda: read(ours, seen).count(b"\x1b[2J") >= 2, "two looks")
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == -signal.SIGINT
        finally:
            process.kill()
            process.wait()
            os.close(theirs)
            os.close(ours)
    frame = seen.split(b"\x1b[2J")[1].decode().replace("\r", "").rstrip("\n").split("\n")[:7]
    assert frame[0].endswith("every 2 s, Ctrl-C ends")
    assert frame[-1].endswith("lines more")
    assert len(frame) <= 7
    assert max(map(len, frame)) <= 80


def read(fd: int, seen: bytearray) -> bytearray:
    with suppress(OSError):
        seen += os.read(fd, 1 << 16)
    return seen


def test_this_node_alone(tmp_path: Path, store_path: Path) -> None:
    path = store_path / "locks" / f"{parse(URL).key}.leader"
    note = LeaderNote(current(), time.time() - 5)
    note.phase, note.done, note.total = "pulling", 3 << 20, 12 << 20
    files.write_text(str(path), note.text())
    with Tasks(tmp_path) as tasks:
        task = tasks.run("status", URL)
        assert task.done() == 0, task.err
        lines = task.out.splitlines()
        assert lines[0] == f"on this node, {os.uname().nodename} (no cluster is configured):"
        assert lines[2] == URL
        assert lines[3].startswith(f"  pulling, 3.0 MiB of 12.0 MiB (25 %), by pid {os.getpid()} since ")
        (found,) = answer_of(tasks.run("status", "--json"))
        assert (found["scope"], found["offset"], found["size"], found["reference"]) == ("node", 3 << 20, 12 << 20, "")
        assert "nothing is being staged" in tasks.run("status", f"{URL}.other").out
        task = tasks.start("status", "--watch")
        until(lambda: "pulling" in task.out or not task.running, "a look")
        path.unlink()
        assert task.done() == 0
        assert "nothing is being staged on this node" in task.out
        assert tasks.run("list", "--cluster").done() == 64


def test_who_leads_no_more_is_not_shown(tmp_path: Path, store_path: Path, tasks: Tasks) -> None:
    dead = tasks.run("--version")
    note = LeaderNote(ProcessIdentity(dead.pid, 1, boot_id()), time.time())
    files.write_text(str(store_path / "locks" / f"{parse(URL).key}.leader"), note.text())
    with Tasks(tmp_path / "home") as alone:
        assert answer_of(alone.run("status", "--json")) == []


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["status", URL]])
def test_status_makes_no_store(tmp_path: Path, store_path: Path, words: list[str]) -> None:
    with Tasks(tmp_path) as tasks:
        assert tasks.run(*words).done() == 0
    assert not store_path.exists()


# What the nodes hold.


def test_list_cluster(tasks: Tasks, rendezvous: ZooKeeperRendezvous) -> None:
    one, other = "a" * 64, "b" * 64
    for i in range(1, 129):
        rendezvous.write_node(f"n{i:03}", f"{one}\n{other if i < 3 else ''}".encode())
    rendezvous.write_node("gpu7", f"{other}\n".encode())
    rendezvous.write_node("evil\x1b[2J", f"{one}\n\x1b[2J\n{'c' * 65}".encode())
    first, second = answer_of(tasks.start("list", "--cluster", "--json"))
    assert (first["digest"], first["folded"], len(first["nodes"])) == (f"sha256:{one}", "n[001-128]", 128)
    assert (second["digest"], second["folded"], second["here"]) == (f"sha256:{other}", "gpu7,n[001-002]", False)
    lines = tasks.run("list", "--cluster").out.splitlines()
    assert [line.split() for line in lines] == [
        ["DIGEST", "NODES", "HERE", "ON", "REFERENCE"],
        [one[:12], "128", "-", "n[001-128]", "-"],
        [other[:12], "3", "-", "gpu7,n[001-002]", "-"],
    ]


def test_list_cluster_without_any(tasks: Tasks) -> None:
    assert answer_of(tasks.start("list", "--cluster", "--json")) == []
    assert "has said that it holds an image" in tasks.run("list", "--cluster").out


@pytest.mark.parametrize("verb", ["remove", "prune"])
def test_what_is_evicted_is_made_known(
    tmp_path: Path, tasks: Tasks, rendezvous: ZooKeeperRendezvous, store_path: Path, verb: str
) -> None:
    source = tmp_path / "tool.sqsh"
    source.write_bytes(image(1 << 14))
    with Tasks(tmp_path / "home") as alone:  # the record is what this test writes
        assert alone.run(str(source), session=True).done() == 0
    host = os.uname().nodename
    digest = sha256(image(1 << 14)).hexdigest()
    rendezvous.write_node(host, digest.encode())
    (row,) = answer_of(tasks.start("list", "--cluster", "--json"))
    assert (row["nodes"], row["here"], row["references"]) == ([host], True, [str(source)])
    if verb == "prune":
        assert tasks.run("prune", "--dry-run").done() == 0
        assert rendezvous.nodes() == {host: digest.encode()}
    task = tasks.run("remove", str(source)) if verb == "remove" else tasks.run("prune")
    assert (task.done(), task.err) == (0, "")
    assert rendezvous.nodes() == {host: b""}
    assert answer_of(tasks.start("list", "--cluster", "--json")) == []


def test_an_eviction_does_not_depend_on_zookeeper(tmp_path: Path, tasks: Tasks, store_path: Path) -> None:
    """It neither fails nor waits for long for one that accepts and then says nothing."""
    source = tmp_path / "tool.sqsh"
    source.write_bytes(image(1 << 14))
    with Tasks(tmp_path / "home") as alone:
        assert alone.run(str(source), session=True).done() == 0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        zookeeper = f"127.0.0.1:{silent.getsockname()[1]}"
        patient = {"STAGE_IMAGE_CLUSTER_ZOOKEEPER": zookeeper, "STAGE_IMAGE_CLUSTER_CONNECT_TIMEOUT": "30s"}
        task = tasks.run("remove", str(source), env=patient)
        assert time.monotonic() - begun < 15
    assert task.process.returncode == 0
    assert "warning: the cluster was not told what this node holds now" in task.err
    assert not published(store_path, image(1 << 14)).exists()
