"""The nodes of a staging and what flows between them, without sockets and threads: bytes move when the test says so.

Holdings, records and their secrets are the relay's own; only the way from one node to another is made up.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from stager.interfaces import PeerLost
from stager.relay.holding import ChunkHasher, Holding
from stager.relay.secret import Secret
from stager.relay.wire import CHUNK, RECORD

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.clock import Clock
    from stager.interfaces import Holding as AnyHolding
    from stager.interfaces import Message

    Answer = Callable[[str, Message], Message | None]


class Network:
    """All nodes by their addresses. `broken` holds pairs of addresses that do not reach each other."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.peers: dict[str, FakePeers] = {}
        self.broken: set[frozenset[str]] = set()

    def join(self) -> FakePeers:
        """Return a node of its own."""
        address = f"10.0.0.{len(self.peers) + 1}:1"
        self.peers[address] = FakePeers(self, address)
        return self.peers[address]

    def find(self, ours: str, theirs: str) -> FakePeers | None:
        """Return a node if it is there and can be reached."""
        peers = self.peers.get(theirs)
        return None if peers is None or peers.closed or frozenset({ours, theirs}) in self.broken else peers

    def flow(self, chunks: int = 1) -> bool:
        """Let everything go on by so many chunks; return whether anything did."""
        moved = [node.flow(chunks) for node in list(self.peers.values()) if not (node.closed or node.stopped)]
        return any(moved)


@dataclass(eq=False)
class FakePeers:
    """Fulfils `stager.interfaces.Peers`. `stopped`: nothing of it goes on, and nobody gets an answer."""

    network: Network
    address: str
    staging: str = ""
    secret: Secret = field(default_factory=Secret.new)
    closed: bool = False
    stopped: bool = False
    offered: Holding | None = None
    answer: Answer | None = None
    streams: list[FakeStream] = field(default_factory=list)
    hashers: list[FakeHasher] = field(default_factory=list)

    def trust(self, staging: str, secret: str) -> None:
        self.staging, self.secret = staging, Secret.parse(secret)

    def hold(self, fd: int, folder: str, generation: int, *, size: int | None, own: int) -> Holding:
        self._withdraw()
        secret = self.secret
        self.offered = Holding(fd, staging=self.staging, generation=generation, secret=secret, folder=folder, own=own)
        if size is not None:
            self.offered.size = size
        return self.offered

    def hash(self, holding: AnyHolding, position: Callable[[], int]) -> FakeHasher:
        assert isinstance(holding, Holding)
        hasher = FakeHasher(holding, position)
        self.hashers.append(hasher)
        return hasher

    def pull(self, address: str, holding: AnyHolding, advance: Callable[[int], None]) -> FakeStream:
        assert isinstance(holding, Holding)
        return FakeStream(self, address, holding, advance)

    def ask(self, address: str, verb: str, message: Message) -> Message:
        other = self.network.find(self.address, address)
        if other is None:
            raise PeerLost("refused")
        if other.stopped:
            raise PeerLost("silent")
        if not other.knows(self):
            raise PeerLost("denied")
        said = other.answer(verb, json.loads(json.dumps(message))) if other.answer else None
        if said is None:
            raise PeerLost("moved")
        heard: Message = json.loads(json.dumps(said))
        return heard

    def knows(self, other: FakePeers) -> bool:
        """Whether it is of the same staging."""
        return (self.staging, self.secret) == (other.staging, other.secret)

    def coordinate(self, answer: Answer | None) -> None:
        self.answer = answer

    @property
    def downstream(self) -> int:
        streams = [stream for node in self.network.peers.values() for stream in node.streams]
        return sum(stream.address == self.address and stream.flows for stream in streams)

    def close(self) -> None:
        for stream in list(self.streams):
            stream.stop()
        self._withdraw()
        self.closed, self.answer = True, None

    def flow(self, chunks: int) -> bool:
        """Hash and receive so many chunks; return whether there were any."""
        moved = False
        for _ in range(chunks):
            for hasher in list(self.hashers):
                moved = hasher.step() or moved
            for stream in list(self.streams):
                moved = stream.step() or moved
        return moved

    def _withdraw(self) -> None:
        if self.offered is not None:
            self.offered.close()
            self.offered = None


class FakeHasher:
    """Fulfils `stager.interfaces.Hashing`, chunk by chunk."""

    def __init__(self, holding: Holding, position: Callable[[], int]) -> None:
        self._hasher = ChunkHasher(holding, position)
        self._holding = holding
        self._over = False
        self.error: OSError | None = None

    def finish(self) -> None:
        self._hasher.finish()

    def stop(self) -> None:
        self._over = True

    def step(self) -> bool:
        if self._over or self._holding.complete or self._holding.data < 0:
            return False
        try:
            return self._hasher.step()
        except (OSError, ValueError) as error:
            self.error, self._over = OSError(str(error)), True
            return False


class FakeStream:
    """Fulfils `stager.interfaces.Upstream`: what relay/upstream.py does, one chunk at a time."""

    def __init__(self, mine: FakePeers, address: str, holding: Holding, advance: Callable[[int], None]) -> None:
        self.address = address
        self.lost = ""
        self.error: OSError | None = None
        self.flows = False
        self.counted = holding.counted
        self._mine = mine
        self._holding = holding
        self._advance = advance
        self._heard = 0.0

    def start(self) -> None:
        self.flows = True
        self._heard = self._mine.network.clock.now()
        self.counted = self._holding.counted  # the records are asked for from here on
        self._mine.streams.append(self)

    def stop(self) -> None:
        self.flows = False
        if self in self._mine.streams:
            self._mine.streams.remove(self)

    @property
    def silence(self) -> float:
        return self._mine.network.clock.now() - self._heard if self.flows and not self._holding.complete else 0.0

    def step(self) -> bool:
        if not self.flows or self._holding.complete:
            return False
        other = self._mine.network.find(self._mine.address, self.address)
        if other is None or (not other.stopped and not other.knows(self._mine)):
            return self._end("refused")
        theirs = other.offered
        if other.stopped or theirs is None or theirs.generation < self._holding.generation:
            return False
        return self._end("ended") if theirs.generation > self._holding.generation else self._receive(theirs)

    def _receive(self, theirs: Holding) -> bool:
        ours = self._holding
        if theirs.size is not None and ours.size is None:
            ours.size = theirs.size
        length = min(CHUNK, theirs.verified - self.counted * CHUNK)
        if length <= 0:
            return False
        data, record = memoryview(bytearray(length)), memoryview(bytearray(RECORD))
        if ours.own >= ours.verified + length:
            ours.read(data, ours.verified)
        if not self._accept(theirs, data, record):
            ours.own = 0
            theirs.read(data, self.counted * CHUNK)
            ours.write(data, ours.verified)
            if not self._accept(theirs, data, record):
                return self._end("corrupt")
        self.counted += 1
        self._heard = self._mine.network.clock.now()
        try:
            self._advance(ours.verified)
        except OSError as error:
            self.error = error
            self.flows = False
        return True

    def _accept(self, theirs: Holding, data: memoryview, record: memoryview) -> bool:
        os.preadv(theirs.records, [record], self.counted * RECORD)
        return self._holding.accept(bytes(record), [sha256(data).digest()], len(data)) == 1

    def _end(self, how: str) -> bool:
        self.lost = how
        self.flows = False
        return False
