"""Where the nodes of a cluster meet: ZooKeeper.

For each node one connection, a lookup of the job's pin, a claim or a read of whose it is, and a record of what the node
holds. No watches, and no list of children on the path of a job: with 10,000 nodes that would be 10,000 × 10,000 names.
"""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING

from stager.election import names
from stager.election.claims import Claims
from stager.election.names import Tree
from stager.errors import ClusterUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stager.election.ensemble import Ensemble
    from stager.election.records import Records
    from stager.election.session import Session

MAX_RECORD = 4096
"""Bytes of a claim's record: all nodes read it."""

MAX_NODE_RECORD = 64 * 1024
"""Bytes of a node's record. All of ZooKeeper lies in its servers' memory: 10,000 nodes with this much are 640 MB."""

PIN_SECONDS = 30 * 24 * 3600.0
"""How long a job's pins are kept. Sites let jobs run for days or weeks, hardly for months; and a job whose pins were
swept away still has those of its nodes."""

CONVERSION_SECONDS = 180 * 24 * 3600.0
"""How long it is kept what came of a conversion, from the first one on: the images themselves are evicted earlier, and
what is forgotten costs a conversion at the most."""

_DIGEST = re.compile(rb"[0-9a-f]{64}")


class ZooKeeperRendezvous:
    """A Rendezvous (stager.interfaces) below `/stage-image/<name>/<owner>`; `wall` tells seconds since the epoch.

    Nothing of kazoo is imported, and no thread started, before `connect`. Every call is bounded: the first question
    that is not answered within the session's timeout raises ClusterUnavailable, and no call asks more than a few.
    ConfigError is raised for names that cannot be used and for TLS files that cannot be read.
    """

    def __init__(self, ensemble: Ensemble, *, name: str, owner: str, wall: Callable[[], float] = time.time) -> None:
        self._ensemble = ensemble
        self._tree = Tree(name, owner)
        self._wall = wall
        self._listeners: list[Callable[[str], None]] = []
        self._session: Session | None = None
        self._records: Records | None = None
        self._claims: Claims | None = None

    @property
    def address(self) -> str:
        """By which of our IP addresses we are connected, or were last; empty before."""
        return self._session.address if self._session else ""

    @property
    def state(self) -> str:
        """`connected`, `suspended` (the session may live on) or `lost`."""
        return self._session.state if self._session else "lost"

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Have `callback` called with each new state, in another thread: it must not block, nor call us."""
        self._listeners.append(callback)

    def connect(self) -> None:
        """Begin the session that everything else needs. Raises ClusterUnavailable.

        At the latest after connect_timeout, and earlier where waiting is no use: the limit of connections is reached,
        TLS or the credentials are refused.
        """
        if self._session:
            return
        try:
            from stager.election.records import Records
            from stager.election.session import Session
        except ImportError as error:
            missing = self._ensemble.unavailable("it cannot be asked", f"Python's kazoo is not installed ({error})")
            missing.hint = "pip install 'stage-image[cluster]'"
            raise missing from error
        session = Session(self._ensemble, self._changed)
        session.begin()
        self._session = session
        self._records = Records(session, self._ensemble, self._tree)
        self._claims = Claims(session, self._records)

    def pin(self, scope: str, key: str) -> str | None:
        """Return the digest (64 hex digits) that a job is pinned to on all its nodes."""
        return self._digest(self._tree.pin(scope, key))

    def conversion(self, name: str) -> str | None:
        """Return the digest (64 hex digits) of what came of a conversion."""
        return self._digest(self._tree.conversion(name))

    def set_conversion(self, name: str, digest_hex: str) -> None:
        """Make known what came of a conversion: the last one counts, whose image is the likeliest to be somewhere."""
        if not _DIGEST.fullmatch(digest_hex.encode()):
            raise ValueError(f"{digest_hex!r} is no digest")
        self._known.write(self._tree.conversion(name), digest_hex.encode())

    def _digest(self, path: str) -> str | None:
        value = self._known.read(path)
        if value is not None and not _DIGEST.fullmatch(value):
            raise self._ensemble.unavailable(path, f"it holds no digest but {value[:80]!a}")
        return value.decode() if value is not None else None

    def set_pin(self, scope: str, key: str, digest_hex: str) -> str:
        """Pin a job; return what it is pinned to: the first one wins."""
        path, value = self._tree.pin(scope, key), digest_hex.encode()
        if not _DIGEST.fullmatch(value):
            raise ValueError(f"{digest_hex!r} is no digest")
        while not self._known.create(path, value):
            standing = self.pin(scope, key)
            if standing is not None:
                return standing
        return digest_hex

    def forget_scope(self, scope: str) -> None:
        """Remove all pins of a job."""
        self._forget(self._tree.scope(scope))

    def sweep(self, limit: int = 8) -> None:
        """Look at up to `limit` jobs at random, and remove the pins of those that are older than PIN_SECONDS.

        And at as many conversions, for CONVERSION_SECONDS.
        """
        for path, age in ((self._tree.pins, PIN_SECONDS), (self._tree.conversions, CONVERSION_SECONDS)):
            buckets = self._known.children(path)
            bucket = f"{path}/{random.choice(buckets)}" if buckets else ""  # noqa: S311
            found = self._known.children(bucket) if bucket else []
            for name in random.sample(found, min(limit, len(found))):
                made = self._known.made(f"{bucket}/{name}")
                if made is not None and self._wall() - made > age:
                    self._forget(f"{bucket}/{name}")

    def claim(self, staging: str, record: bytes) -> bool:
        """Try to coordinate a staging for as long as our session lives; `record` says who we are."""
        if len(record) > MAX_RECORD:
            raise ValueError(f"a claim's record may have {MAX_RECORD} bytes, not {len(record)}")
        return self._held.claim(self._tree.staging(staging), record)

    def leader(self, staging: str) -> bytes | None:
        """Return the record of whoever coordinates a staging."""
        return self._known.read(self._tree.staging(staging))

    def leads(self, staging: str) -> bool:
        """Whether our claim is beyond doubt. Asks nobody."""
        return self._claims is not None and self._claims.holds(self._tree.staging(staging))

    def resign(self, staging: str) -> None:
        """Take our claim back. Where that cannot be done at once, it is done with the next connection."""
        self._held.give_up(self._tree.staging(staging))

    def write_node(self, host: str, record: bytes) -> None:
        """Make known what a node's store holds."""
        if len(record) > MAX_NODE_RECORD:
            raise ValueError(f"a node's record may have {MAX_NODE_RECORD} bytes, not {len(record)}")
        self._known.write(self._tree.node(host), record)

    def stagings(self) -> dict[str, bytes]:
        """Return the records of all coordinators. For administrators: it reads them all."""
        return dict(self._all(self._tree.stagings))

    def nodes(self) -> dict[str, bytes]:
        """Return the records of all nodes. For administrators: it reads them all."""
        return dict(self._all(self._tree.nodes))

    def close(self) -> None:
        """End the session, and our claims with it, within 2 s. May be called twice; `connect` may follow."""
        session, claims = self._session, self._claims
        self._session = self._records = self._claims = None
        if claims:
            claims.forget()
        if session:
            session.end()

    @property
    def _known(self) -> Records:
        if self._records is None:
            raise self._unconnected()
        return self._records

    @property
    def _held(self) -> Claims:
        if self._claims is None:
            raise self._unconnected()
        return self._claims

    def _unconnected(self) -> ClusterUnavailable:
        return self._ensemble.unavailable(self._tree.root, "we are not connected")

    def _changed(self, state: str) -> None:
        if state == "connected" and self._claims:
            self._claims.settle()
        for listener in self._listeners:
            listener(state)

    def _forget(self, scope: str) -> None:
        for key in self._known.children(scope):
            self._known.remove(f"{scope}/{key}")
        self._known.remove(scope)

    def _all(self, path: str) -> Iterator[tuple[str, bytes]]:
        return ((names.original(name), record) for name, record in self._known.all_below(path))
