"""Three servers, of which some die: what goes on, what waits, and that nobody leads who should not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from stager.errors import ClusterUnavailable
from tests.support.tasks import until
from tests.support.zookeeper import Servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.election.zookeeper import ZooKeeperRendezvous
    from tests.concurrency.conftest import Meet

pytestmark = pytest.mark.needs("zookeeper")

SESSION = 4.0
MARGIN = 3.0


@pytest.fixture(scope="module")
def started() -> Iterator[Servers]:
    with Servers(3) as servers:
        yield servers


@pytest.fixture
def ensemble(started: Servers) -> Servers:
    """All three, whatever became of them in another test."""
    if dead := [server for server in started.all if not server.running]:
        started.start(*dead)
    return started


def claimed(ensemble: Servers, meet: Meet) -> tuple[ZooKeeperRendezvous, ZooKeeperRendezvous]:
    """Return one who leads `s` and one who does not."""
    first, second = (meet(ensemble.hosts, session_timeout=SESSION, connect_timeout=20.0) for _ in range(2))
    assert first.claim("s", b"first")
    return first, second


def test_the_death_of_their_leader_changes_nothing(ensemble: Servers, meet: Meet) -> None:
    first, second = claimed(ensemble, meet)
    ensemble.leader().kill()
    assert not second.claim("s", b"second")
    until(lambda: first.leads("s"), "the session to be back")
    assert second.leader("s") == b"first"
    assert first.set_pin("j", "k", "a" * 64) == second.pin("j", "k")


def test_the_death_of_a_follower_changes_nothing(ensemble: Servers, meet: Meet) -> None:
    first, second = claimed(ensemble, meet)
    ensemble.followers()[0].kill()
    assert not second.claim("s", b"second")
    until(lambda: first.leads("s"), "the session to be back")
    first.resign("s")
    assert second.claim("s", b"second")


def test_without_a_majority_nobody_leads_until_it_is_back(ensemble: Servers, meet: Meet) -> None:
    first, second = claimed(ensemble, meet)
    lost = ensemble.followers()
    for server in lost:
        server.kill()
    until(lambda: not first.leads("s"), "the loss to be noticed")
    start = time.monotonic()
    with pytest.raises(ClusterUnavailable):
        second.claim("s", b"second")
    assert time.monotonic() - start < SESSION + MARGIN
    newcomer = meet(ensemble.hosts, connect=False, connect_timeout=1.0)
    with pytest.raises(ClusterUnavailable, match="not within 1 s"):
        newcomer.connect()
    ensemble.start(lost[0])
    until(lambda: first.leads("s"), "the session to be back")
    assert not second.claim("s", b"second")
    newcomer.connect()
    assert newcomer.leader("s") == b"first"


def test_all_die_and_come_back(ensemble: Servers, meet: Meet) -> None:
    """Sessions begin anew with the ensemble: whoever led goes on, with the record that everybody knows."""
    first, second = claimed(ensemble, meet)
    for server in ensemble.all:
        server.kill()
    until(lambda: not first.leads("s"), "the loss to be noticed")
    ensemble.start()
    until(lambda: first.leads("s"), "the session to be back")
    assert not second.claim("s", b"second")


def test_whoever_dies_while_they_are_away_leads_no_longer(ensemble: Servers, meet: Meet) -> None:
    first, second = claimed(ensemble, meet)
    for server in ensemble.all:
        server.kill()
    first.close()
    ensemble.start()
    until(lambda: second.state == "connected", "the ensemble")
    until(lambda: second.claim("s", b"second"), "the session of the dead to end")
    assert second.leads("s")
