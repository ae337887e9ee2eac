"""The coordinator's seat: taken by whoever claims it first, and asked by everybody else."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stager.errors import ClusterUnavailable
from stager.interfaces import PeerLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.clock import Clock
    from stager.coordinator import Coordinator
    from stager.interfaces import Message, Peers, Rendezvous


@dataclass(slots=True)
class Seat:
    """One member's way to the coordinator, which may be this very process.

    `fresh_secret` makes what all members of a staging share, when this one is the first; `appoint` makes a coordinator;
    `about`: what its record tells beside its address.
    """

    staging: str
    rendezvous: Rendezvous
    peers: Peers
    clock: Clock
    fresh_secret: Callable[[], str]
    appoint: Callable[[], Coordinator]
    about: dict[str, str] = field(default_factory=dict)
    _secret: str = ""
    _address: str = ""
    _mine: Coordinator | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def taken(self) -> bool:
        """Whether the coordinator is this process."""
        return self._mine is not None

    @property
    def over(self) -> bool:
        """Whether this process coordinates a staging that nobody needs any more."""
        return self._mine is not None and self._mine.is_over(self.clock.now())

    @property
    def deserted(self) -> bool:
        """Whether nobody is left to answer but this process itself."""
        return self._mine is None or len(self._mine.roster.members) <= 1

    def take(self) -> None:
        """Find the coordinator, or become it. Raises ClusterUnavailable."""
        self._address = ""
        if self._mine is not None:
            self._keep()
            return
        record = self._record()
        if record is None and self._claim():
            return
        record = record or self._record()
        if record is not None:
            self._follow(record)

    def ask(self, verb: str, message: Message) -> Message:
        """Return the coordinator's answer. Raises PeerLost."""
        mine = self._mine
        if mine is not None and not self._dethroned():
            return self._answer(verb, message) or {}
        if not self._address:
            raise PeerLost("refused")
        return self.peers.ask(self._address, verb, message)

    def leave(self) -> None:
        """Give the seat up, if it is ours."""
        if self._mine is not None:
            self.peers.coordinate(None)
            self._mine = None
            self.rendezvous.resign(self.staging)

    def _claim(self) -> bool:
        secret = self._secret or self.fresh_secret()
        self._use(secret)
        record = json.dumps({**self.about, "address": self.peers.address, "secret": secret}).encode()
        if not self.rendezvous.claim(self.staging, record):
            return False
        self._mine = self.appoint()
        self.peers.coordinate(self._answer)
        return True

    def _keep(self) -> None:
        # Our session may have ended while we were stopped, or cut off: then somebody else may sit here by now.
        if self.rendezvous.leads(self.staging):
            return
        record = json.dumps({**self.about, "address": self.peers.address, "secret": self._secret}).encode()
        if not self.rendezvous.claim(self.staging, record):
            self.peers.coordinate(None)
            self._mine = None

    def _dethroned(self) -> bool:
        """Look after our claim, when it is in doubt; without ZooKeeper nobody else can have taken the seat."""
        if self._mine is not None and not self.rendezvous.leads(self.staging):
            try:
                self._keep()
            except ClusterUnavailable:
                return False
        return self._mine is None

    def _answer(self, verb: str, message: Message) -> Message | None:
        with self._lock:
            mine = self._mine
            if mine is None:
                return None
            now = self.clock.now()
            mine.tick(now)
            answer: Message = mine.answer(verb, message, now)
            return answer

    def _record(self) -> Message | None:
        raw = self.rendezvous.leader(self.staging)
        try:
            record = json.loads(raw) if raw else None
        except ValueError:
            return None
        return record if isinstance(record, dict) else None

    def _follow(self, record: Message) -> None:
        address, secret = record.get("address"), record.get("secret")
        if isinstance(address, str) and isinstance(secret, str) and address != self.peers.address:
            self._use(secret)
            self._address = address

    def _use(self, secret: str) -> None:
        if secret != self._secret:
            self._secret = secret
            self.peers.trust(secret)
