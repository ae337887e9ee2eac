"""ZooKeeper in memory: sessions that end when the test says so, and an ensemble that can be away."""

from __future__ import annotations

from dataclasses import dataclass, field

from stager.errors import ClusterUnavailable

MAX_RECORD = 4096
"""Bytes of a claim's record, as in stager/election/zookeeper.py."""


@dataclass
class Town:
    """What all nodes see: pins, claims and records. `asked` counts what was asked for, by the name of the call."""

    away: bool = False
    pins: dict[tuple[str, str], str] = field(default_factory=dict)
    claims: dict[str, tuple[FakeRendezvous, bytes]] = field(default_factory=dict)
    nodes: dict[str, bytes] = field(default_factory=dict)
    conversions: dict[str, str] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def visitor(self, address: str = "127.0.0.1") -> FakeRendezvous:
        """Return the way in of one process."""
        return FakeRendezvous(self, address)


@dataclass(eq=False)
class FakeRendezvous:
    """Fulfils `stager.interfaces.Rendezvous`. `cut`: this one process does not reach the town, its session goes on."""

    town: Town
    address: str
    cut: bool = False
    closed: bool = False

    def lapse(self) -> None:
        """End the session as after a silence: its claims are gone, and the next call is one of a new session."""
        self.town.claims = {place: claim for place, claim in self.town.claims.items() if claim[0] is not self}

    def connect(self) -> None:
        self._ask("connect")

    def pin(self, scope: str, key: str) -> str | None:
        self._ask("pin")
        return self.town.pins.get((scope, key))

    def set_pin(self, scope: str, key: str, digest_hex: str) -> str:
        self._ask("set_pin")
        return self.town.pins.setdefault((scope, key), digest_hex)

    def conversion(self, name: str) -> str | None:
        self._ask("conversion")
        return self.town.conversions.get(name)

    def set_conversion(self, name: str, digest_hex: str) -> None:
        self._ask("set_conversion")
        self.town.conversions[name] = digest_hex

    def claim(self, staging: str, record: bytes) -> bool:
        self._ask("claim")
        if len(record) > MAX_RECORD:
            raise ValueError(f"a claim's record may have {MAX_RECORD} bytes, not {len(record)}")
        return self.town.claims.setdefault(staging, (self, record))[0] is self

    def leader(self, staging: str) -> bytes | None:
        self._ask("leader")
        claim = self.town.claims.get(staging)
        return claim[1] if claim else None

    def leads(self, staging: str) -> bool:
        claim = self.town.claims.get(staging)
        return not self._lost and claim is not None and claim[0] is self

    def resign(self, staging: str) -> None:
        self._ask("resign")
        if self.leads(staging):
            del self.town.claims[staging]

    def write_node(self, host: str, record: bytes) -> None:
        self._ask("write_node")
        self.town.nodes[host] = record

    def sweep(self, limit: int = 8) -> None:
        self._ask("sweep")

    def close(self) -> None:
        self.closed = True
        self.lapse()

    @property
    def _lost(self) -> bool:
        return self.town.away or self.cut or self.closed

    def _ask(self, what: str) -> None:
        self.town.asked[what] = self.town.asked.get(what, 0) + 1
        if self._lost:
            raise ClusterUnavailable("ZooKeeper does not answer")
