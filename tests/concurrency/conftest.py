"""A ZooKeeper server that many tests share, each below a name of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

import pytest

from stager.election.ensemble import Ensemble
from stager.election.zookeeper import ZooKeeperRendezvous
from tests.support.zookeeper import Servers

if TYPE_CHECKING:
    from collections.abc import Iterator


class Meet(Protocol):
    """Makes rendezvous that are closed after the test."""

    def __call__(
        self, hosts: str = "", *, name: str = "", owner: str = "site", connect: bool = True, **settings: object
    ) -> ZooKeeperRendezvous: ...


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[Servers]:
    """One server, for whatever neither ends nor disturbs it."""
    with Servers() as servers:
        yield servers


@pytest.fixture
def cluster() -> str:
    """A cluster's name that no other test uses."""
    return uuid4().hex


@pytest.fixture
def meet(request: pytest.FixtureRequest, cluster: str) -> Iterator[Meet]:
    """Make rendezvous, by default at the shared server and connected."""
    made: list[ZooKeeperRendezvous] = []

    def make(
        hosts: str = "", *, name: str = "", owner: str = "site", connect: bool = True, **settings: object
    ) -> ZooKeeperRendezvous:
        hosts = hosts or request.getfixturevalue("zookeeper").hosts
        ensemble = Ensemble(hosts=hosts, **settings)  # type: ignore[arg-type]
        made.append(ZooKeeperRendezvous(ensemble, name=name or cluster, owner=owner))
        if connect:
            made[-1].connect()
        return made[-1]

    yield make
    for rendezvous in made:
        rendezvous.close()
