"""Processes that die or stop, servers that die, stop or refuse: what becomes of claims, and that every call ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from stager.election.ensemble import Ensemble
from stager.election.session import GRACE
from stager.election.zookeeper import ZooKeeperRendezvous
from stager.errors import ClusterUnavailable
from tests.support.tasks import until
from tests.support.tcp_proxy import Proxy
from tests.support.zookeeper import Servers, free_port
from tests.support.zookeeper_member import Members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.concurrency.conftest import Meet

pytestmark = pytest.mark.needs("zookeeper")

TICK = 0.5
MARGIN = 3.0
"""Seconds that a loaded machine may take for what is a matter of milliseconds."""

A = "a" * 64


@pytest.fixture
def own() -> Iterator[Servers]:
    """A server that the test may do with as it likes."""
    with Servers() as servers:
        yield servers


def took(act: Callable[[], object]) -> float:
    """Return how long it takes until `act` gives up."""
    start = time.monotonic()
    with pytest.raises(ClusterUnavailable):
        act()
    return time.monotonic() - start


def test_a_killed_process_leads_no_longer_than_its_session(zookeeper: Servers, cluster: str, meet: Meet) -> None:
    with Members(zookeeper.hosts, cluster) as members:
        (member,) = members.start(1, session_timeout=2)
        successor = meet()
        assert member.ask("claim", "s", "r")
        member.send(signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: successor.claim("s", b""), "the session to end")
        assert time.monotonic() - killed < 2 + 2 * TICK + MARGIN


def test_a_stopped_process_knows_at_once_that_it_leads_no_longer(zookeeper: Servers, cluster: str, meet: Meet) -> None:
    with Members(zookeeper.hosts, cluster) as members:
        (member,) = members.start(1, session_timeout=1)
        successor = meet()
        assert member.ask("claim", "s", "r")
        assert member.ask("leads", "s")
        member.send(signal.SIGSTOP)
        until(lambda: successor.claim("s", b""), "the session to end")
        for _ in range(3):
            member.tell("leads", "s")
        member.send(signal.SIGCONT)
        assert [member.answer() for _ in range(3)] == [False, False, False]
        member.ask("resign", "s")  # from what is somebody else's by now
        assert member.ask("claim", "s", "again") is False
        assert successor.leads("s")
        successor.close()
        assert member.ask("claim", "s", "again")


def test_a_short_stop_ends_nothing(zookeeper: Servers, cluster: str) -> None:
    with Members(zookeeper.hosts, cluster) as members:
        (member,) = members.start(1, session_timeout=60)
        assert member.ask("claim", "s", "r")
        member.send(signal.SIGSTOP)
        os.waitid(os.P_PID, member.process.pid, os.WSTOPPED | os.WNOWAIT)
        member.send(signal.SIGCONT)
        assert member.ask("leads", "s")


def test_who_leads_an_idle_session_goes_on_leading(meet: Meet) -> None:
    one = meet(session_timeout=1.0)
    one.claim("s", b"")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert one.leads("s")
        time.sleep(0.01)


def test_nobody_else_can_lead_while_one_is_sure(own: Servers, meet: Meet) -> None:
    """The server stops hearing from a leader that still runs: its word ends before its session does."""
    with Proxy(own.one.address) as proxy:
        leader, successor = meet(proxy.address, session_timeout=2.0), meet(own.hosts)
        assert leader.claim("s", b"")
        proxy.mute = True
        while leader.leads("s"):
            assert not successor.claim("s", b"")
        until(lambda: successor.claim("s", b""), "the session to end")


def test_nobody_else_can_lead_while_one_is_sure_and_kazoo_sleeps(meet: Meet, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after SIGCONT, before kazoo's thread has had its turn."""
    leader, successor, awake = meet(session_timeout=1.5), meet(), threading.Event()
    assert leader.claim("s", b"")
    assert leader._session
    select = leader._session._wire.select

    def asleep(*arguments: Any) -> Any:  # noqa: ANN401
        awake.wait(30)
        return select(*arguments)

    monkeypatch.setattr(leader._session._wire, "select", asleep)
    try:
        while leader.leads("s"):
            assert not successor.claim("s", b"")
        assert leader.state == "connected"
        until(lambda: successor.claim("s", b""), "the session to end")
        assert not leader.leads("s")
    finally:
        awake.set()
    until(lambda: leader.state != "connected", "kazoo to see it, too")


def test_a_server_that_comes_back_finds_everybody_in_place(own: Servers, meet: Meet) -> None:
    first, second = meet(own.hosts), meet(own.hosts)
    first.claim("s", b"first")
    own.one.kill()
    until(lambda: not first.leads("s"), "the connection's end to be noticed")
    own.start()
    until(lambda: first.leads("s"), "the connection to be back")
    assert not second.claim("s", b"second")
    assert second.leader("s") == b"first"


def test_calls_that_meet_a_dying_server_are_made_again(own: Servers, meet: Meet) -> None:
    one = meet(own.hosts, session_timeout=20.0)
    own.one.kill()
    with ThreadPoolExecutor(1) as thread:
        won = thread.submit(one.claim, "s", b"r")
        own.start()
        assert won.result(30)
    assert one.leads("s")


def test_a_claim_whose_answer_got_lost_is_known_to_be_ours(own: Servers, meet: Meet) -> None:
    with Proxy(own.one.address) as proxy, ThreadPoolExecutor(1) as thread:
        one, witness = meet(proxy.address, session_timeout=20.0), meet(own.hosts)
        witness.claim("made-parents", b"")
        proxy.mute = True
        won = thread.submit(one.claim, "s", b"r")
        until(lambda: witness.leader("s") == b"r", "the claim")
        proxy.mute = False
        proxy.cut()
        assert won.result(30)
        assert one.leads("s")


