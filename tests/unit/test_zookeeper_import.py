"""What it takes to be ready for ZooKeeper without asking it."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from stager.election.cluster import ClusterElection
from stager.election.ensemble import Ensemble
from stager.election.zookeeper import ZooKeeperRendezvous
from stager.errors import ClusterUnavailable, ConfigError
from stager.interfaces import Election, Rendezvous
from tests.support.source_trees import ROOT

if TYPE_CHECKING:
    from stager.election.claims import Claims

NOWHERE = Ensemble(hosts="127.0.0.1:1")


def test_the_contracts_are_fulfilled() -> None:
    rendezvous: Rendezvous = ZooKeeperRendezvous(NOWHERE, name="c", owner="site")
    election: Election = ClusterElection(rendezvous, b"")
    assert (rendezvous.address, hasattr(election, "lead")) == ("", True)


def test_kazoo_comes_with_the_connection_only() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import stager.election.zookeeper, stager.election.cluster;"
        " print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert [name for name in run.stdout.split() if name.partition(".")[0] == "kazoo"] == []


def test_a_missing_kazoo_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "stager.election.session", raising=False)
    monkeypatch.delitem(sys.modules, "stager.election.records", raising=False)
    monkeypatch.setitem(sys.modules, "kazoo", None)
    with pytest.raises(ClusterUnavailable, match="Python's kazoo is not installed") as caught:
        ZooKeeperRendezvous(NOWHERE, name="c", owner="site").connect()
    assert "stage-image[cluster]" in caught.value.hint


@pytest.mark.parametrize("hosts", [":2181", "host:port", "host:99999999"])
def test_hosts_that_are_none(hosts: str) -> None:
    with pytest.raises(ConfigError, match="servers cannot be"):
        ZooKeeperRendezvous(Ensemble(hosts=hosts), name="c", owner="site").connect()


def test_nothing_goes_without_a_connection() -> None:
    one = ZooKeeperRendezvous(NOWHERE, name="c", owner="site")
    assert (one.state, one.address, one.leads("s")) == ("lost", "", False)
    with pytest.raises(ClusterUnavailable, match=r"127\.0\.0\.1:1: /stage-image/c/site: we are not connected"):
        one.claim("s", b"")
    with pytest.raises(ClusterUnavailable, match="we are not connected"):
        one.nodes()
    one.close()


def test_with_each_connection_doubts_are_settled_before_it_is_told() -> None:
    one, told = ZooKeeperRendezvous(NOWHERE, name="c", owner="site"), list[str]()
    one.on_change(told.append)
    one._claims = cast("Claims", SimpleNamespace(settle=lambda: told.append("settled")))
    for state in ("suspended", "connected", "lost"):
        one._changed(state)
    assert told == ["suspended", "settled", "connected", "lost"]
