"""The test bed: links have their rates, faults are what they claim to be, and nothing outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.bench.cluster_usage import Usage
from tests.support.cluster.bed import Cluster
from tests.support.tasks import ROOT, all_end, image, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.cluster.hosts import Process

pytestmark = pytest.mark.needs("root", "netns", "nginx", "curl")

MBIT = 1_000_000 / 8
SIZE = 4 << 20

LISTEN = """\
import socket, sys
listener = socket.create_server(("0.0.0.0", 4711))
print("ready", flush=True)
connection, _ = listener.accept()
connection.recv(1)
print("accepted", flush=True)
while data := connection.recv(1 << 16): pass
print("end", flush=True)
"""
CALL = """\
import socket, sys
connection = socket.create_connection((sys.argv[1], 4711), float(sys.argv[2]))
connection.sendall(b"x")
print("called", flush=True)
connection.settimeout(float(sys.argv[2]))
try:
    print("end" if connection.recv(1) == b"" else "data", flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, nodes=2, rate=100, zookeepers=0) as cluster:
        yield cluster


def test_hosts_are_apart(cluster: Cluster) -> None:
    one, other = cluster.nodes
    names = [node.start("hostname") for node in (one, other)]
    assert [name.done() for name in names] == [0, 0]
    assert [name.answer for name in names] == ["node0", "node1"]
    assert one.start("getent", "hosts", "node1").done() == 0
    sleeper = one.start("sleep", "1000")
    until(lambda: one.host.commands() == {sleeper.pid: "sleep 1000"}, "sleep to begin")
    assert other.host.pids() == []
    one.host.run("mkdir", str(one.home / "point"))
    one.host.run("mount", "-t", "tmpfs", "tmpfs", str(one.home / "point"))
    assert not os.path.ismount(one.home / "point")
    assert one.leftovers() == [
        f"node0: process {sleeper.pid}: sleep 1000",
        f"node0: mount on {one.home / 'point'}",
    ]
    assert other.leftovers() == []


def test_links_have_their_rates(cluster: Cluster) -> None:
    url = cluster.origin.put("file", os.urandom(SIZE))
    fast, slow = cluster.nodes
    slow.slow(50)
    seconds = [_seconds(cluster, [node.number], url) for node in (fast, slow)]
    assert seconds[0] == pytest.approx(SIZE / (100 * MBIT), rel=0.3)
    assert seconds[1] == pytest.approx(SIZE / (50 * MBIT), rel=0.3)
    slow.slow(100)
    assert _seconds(cluster, [0, 1], url) == pytest.approx(2 * SIZE / (100 * MBIT), rel=0.3)  # the origin's own link
    assert fast.received == pytest.approx(2 * SIZE, rel=0.05)
    assert cluster.origin.host.sent == pytest.approx(4 * SIZE, rel=0.05)
    assert cluster.origin.bytes_served == 4 * SIZE


def test_uploads_are_shaped_too(cluster: Cluster) -> None:
    one, other = cluster.nodes
    listener = one.python(LISTEN)
    until(lambda: "ready" in listener.out, "the listener")
    began = time.monotonic()
    text = f"import socket\nwith socket.create_connection(('{one.address}', 4711)) as s: s.sendall(bytes({SIZE}))"
    all_end([other.python(text), listener])
    assert time.monotonic() - began == pytest.approx(SIZE / (100 * MBIT), rel=0.4)


def test_what_is_cut_hears_nothing_until_it_is_healed(cluster: Cluster) -> None:
    one, other = cluster.nodes
    listener, caller = _connected(cluster)
    one.cut()
    other_call = other.python(CALL, one.address, "1")
    assert other_call.done() == 1
    assert "TimeoutError" in other_call.err or "timed out" in other_call.err
    assert (listener.running, caller.running) == (True, True)
    one.heal()
    listener.kill()
    assert caller.done() == 0
    assert caller.out.split() == ["called", "ConnectionResetError"] or caller.out.split() == ["called", "end"]


def test_who_is_killed_is_missed_at_once(cluster: Cluster) -> None:
    listener, caller = _connected(cluster)
    cluster.nodes[0].kill()
    assert caller.done() == 0
    assert caller.out.split() == ["called", "end"]
    assert listener.done() != 0
    again = cluster.nodes[1].python(CALL, cluster.nodes[0].address, "5")
    assert again.done() == 1
    assert "ConnectionRefusedError" in again.err


