"""What the tests of ZooKeeper rest on."""

from __future__ import annotations

import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.bench.zookeeper import line
from tests.support.tcp_proxy import Proxy
from tests.support.zookeeper import Servers, fields, free_port
from tests.support.zookeeper_load import Load
from tests.support.zookeeper_member import Members

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.concurrency.conftest import Meet


@pytest.mark.needs("zookeeper")
def test_servers_come_back_with_what_they_knew_and_leave_nothing(meet: Meet) -> None:
    with Servers() as servers:
        server = servers.one
        assert (server.mode, servers.leader(), servers.followers()) == ("standalone", server, [])
        one = meet(servers.hosts)
        one.set_pin("j", "k", "a" * 64)
        one.claim("s", b"")
        assert server.count("zk_znode_count") > 5
        assert server.count("zk_ephemerals_count") == 1
        assert server.command("wchc").strip() == ""
        server.kill()
        assert (server.running, server.mode, server.command("mntr")) == (False, "", "")
        servers.start()
        assert one.pin("j", "k") == "a" * 64
        one.close()
        folder, process = server._folder, server._process
    assert not folder.exists()
    assert process
    assert process.returncode == -signal.SIGKILL


@pytest.mark.needs("zookeeper")
def test_an_ensemble_has_one_leader() -> None:
    with Servers(3) as servers:
        assert sorted(server.mode for server in servers.all) == ["follower", "follower", "leader"]
        assert servers.hosts.count(",") == 2
        with pytest.raises(ValueError, match="too many values"):
            _ = servers.one


@pytest.mark.needs("zookeeper")
def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(AssertionError, match="notANumber"), Servers(options=["tickTime=notANumber"]):
        pass


@pytest.mark.needs("zookeeper")
def test_members_do_as_they_are_told(zookeeper: Servers, cluster: str) -> None:
    with Members(zookeeper.hosts, cluster) as members:
        (member,) = members.start(1)
        assert member.ask("claim", "s", "record") is True
        assert member.ask("leader", "s") == "record"
        assert member.ask("state") == "connected"
        member.ask("close")
        assert member.ask("claim", "s", "record") is None
    assert member.process.returncode == -signal.SIGKILL


@contextmanager
def echo() -> Iterator[tuple[socket.socket, socket.socket, Proxy]]:
    """Both ends of a connection through a proxy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        with Proxy(f"{host}:{port}") as proxy:
            name, _, number = proxy.address.rpartition(":")
            with socket.create_connection((name, int(number)), 10) as client, listener.accept()[0] as server:
                yield client, server, proxy


def test_a_proxy_forwards_swallows_and_cuts() -> None:
    with echo() as (client, server, proxy):
        client.sendall(b"question")
        assert server.recv(100) == b"question"
        server.sendall(b"answer")
        assert client.recv(100) == b"answer"
        proxy.mute = True
        client.sendall(b"again")
        assert server.recv(100) == b"again"
        server.sendall(b"swallowed")
        proxy.cut()
        assert client.recv(100) == b""
        assert server.recv(100) == b""


def test_ports_are_given_once() -> None:
    ports = [free_port() for _ in range(200)]
    assert len(set(ports)) == 200
    assert all(port < 32768 for port in ports)


def test_fields() -> None:
    assert fields("a\t1\nb\t2 3\nnothing\n", "\t") == {"a": "1", "b": "2 3"}


def test_a_line_of_the_bench() -> None:
    found = Load(nodes=4, requests=28, bytes_in=400, bytes_out=100, watches=0, seconds=0.5, leaders=1)
    assert line(found) == "| 4 | 7.00 | 100.00 | 25.00 | 0 | 1 | 0.50 s |"
