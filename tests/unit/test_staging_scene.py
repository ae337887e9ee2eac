"""The made-up cluster of the tests itself: what it passes on is right, its faults are those that were asked for."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager.errors import ClusterUnavailable
from stager.interfaces import PeerLost
from stager.relay.wire import CHUNK
from tests.support.fake_clock import FakeClock
from tests.support.fake_peers import FakePeers, FakeStream, Network
from tests.support.fake_rendezvous import MAX_RECORD, Town
from tests.support.staging_scene import Scene, origin
from tests.support.tasks import image

if TYPE_CHECKING:
    from pathlib import Path

    from stager.relay.holding import Holding

STAGING, SECRET = "5" * 32, "1" * 64


class TestTown:
    def test_one_claims_at_a_time(self) -> None:
        town = Town()
        first, second = town.visitor(), town.visitor()
        assert (first.claim("s", b"1"), second.claim("s", b"2"), first.claim("s", b"3")) == (True, False, True)
        assert (first.leads("s"), second.leads("s"), second.leader("s")) == (True, False, b"1")
        second.resign("s")
        assert first.leads("s")
        first.resign("s")
        assert (town.claims, second.leader("s")) == ({}, None)

    @pytest.mark.parametrize("end", ["lapse", "close"])
    def test_a_session_takes_its_claims_along_and_no_others(self, end: str) -> None:
        town = Town()
        first, second = town.visitor(), town.visitor()
        first.claim("s", b"")
        second.claim("t", b"")
        getattr(first, end)()
        assert list(town.claims) == ["t"]

    def test_the_first_pin_wins(self) -> None:
        town = Town()
        assert town.visitor().set_pin("job", "key", "aa") == "aa"
        assert town.visitor().set_pin("job", "key", "bb") == "aa"
        assert town.visitor().pin("job", "other") is None

    def test_who_does_not_reach_it_is_told_and_leads_nothing(self) -> None:
        town = Town()
        visitor = town.visitor()
        visitor.claim("s", b"")
        for lose in ("town.away", "cut", "closed"):
            town.away, visitor.cut, visitor.closed = (lose == name for name in ("town.away", "cut", "closed"))
            assert not visitor.leads("s")
            for ask in (visitor.connect, visitor.sweep, lambda: visitor.leader("s"), lambda: visitor.pin("job", "k")):
                with pytest.raises(ClusterUnavailable):
                    ask()

    def test_a_record_has_a_bound(self) -> None:
        with pytest.raises(ValueError, match="4096"):
            Town().visitor().claim("s", b"x" * (MAX_RECORD + 1))


class TestNetwork:
    @pytest.fixture
    def network(self) -> Network:
        return Network(FakeClock())

    def peers(self, network: Network) -> FakePeers:
        peers = network.join()
        peers.trust(STAGING, SECRET)
        return peers

    def file(self, content: bytes = b"") -> int:
        fd = os.memfd_create("image")
        os.pwrite(fd, content, 0)
        return fd

    def hold(self, peers: FakePeers, folder: Path, content: bytes, held: bytes = b"") -> Holding:
        fd = self.file(held)
        holding = peers.hold(fd, str(folder), 1, size=len(content), own=len(held))
        os.close(fd)
        return holding

    def pair(self, network: Network, folder: Path, content: bytes, own: bytes = b"") -> tuple[Holding, FakeStream]:
        """Return what the second node holds, and its stream from the first one, which has all."""
        first, second = self.peers(network), self.peers(network)
        hasher = first.hash(self.hold(first, folder, content, content), lambda: len(content))
        hasher.finish()
        while hasher.step():
            pass
        holding = self.hold(second, folder, content, own)
        stream = second.pull(first.address, holding, lambda _verified: None)
        stream.start()
        return holding, stream

    def close(self, network: Network) -> None:
        for peers in network.peers.values():
            peers.close()

    @pytest.mark.parametrize("size", [1, CHUNK, 3 * CHUNK + 7])
    @pytest.mark.parametrize("own", [0, 1])
    def test_bytes_flow_and_are_verified(self, network: Network, tmp_path: Path, size: int, own: int) -> None:
        content = os.urandom(size)
        holding, stream = self.pair(network, tmp_path, content, content[: own * CHUNK])
        while network.flow():
            pass
        assert (holding.complete, stream.lost) == (True, "")
        assert os.pread(holding.data, size, 0) == content
        self.close(network)

    def test_own_bytes_that_are_wrong_are_fetched(self, network: Network, tmp_path: Path) -> None:
        content = os.urandom(2 * CHUNK)
        holding, _ = self.pair(network, tmp_path, content, b"x" * CHUNK)
        while network.flow():
            pass
        assert os.pread(holding.data, len(content), 0) == content
        self.close(network)

    def test_damage_on_the_way_is_noticed(self, network: Network, tmp_path: Path) -> None:
        content = os.urandom(2 * CHUNK)
        holding, stream = self.pair(network, tmp_path, content)
        (theirs,) = (peers.offered for peers in network.peers.values() if peers.address == stream.address)
        assert theirs is not None
        os.pwrite(theirs.data, b"?", CHUNK + 1)
        while network.flow():
            pass
        assert (stream.lost, holding.verified) == ("corrupt", CHUNK)
        self.close(network)

    def test_silence_is_counted_and_a_closed_node_refuses(self, network: Network, tmp_path: Path) -> None:
        content = os.urandom(2 * CHUNK)
        _, stream = self.pair(network, tmp_path, content)
        other = network.peers[stream.address]
        other.stopped = True
        assert not network.flow()
        assert isinstance(network.clock, FakeClock)
        network.clock.advance(2.0)
        assert stream.silence == 2.0
        other.stopped = False
        assert network.flow()
        assert stream.silence == 0.0
        other.close()
        network.flow()
        assert stream.lost == "refused"
        self.close(network)

    def test_questions_are_answered_by_who_coordinates(self, network: Network) -> None:
        first, second = self.peers(network), self.peers(network)
        for how, why in (("nobody", "moved"), ("stopped", "silent"), ("stranger", "denied"), ("broken", "refused")):
            second.stopped = how == "stopped"
            second.secret = first.secret
            if how == "stranger":
                second.trust(STAGING, "2" * 64)
            network.broken = {frozenset({first.address, second.address})} if how == "broken" else set()
            with pytest.raises(PeerLost, match=why):
                first.ask(second.address, "join", {})
        network.broken.clear()
        second.coordinate(lambda verb, message: {"heard": [verb, message]})
        second.trust(STAGING, SECRET)
        assert first.ask(second.address, "join", {"a": 1}) == {"heard": ["join", {"a": 1}]}


class TestScene:
    def test_everybody_gets_the_image_and_the_origin_sends_it_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = image(4 * CHUNK)
        with Scene(tmp_path, monkeypatch, origin(content)) as scene:
            nodes = [scene.node() for _ in range(3)]
            scene.finish()
            assert {node.digest for node in nodes} == {f"sha256:{sha256(content).hexdigest()}"}
            assert scene.origin.served == len(content)
            for node in nodes:
                assert node.image is not None
                with open(node.image.path, "rb") as file:
                    assert file.read() == content

    def test_nothing_moves_by_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with Scene(tmp_path, monkeypatch, origin(image(4 * CHUNK))) as scene:
            node = scene.node()
            node.step()
            scene.settle()
            assert (node.load.fetches_from_origin, node.copy.held) == (True, 0)
            scene.move()
            assert node.copy.held == CHUNK
            scene.clock.advance(60)
            assert node.copy.held == CHUNK

    def test_a_dead_node_is_silent_and_its_thread_ends(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with Scene(tmp_path, monkeypatch, origin(image(4 * CHUNK))) as scene:
            node = scene.node()
            scene.step()
            head = node.load.head
            assert head is not None
            node.die()
            assert not head.is_alive()
            assert node.ended
            assert scene.town.claims, "ZooKeeper has not noticed"

    def test_what_never_ends_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with Scene(tmp_path, monkeypatch, origin(image(CHUNK))) as scene:
            scene.node()
            with pytest.raises(AssertionError, match="not within 1 s"):
                scene.until(lambda: False, 1.0)
