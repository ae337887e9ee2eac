"""One law for every election: the node's file lock and the cluster's claim keep it alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stager.election.cluster import ClusterElection
from stager.errors import ClusterUnavailable
from tests.support.contender import contenders, election
from tests.support.tasks import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stager.interfaces import Election
    from tests.concurrency.conftest import Meet

    Contend = Callable[[], Election]


@pytest.fixture(params=["file-lock", pytest.param("zookeeper", marks=pytest.mark.needs("zookeeper"))])
def way(request: pytest.FixtureRequest, tmp_path: Path, cluster: str) -> tuple[str, ...]:
    """What a contender has to be told."""
    if request.param == "file-lock":
        return request.param, str(tmp_path)
    return request.param, request.getfixturevalue("zookeeper").hosts, cluster


@pytest.fixture
def contend(way: tuple[str, ...], meet: Meet) -> Contend:
    """Make a contender in this process."""
    if way[0] == "file-lock":
        return lambda: election(*way)
    return lambda: ClusterElection(meet(), b"record")


def test_one_leads_until_it_is_done(contend: Contend) -> None:
    first, second = contend(), contend()
    with first.lead("x") as won:
        assert won
        with second.lead("x") as also:
            assert not also
        with second.lead("x") as also:
            assert not also  # a loser's leaving takes nothing from the leader
    with second.lead("x") as won:
        assert won


def test_leaderships_of_different_names_are_different(contend: Contend) -> None:
    first, second = contend(), contend()
    with first.lead("x") as won, second.lead("y") as also:
        assert (won, also) == (True, True)


def test_a_failure_ends_leadership(contend: Contend) -> None:
    first, second = contend(), contend()
    with pytest.raises(ZeroDivisionError), first.lead("x"):
        raise ZeroDivisionError
    with second.lead("x") as won:
        assert won


def test_of_many_processes_one_leads_and_its_death_makes_room(way: tuple[str, ...], contend: Contend) -> None:
    successor = contend()

    def leads() -> bool:
        with successor.lead("x") as won:
            return won

    with contenders(4, *way) as crowd:
        said = [word for _, word in crowd]
        assert sorted(said) == ["leads", "lost", "lost", "lost"]
        assert not leads()
        leader, _ = crowd[said.index("leads")]
        leader.kill()
        leader.wait()
        until(leads, "room")


@pytest.mark.needs("zookeeper")
def test_leading_ends_even_where_it_cannot_be_given_up(meet: Meet) -> None:
    rendezvous = meet()
    with ClusterElection(rendezvous, b"").lead("x") as won:
        assert won
        rendezvous.close()
    assert not rendezvous.leads("x")
    with pytest.raises(ClusterUnavailable), ClusterElection(rendezvous, b"").lead("x"):
        pass
