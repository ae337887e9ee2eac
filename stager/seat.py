"""The coordinator's seat: taken by whoever claims it first, and asked by everybody else."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from stager.errors import ClusterUnavailable
from stager.interfaces import PeerLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.clock import Clock
    from stager.coordinator import Coordinator
    from stager.interfaces import Message, Peers, Rendezvous


_HEX = frozenset("0123456789abcdef")

HOUR = 3600.0

HEARD_SECONDS = 1.0
"""Between two questions of another member, and since the second: so long we are not cut off."""

NAME_MAX = 255
"""Characters of a member's name that are looked at."""

WATCH_SECONDS = 0.3
"""Between two looks at our claims. The look itself asks nobody (`leads`)."""

LEAVE_SECONDS = 2.0
"""For a look to end that is under way."""


@dataclass(slots=True)
class Seat:
    """One member's way to the coordinator, which may be this very process.

    `places`: where to look for it, the first one being where it is founded if there is none. `also` gives one more
    place for a digest, where those look who know what they want. `fresh_secret` makes what all members of a staging
    share, when this one is the first; `appoint` makes a coordinator; `about`: what its record tells beside its address.
    """

    places: tuple[str, ...]
    also: Callable[[str], str]
    rendezvous: Rendezvous
    peers: Peers
    clock: Clock
    fresh_secret: Callable[[], str]
    appoint: Callable[[str], Coordinator]
    about: dict[str, str] = field(default_factory=dict)
    _staging: str = ""
    _alias: str = ""
    _closed: bool = False
    _heard: float = -HOUR
    _asked: dict[str, float] = field(default_factory=dict)
    era: int = 0
    """Rises when the secret changes: what was vouched for by an old one is nothing to newcomers."""
    _secret: str = ""
    _address: str = ""
    _mine: Coordinator | None = None
    _watch: threading.Thread | None = None
    _end: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def taken(self) -> bool:
        """Whether the coordinator is this process."""
        return self._mine is not None

    @property
    def beyond_doubt(self) -> bool:
        """Whether the coordinator is another process, which has answered, or this one: to ZooKeeper or to others."""
        claimed = self._alias if self._closed else self._staging
        heard = monotonic() - self._heard < HEARD_SECONDS
        return self._mine is None or heard or self.rendezvous.leads(claimed)

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
        if self._mine is not None:
            return
        self._address = ""
        # Once the staging has a name it is claimed by that and no other, whoever coordinates it.
        places = (self._staging,) if self._staging else self.places
        found = (record for place in places if (record := self._record(place)) is not None)
        record = next(found, None)
        if record is None and not self._claim(places[0]):
            record = self._record(places[0])
        if record is not None:
            self._follow(record)

    def publish(self, digest: str) -> None:
        """As the coordinator, be found soon by those, too, who want this very digest."""
        if self._mine is not None and not self._alias:
            self._alias = self.also(digest)

    def close_door(self) -> None:
        """As the coordinator, be found soon only by those who want this very digest."""
        self._closed = self._closed or (self._mine is not None and bool(self._alias))

    def ask(self, verb: str, message: Message) -> Message:
        """Return the coordinator's answer. Raises PeerLost."""
        if self._mine is not None:
            return self._answer(verb, message) or {"unknown": True}
        if not self._address:
            raise PeerLost("refused")
        return self.peers.ask(self._address, verb, message)

    def forget(self) -> None:
        """Look for a coordinator as if there had been none yet."""
        if self._mine is None:
            self._staging = self._address = ""

    def leave(self) -> None:
        """Give the seat up, if it is ours."""
        self._end.set()
        if self._watch is not None:
            self._watch.join(LEAVE_SECONDS)
        if self._mine is not None:
            self._step_down()
            for place in {self._alias, self._staging} - {""}:
                self.rendezvous.resign(place)

    def _claim(self, place: str) -> bool:
        before = self._staging
        self._use(place, self._secret or self.fresh_secret())
        if not self.rendezvous.claim(place, self._about()):
            self._staging = before
            return False
        self._mine = self.appoint(place)
        self.peers.coordinate(self._answer_others)
        self._watch = threading.Thread(target=self._keep_watch, name="seat", daemon=True)
        self._watch.start()
        return True

    def _keep_watch(self) -> None:
        """Look after our claims: what ZooKeeper may be slow to answer shall keep nobody waiting.

        Our session may have ended while we were stopped or cut off, and somebody else may sit here by now. While
        ZooKeeper cannot be asked, nobody else can have taken the seat.
        """
        while not self._end.wait(WATCH_SECONDS) and self._mine is not None:
            with suppress(ClusterUnavailable):
                self._keep_claims()

    def _keep_claims(self) -> None:
        open_to_all, known = self._staging, self._alias
        lacks = known not in {"", open_to_all} and not self.rendezvous.leads(known)
        if lacks and not self.rendezvous.claim(known, self._about()):
            self._alias = open_to_all  # another staging of the same image has it: theirs, then
        if self._closed and known != open_to_all:
            if self.rendezvous.leads(open_to_all):
                self.rendezvous.resign(open_to_all)
        elif not self.rendezvous.leads(open_to_all) and not self.rendezvous.claim(open_to_all, self._about()):
            self._step_down()

    def _step_down(self) -> None:
        self.peers.coordinate(None)
        self._mine = None

    def _answer_others(self, verb: str, message: Message) -> Message | None:
        # One question alone may have been on its way for as long as we were cut off: TCP sends it again.
        node, now = str(message.get("node"))[:NAME_MAX], monotonic()
        if now - self._asked.get(node, -HOUR) < HEARD_SECONDS:
            self._heard = now
        self._asked[node] = now
        return self._answer(verb, message)

    def _answer(self, verb: str, message: Message) -> Message | None:
        with self._lock:
            mine = self._mine
            if mine is None:
                return None
            now = self.clock.now()
            mine.tick(now)
            answer: Message = mine.answer(verb, message, now)
            return answer

    def _about(self) -> bytes:
        about = {**self.about, "address": self.peers.address, "secret": self._secret, "staging": self._staging}
        return json.dumps(about, ensure_ascii=False).encode("utf-8", "backslashreplace")

    def _record(self, place: str) -> Message | None:
        raw = self.rendezvous.leader(place)
        try:
            record = json.loads(raw) if raw else None
        except (ValueError, RecursionError):
            record = None
        return record if isinstance(record, dict) and _is_sound(record) else None

    def _follow(self, record: Message) -> None:
        if record["address"] != self.peers.address:
            self._use(record["staging"], record["secret"])
            self._address = record["address"]

    def _use(self, staging: str, secret: str) -> None:
        if (staging, secret) != (self._staging, self._secret):
            self.era += bool(self._secret) and secret != self._secret
            self._staging, self._secret = staging, secret
            self.peers.trust(staging, secret)


def _is_sound(record: Message) -> bool:
    """Whether a record can be one of ours: where ZooKeeper has no credentials, anybody may have written it."""
    texts = [record.get(name) for name in ("address", "secret", "staging")]
    if not all(isinstance(text, str) and len(text) <= 64 and text.isprintable() for text in texts):
        return False
    hexes = (str(record["secret"]), 64), (str(record["staging"]), 32)
    return all(len(text) == length and not set(text) - _HEX for text, length in hexes)
