"""What the nodes of a cluster are promised, by a real server."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from stager.election.names import BUCKETS, Tree
from stager.election.zookeeper import (
    CONVERSION_SECONDS,
    MAX_NODE_RECORD,
    MAX_RECORD,
    PIN_SECONDS,
    ZooKeeperRendezvous,
)
from stager.errors import ClusterUnavailable
from tests.support.tasks import until
from tests.support.zookeeper_member import Members

if TYPE_CHECKING:
    from tests.concurrency.conftest import Meet
    from tests.support.zookeeper import Servers

pytestmark = pytest.mark.needs("zookeeper")

A, B = "a" * 64, "b" * 64


def test_one_claim_at_a_time(meet: Meet) -> None:
    first, second = meet(), meet()
    assert first.leader("s") is None
    assert first.claim("s", b"first")
    assert not second.claim("s", b"second")
    assert (first.leads("s"), second.leads("s")) == (True, False)
    assert second.leader("s") == b"first"
    first.resign("s")
    assert not first.leads("s")
    assert second.claim("s", b"second")
    assert first.leader("s") == b"second"


def test_a_claim_may_be_repeated(meet: Meet) -> None:
    one = meet()
    assert one.claim("s", b"r")
    assert one.claim("s", b"r")


def test_resigning_from_what_is_anothers_changes_nothing(meet: Meet) -> None:
    first, second = meet(), meet()
    first.claim("s", b"first")
    second.claim("s", b"second")
    second.resign("s")
    second.resign("never-claimed")
    assert first.leads("s")
    assert second.leader("s") == b"first"


def test_claims_of_different_stagings_owners_and_clusters_are_different(meet: Meet) -> None:
    assert all(
        other.claim(staging, b"")
        for other, staging in [
            (meet(), "s"),
            (meet(), "t"),
            (meet(owner="uid-1000"), "s"),
            (meet(name="another"), "s"),
        ]
    )


def test_a_closed_session_takes_its_claims_along_at_once(meet: Meet) -> None:
    first, second = meet(), meet()
    first.claim("s", b"first")
    first.close()
    assert not first.leads("s")
    assert second.claim("s", b"second")


def test_after_closing_one_may_come_back(meet: Meet) -> None:
    one = meet()
    one.claim("s", b"")
    one.close()
    one.close()
    with pytest.raises(ClusterUnavailable, match="we are not connected"):
        one.claim("s", b"")
    one.connect()
    one.connect()
    assert not one.leads("s")
    assert one.claim("s", b"")


def test_of_many_processes_one_leads(zookeeper: Servers, cluster: str) -> None:
    with Members(zookeeper.hosts, cluster) as members:
        crowd = members.start(8)
        for staging in ("s", "t", "u", "v"):
            for number, member in enumerate(crowd):
                member.tell("claim", staging, f"record of {number}")
            won = [member.answer() for member in crowd]
            assert won.count(True) == 1
            assert [member.ask("leads", staging) for member in crowd] == won
            assert {member.ask("leader", staging) for member in crowd} == {f"record of {won.index(True)}"}


def test_the_first_pin_stands(meet: Meet) -> None:
    first, second = meet(), meet()
    assert first.pin("slurm-1", "k") is None
    assert first.set_pin("slurm-1", "k", A) == A
    assert second.set_pin("slurm-1", "k", B) == A
    assert second.pin("slurm-1", "k") == A
    assert second.pin("slurm-1", "other") is None
    assert second.pin("slurm-2", "k") is None
    assert second.set_pin("slurm-2", "k", B) == B


def test_pins_outlive_sessions(meet: Meet) -> None:
    first = meet()
    first.set_pin("slurm-1", "k", A)
    first.close()
    assert meet().pin("slurm-1", "k") == A


def test_fifty_at_once_agree_on_a_pin(meet: Meet) -> None:
    many = [meet() for _ in range(50)]
    ready = threading.Barrier(50)

    def pin(number: int) -> str:
        ready.wait(20)
        return many[number].set_pin("slurm-1", "k", f"{number:064x}")

    with ThreadPoolExecutor(50) as threads:
        answers = set(threads.map(pin, range(50)))
    assert len(answers) == 1
    assert {one.pin("slurm-1", "k") for one in many} == answers


def test_a_pin_that_is_none_is_told(meet: Meet) -> None:
    one = meet()
    with pytest.raises(ValueError, match="no digest"):
        one.set_pin("slurm-1", "k", "rubbish")
    assert one._records
    one._records.create(one._tree.pin("slurm-1", "k"), b"rubbish")
    with pytest.raises(ClusterUnavailable, match=r"pins/../slurm-1/k: it holds no digest but b'rubbish'"):
        one.pin("slurm-1", "k")


def test_what_came_of_a_conversion_outlives_its_session_and_may_change(meet: Meet) -> None:
    first, second = meet(), meet()
    assert second.conversion(A) is None
    first.set_conversion(A, A)
    first.close()
    assert second.conversion(A) == A
    second.set_conversion(A, B)
    assert second.conversion(A) == B
    assert meet(owner="uid-5").conversion(A) is None, "what others say of their images counts for themselves"
    with pytest.raises(ValueError, match="no digest"):
        second.set_conversion(A, "x")


def test_a_conversion_that_is_none_is_told(meet: Meet, cluster: str) -> None:
    one = meet()
    one._known.write(Tree(cluster, "site").conversion(A), b"x" * 64)
    with pytest.raises(ClusterUnavailable, match="no digest"):
        one.conversion(A)


def test_a_forgotten_job_has_no_pins(meet: Meet) -> None:
    one = meet()
    for key in ("k", "l"):
        one.set_pin("slurm-1", key, A)
    one.set_pin("slurm-2", "k", B)
    one.forget_scope("slurm-1")
    one.forget_scope("slurm-1")
    assert [one.pin("slurm-1", "k"), one.pin("slurm-1", "l"), one.pin("slurm-2", "k")] == [None, None, B]
    assert one.set_pin("slurm-1", "k", B) == B


def test_sweeping_removes_old_pins_only(meet: Meet) -> None:
    one = meet()
    ahead = 0.0
    late = ZooKeeperRendezvous(one._ensemble, name=one._tree.name, owner="site", wall=lambda: one._wall() + ahead)
    late.connect()
    try:
        late.sweep()
        one.set_pin("slurm-1", "k", A)
        ahead = PIN_SECONDS - 3600
        late.sweep()
        assert one.pin("slurm-1", "k") == A
        ahead = PIN_SECONDS + 3600
        late.sweep(limit=0)
        assert one.pin("slurm-1", "k") == A
        late.sweep()
        assert one.pin("slurm-1", "k") is None
        one.set_conversion(A, B)
        ahead = CONVERSION_SECONDS - 3600
        late.sweep()
        assert one.conversion(A) == B
        ahead = CONVERSION_SECONDS + 3600
        late.sweep()
        assert one.conversion(A) is None
    finally:
        late.close()


def test_a_sweep_is_bounded(meet: Meet) -> None:
    one = meet()
    alike = [scope for scope in map("slurm-{}".format, range(4000)) if _bucket(scope) == BUCKETS[0]][:12]
    assert len(alike) == 12
    for scope in alike:
        one.set_pin(scope, "k", A)
    one._wall = lambda: 1e11
    one.sweep()
    assert sum(one.pin(scope, "k") is None for scope in alike) == 8
    one.sweep()
    assert sum(one.pin(scope, "k") is None for scope in alike) == 12


def _bucket(scope: str) -> str:
    return Tree("c", "o").scope(scope).split("/")[-2]


def test_nodes_are_listed(meet: Meet) -> None:
    one, other = meet(), meet()
    assert one.nodes() == {}
    many = {f"node-{number}": os.urandom(100) for number in range(150)}
    for host, record in many.items():
        one.write_node(host, record)
    other.write_node("node-7", b"again")
    assert other.nodes() == {**many, "node-7": b"again"}
    one.close()
    assert len(other.nodes()) == 150


def test_stagings_are_listed_while_they_last(meet: Meet) -> None:
    one, other = meet(), meet()
    one.claim("s", b"of one")
    other.claim("t", b"of other")
    assert other.stagings() == {"s": b"of one", "t": b"of other"}
    one.close()
    assert other.stagings() == {"t": b"of other"}


@pytest.mark.parametrize("name", ["../../x", "..", ".", "a/b", "/", "ünï", "a\0b", "%2E", "a b\n", "\udcff"])
def test_odd_names_lead_nowhere_else(meet: Meet, name: str) -> None:
    one = meet()
    assert one.claim(name, b"r")
    assert one.leader(name) == b"r"
    assert one.set_pin(name, name, A) == A
    assert one.pin(name, name) == A
    one.write_node(name, b"n")
    assert (one.stagings(), one.nodes()) == ({name: b"r"}, {name: b"n"})
    one.forget_scope(name)
    assert one.pin(name, name) is None


def test_records_have_limits(meet: Meet) -> None:
    one = meet()
    assert one.claim("s", bytes(MAX_RECORD))
    with pytest.raises(ValueError, match="may have 4096 bytes"):
        one.claim("t", bytes(MAX_RECORD + 1))
    one.write_node("h", bytes(MAX_NODE_RECORD))
    with pytest.raises(ValueError, match="may have 65536 bytes"):
        one.write_node("h", bytes(MAX_NODE_RECORD + 1))


def test_all_is_below_a_path_of_the_sites_choice(zookeeper: Servers, meet: Meet, cluster: str) -> None:
    lost = meet(f"{zookeeper.hosts}/nowhere/{cluster}")
    with pytest.raises(ClusterUnavailable, match="/stage-image: what is above it is not there"):
        lost.claim("s", b"")
    meet().claim("s", b"r")
    inside = meet(f"{zookeeper.hosts}/stage-image/{cluster}")
    assert inside.claim("s", b"")


def test_states_are_told(meet: Meet) -> None:
    one = meet(connect=False)
    states: list[str] = []
    one.on_change(states.append)
    assert (one.state, one.address) == ("lost", "")
    one.connect()
    assert (one.state, one.address) == ("connected", "127.0.0.1")
    one.close()
    assert one.state == "lost"
    until(lambda: states == ["connected", "lost"], "both states")


def test_nothing_stays_behind(meet: Meet) -> None:
    meet().close()  # what Python and the resolver keep once and for all
    threads, files = set(threading.enumerate()), sorted(os.listdir("/proc/self/fd"))
    one = meet()
    one.claim("s", b"")
    one.nodes()
    one.close()
    assert set(threading.enumerate()) == threads
    assert sorted(os.listdir("/proc/self/fd")) == files