def test_who_loses_power_says_nothing(cluster: Cluster) -> None:
    _, caller = _connected(cluster, patience=1)
    cluster.nodes[0].kill(silent=True)
    assert caller.done() == 0
    assert caller.out.split() == ["called", "TimeoutError"]


def test_who_is_frozen_lives(cluster: Cluster) -> None:
    listener, caller = _connected(cluster)
    cluster.nodes[0].freeze()
    listener.stops()
    caller.kill()
    assert listener.out.split() == ["ready", "accepted"]
    cluster.nodes[0].thaw()
    assert listener.done() == 0
    assert listener.out.split() == ["ready", "accepted", "end"]


def test_a_small_disk_gets_full(cluster: Cluster) -> None:
    one, other = cluster.nodes
    one.small_disk(1 << 20)
    fill = 'head -c 2000000 /dev/zero >"$STAGE_IMAGE_STORE/file"'
    full = one.start("sh", "-c", fill)
    assert full.done() == 1
    assert "No space left" in full.err
    assert (one.host.view(one.store) / "file").stat().st_size == 1 << 20
    assert not list(one.store.iterdir())
    other.store.mkdir()
    assert other.start("sh", "-c", fill).done() == 0
    assert one.leftovers() == []


def test_the_origin_dies_comes_back_and_changes(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    url = cluster.origin.put("file", b"one")
    headers = [_headers(cluster, url)]
    cluster.origin.stop()
    assert node.start("curl", "-s", url).done() == 7  # refused
    cluster.origin.start()
    headers.append(_headers(cluster, url))
    cluster.origin.put("file", b"two")
    headers.append(_headers(cluster, url))
    assert headers[0] == headers[1]
    assert headers[1] != headers[2]
    assert [request.client for request in cluster.origin.requests] == [node.address] * 3


def test_a_program_s_end_has_its_code_and_its_number_is_its_own(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    assert node.start("sh", "-c", "exit 42").done() == 42
    sleeper = node.start("sleep", "1000")
    until(lambda: node.host.commands().get(sleeper.pid) == "sleep 1000", "sleep to begin")
    sleeper.send(signal.SIGTERM)
    assert sleeper.done() == -signal.SIGTERM
    orphan = node.start("sh", "-c", "setsid sleep 0.1 & setsid sleep 1000 &")
    assert orphan.done() == 0
    until(lambda: list(node.host.commands().values()) == ["sleep 1000"], "the first orphan to be buried")


def test_who_is_connected_to_whom_is_seen(cluster: Cluster) -> None:
    one, other = cluster.nodes
    listener, _ = _connected(cluster)
    assert one.host.listening() == [4711]
    assert [address for address, _ in one.host.peers()[4711]] == [other.address]
    assert list(other.host.peers().values()) == [[(one.address, 4711)]]
    listener.kill()
    url = cluster.origin.put("file", os.urandom(SIZE))
    curl = other.start("curl", "-sfo", "file", url)
    until(lambda: cluster.origin.clients == {other.address}, "curl to connect")
    assert curl.done() == 0
    until(lambda: cluster.origin.clients == set(), "curl to leave")


def test_what_processes_use_is_seen(cluster: Cluster) -> None:
    one, _ = cluster.nodes
    with Usage(cluster.nodes) as usage:
        burn = "import time\nx = b'x' * (50 << 20)\nwhile time.process_time() < 1: pass"
        busy = one.python(f"{burn}\nprint('burnt', flush=True)\ntime.sleep(100)")
        until(lambda: "burnt" in busy.out, "a second of CPU")
        until(lambda: usage.cpu()[0] > 0.9, "it to be noticed")
        busy.kill()
    assert usage.cpu()[0] == pytest.approx(1, abs=0.3)
    assert usage.memory()[0] > 50 << 20
    assert (usage.cpu()[1], usage.memory()[1]) == (0, 0)
    assert 0 < usage.busy <= 1


MODULE = """\
import pytest
from tests.support.cluster.scenarios import Scenarios
scenarios = Scenarios()
outcomes = scenarios.fixture()
@scenarios
def good(folder): (folder.parent / "tried-good").touch()
def value(number, folder):
    (folder.parent / f"tried-{number}").touch()
    assert number < 2
for number in (1, 2): scenarios.add(value, number)
@pytest.mark.parametrize("scenario", scenarios.names)
def test_all(scenario, outcomes): outcomes[scenario].result()
"""


@pytest.mark.parametrize(
    ("chosen", "tried", "code"),
    [("", ["tried-1", "tried-2", "tried-good"], 1), ("good or value-1", ["tried-1", "tried-good"], 0)],
)
def test_of_scenarios_those_are_tried_that_are_asked_for(
    tmp_path: Path, chosen: str, tried: list[str], code: int
) -> None:
    (tmp_path / "test_it.py").write_text(MODULE)
    base = tmp_path / "base"
    options = ("-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={tmp_path}", f"--basetemp={base}", "-k", chosen)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", *options, str(tmp_path / "test_it.py")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == code, done.stdout
    assert sorted(path.name for path in base.iterdir() if path.name.startswith("tried")) == tried
    assert ("1 failed, 2 passed" in done.stdout) is (code == 1)


@pytest.mark.needs("zookeeper")
def test_an_ensemble_of_three_survives_one(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=1, zookeepers=3) as cluster:
        keeper = cluster.zookeeper
        leader = keeper.leader()
        keeper.kill(leader)
        until(lambda: any(keeper.mode(number) == "leader" for number in range(3)), "another leader")
        keeper.start(leader)
        keeper.wait()
        assert sorted(keeper.mode(number) for number in range(3)) == ["follower", "follower", "leader"]
        assert keeper.mntr(leader)["zk_server_state"] == "follower"
        assert keeper.paths("/zookeeper/quota") == {"/zookeeper/quota": b""}


@pytest.mark.needs("zookeeper")
def test_what_is_left_in_zookeeper_is_found(tmp_path: Path) -> None:
    from kazoo.client import KazooClient

    with Cluster(tmp_path, nodes=1) as cluster:

        def leave() -> None:
            client = KazooClient(cluster.zookeeper.address)
            client.start()
            for path in ("/stage-image/c/pins/1", "/stage-image/c/staging/1"):
                client.create(path, makepath=True)
            client.stop()
            client.close()

        cluster.nodes[0].host.within(leave)
        assert cluster.leftovers() == ["/stage-image/c/staging/1"]
        keeper = cluster.zookeeper
        keeper.kill()
        assert keeper.mode(0) == ""
        keeper.start()
        keeper.wait()
        assert cluster.leftovers() == ["/stage-image/c/staging/1"]


OWNER = """\
import sys, time
from pathlib import Path
from tests.bench.cluster_usage import Usage
from tests.support.cluster.bed import Cluster
with Cluster(Path(sys.argv[1]), nodes=3, zookeepers=0) as cluster:
    daemon = cluster.nodes[1].start("sh", "-c", "setsid sleep 1000 & exec sleep 1000")
    while len(pids := cluster.nodes[1].host.pids()) < 2: time.sleep(0.01)
    if sys.argv[2] == "frozen": cluster.nodes[1].freeze()
    print(*pids, *(host.pid for host in (cluster.origin.host, *(n.host for n in cluster.nodes))), flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("state", ["running", "frozen"])
def test_nothing_outlives_a_killed_owner(tmp_path: Path, state: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OWNER, str(tmp_path), state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as owner:
        assert owner.stdout
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 6
        owner.kill()
    until(lambda: not [pid for pid in pids if os.path.exists(f"/proc/{pid}")], "all of them to go", 5)


def test_nodes_are_there_in_a_second(tmp_path: Path) -> None:
    began = time.monotonic()
    with Cluster(tmp_path, nodes=16, zookeepers=0) as cluster:
        assert time.monotonic() - began < 3
        url = cluster.origin.put("file", image(1000))
        all_end([node.start("curl", "-sfo", "file", url) for node in cluster.nodes])
        assert len(cluster.origin.requests) == 16


def _seconds(cluster: Cluster, numbers: list[int], url: str) -> float:
    began = time.monotonic()
    all_end([cluster.nodes[number].start("curl", "-sfo", "file", url) for number in numbers])
    return time.monotonic() - began


def _headers(cluster: Cluster, url: str) -> str:
    answer = cluster.nodes[0].start("curl", "-sfI", url)
    assert answer.done() == 0
    return next(line for line in answer.out.splitlines() if line.startswith("ETag"))


def _connected(cluster: Cluster, patience: float = 30) -> tuple[Process, Process]:
    """Return a process on node 0 and one on node 1 that is connected to it and waits for it to say something."""
    listener = cluster.nodes[0].python(LISTEN)
    until(lambda: "ready" in listener.out, "the listener")
    caller = cluster.nodes[1].python(CALL, cluster.nodes[0].address, str(patience))
    until(lambda: "accepted" in listener.out and "called" in caller.out, "the connection")
    return listener, caller