def test_a_claim_that_was_given_up_does_not_last(own: Servers, meet: Meet) -> None:
    with Proxy(own.one.address) as proxy:
        one, witness = meet(proxy.address, session_timeout=3.0), meet(own.hosts)
        witness.claim("made-parents", b"")
        proxy.mute = True
        with ThreadPoolExecutor(1) as thread:
            won = thread.submit(one.claim, "s", b"r")
            until(lambda: witness.leader("s") == b"r", "the claim")
            own.one.kill()
            with pytest.raises(ClusterUnavailable):
                won.result(30)
        proxy.mute = False
        own.start()
        until(lambda: one.state == "connected", "the session to be back")
        until(lambda: witness.leader("s") is None, "the claim to be taken back")
        assert one.state == "connected"
        assert witness.stagings() == {"made-parents": b""}


def test_a_resignation_that_failed_is_made_up_for(own: Servers, meet: Meet) -> None:
    one, witness = meet(own.hosts, session_timeout=3.0), meet(own.hosts)
    assert one.claim("s", b"r")
    own.one.kill()
    assert took(lambda: one.resign("s")) < 3 + MARGIN
    assert not one.leads("s")
    own.start()
    until(lambda: witness.state == "connected" and witness.leader("s") is None, "the claim to be taken back")


def calls(one: ZooKeeperRendezvous) -> list[Callable[[], object]]:
    """Everything that asks the server."""
    return [
        lambda: one.claim("s", b""),
        lambda: one.leader("s"),
        lambda: one.resign("led"),
        lambda: one.pin("j", "k"),
        lambda: one.set_pin("j", "k", A),
        lambda: one.forget_scope("j"),
        lambda: one.write_node("h", b""),
        one.stagings,
        one.nodes,
        one.sweep,
    ]


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP])
def test_every_call_ends_without_servers(own: Servers, meet: Meet, fate: signal.Signals) -> None:
    """Killed, they refuse; stopped, they accept and are silent."""
    before = set(threading.enumerate()), sorted(os.listdir("/proc/self/fd"))
    one, idle = meet(own.hosts, session_timeout=1.5), meet(own.hosts, session_timeout=60.0)
    assert one.claim("led", b"")
    own.one.send(fate)
    with ThreadPoolExecutor(16) as threads:
        for seconds in threads.map(took, calls(one)):
            assert seconds < 1.5 + MARGIN
    assert not one.leads("led")
    start = time.monotonic()
    one.close()
    idle.close()
    assert time.monotonic() - start < 4 * GRACE + MARGIN
    assert (set(threading.enumerate()), sorted(os.listdir("/proc/self/fd"))) == before


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address where nothing is refused and nothing accepted: the queue of connections is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", free_port()), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_connecting_ends(own: Servers, deaf: str, meet: Meet) -> None:
    before = set(threading.enumerate()), sorted(os.listdir("/proc/self/fd"))
    own.one.kill()
    one = meet(own.hosts, connect=False, connect_timeout=1.0)
    assert took(one.connect) < 1 + MARGIN
    one = meet(deaf, connect=False, connect_timeout=1.0)
    assert took(one.connect) < 1 + MARGIN
    one = meet(f"{deaf},{own.hosts}", connect=False, connect_timeout=1.0)
    with pytest.raises(ClusterUnavailable) as caught:
        one.connect()
    assert f"{own.hosts}: Connection refused" in caught.value.message
    assert f"{deaf}: timed out" in caught.value.message
    assert (set(threading.enumerate()), sorted(os.listdir("/proc/self/fd"))) == before


def test_a_dead_server_does_not_keep_us_from_the_others(own: Servers, deaf: str, meet: Meet) -> None:
    for hosts in (f"{deaf},{own.hosts}", f"{own.hosts},{deaf}", f"127.0.0.1:{free_port()},{own.hosts}"):
        assert meet(hosts, connect_timeout=10.0).state == "connected"


def test_a_server_that_starts_late_is_waited_for(own: Servers) -> None:
    own.one.kill()
    one = ZooKeeperRendezvous(Ensemble(hosts=own.hosts, connect_timeout=30), name="c", owner="site")
    with ThreadPoolExecutor(1) as thread:
        connected = thread.submit(one.connect)
        own.start()
        connected.result(40)
    assert one.claim("s", b"")
    one.close()


def test_a_name_that_does_not_resolve_is_told(meet: Meet) -> None:
    one = meet("no-such-host.invalid:2181", connect=False, connect_timeout=0.5)
    with pytest.raises(ClusterUnavailable, match="the names of the servers cannot be resolved"):
        one.connect()


def test_too_many_connections_are_told_at_once(meet: Meet) -> None:
    with Servers(options=["maxClientCnxns=2"]) as own:
        first, second = meet(own.hosts), meet(own.hosts)
        third = meet(own.hosts, connect=False, connect_timeout=30.0)
        start = time.monotonic()
        with pytest.raises(ClusterUnavailable, match="as many connections from here as it allows") as caught:
            third.connect()
        assert time.monotonic() - start < 20
        assert "maxClientCnxns" in caught.value.hint
        second.close()
        third.connect()
        assert third.claim("s", b"") == first.claim("t", b"") == True  # noqa: E712
