"""Records in ZooKeeper: sealed, with access lists, their parents made only when they turn out to be missing.

A request that finds its parents costs one message, for the first node of a cluster and the ten thousandth alike.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from stager.election import names
from stager.election.ensemble import Absent, Present
from stager.election.session import access

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.election.ensemble import Ensemble
    from stager.election.names import Tree
    from stager.election.session import Session

IN_FLIGHT = 64
"""Requests on their way at a time when many records are read: more gain nothing, and each is up to 4 KiB of answer."""

ATTEMPTS = 3
"""At making a znode whose parents somebody removes at the same time."""


class Records:
    """What is below one tree. Every call raises ClusterUnavailable, within some multiples of session_timeout."""

    def __init__(self, session: Session, ensemble: Ensemble, tree: Tree) -> None:
        self._session = session
        self._ensemble = ensemble
        self._tree = tree
        self._ours, self._shared = access(ensemble, shared=False), access(ensemble, shared=True)

    def read(self, path: str) -> bytes | None:
        """Return a record, None if there is none."""
        try:
            value, _ = self._session.ask(path, lambda client: client.get_async(path))
        except Absent:
            return None
        record = self._unsealed(path, value)
        if record is None:
            raise self._ensemble.unavailable(
                path,
                "somebody without our credentials wrote it",
                "somebody took this place before you: have the administrator of ZooKeeper remove it",
            )
        return record

    def create(self, path: str, record: bytes, *, ephemeral: bool = False) -> bool:
        """Make a record unless there is one; return whether it was made."""
        sealed = self._sealed(path, record)
        for _ in range(ATTEMPTS):
            try:
                self._session.ask(
                    path, lambda client: client.create_async(path, sealed, acl=self._ours, ephemeral=ephemeral)
                )
            except Present:
                return False
            except Absent:
                self._make(names.parent(path))
            else:
                return True
        raise self._ensemble.unavailable(path, "what is above it does not stay")

    def write(self, path: str, record: bytes) -> None:
        """Make a record, or replace it."""
        sealed = self._sealed(path, record)
        for _ in range(ATTEMPTS):
            try:
                self._session.ask(path, lambda client: client.set_async(path, sealed))
            except Absent:
                if self.create(path, record):
                    return
            else:
                return
        raise self._ensemble.unavailable(path, "it comes and goes")

    def holder(self, path: str) -> int:
        """Return the number of the session that an ephemeral record lives by; 0 if there is none."""
        stat = self._session.ask(path, lambda client: client.exists_async(path))
        return int(stat.ephemeralOwner) if stat else 0

    def made(self, path: str) -> float | None:
        """Return when a record was made, in seconds since the epoch; None if there is none."""
        stat = self._session.ask(path, lambda client: client.exists_async(path))
        return float(stat.ctime) / 1000 if stat else None

    def children(self, path: str) -> list[str]:
        """Return the names below a path, encoded as they are; none if it is not there."""
        try:
            return list(self._session.ask(path, lambda client: client.get_children_async(path)))
        except Absent:
            return []

    def all_below(self, path: str) -> Iterator[tuple[str, bytes]]:
        """Yield name and record of all that is below a path, without what strangers left there."""
        left = iter(self.children(path))
        waiting = deque((name, self._post(f"{path}/{name}")) for name in islice(left, IN_FLIGHT))
        while waiting:
            name, posted = waiting.popleft()
            record = self._received(f"{path}/{name}", posted)
            waiting.extend((other, self._post(f"{path}/{other}")) for other in islice(left, 1))
            if record is not None:
                yield name, record

    def remove(self, path: str) -> None:
        """Remove a record, if it is there and nothing is below it."""
        try:
            self._session.ask(path, lambda client: client.delete_async(path))
        except (Absent, Present):
            return

    def _post(self, path: str) -> Any:  # noqa: ANN401
        return self._session.post(lambda client: client.get_async(path))

    def _received(self, path: str, posted: Any) -> bytes | None:  # noqa: ANN401
        first = [posted]
        try:
            # Lost with the connection? Then it is asked for again.
            value, _ = self._session.ask(path, lambda client: first.pop() if first else client.get_async(path))
        except Absent:
            return None
        return self._unsealed(path, value)

    def _make(self, path: str) -> None:
        """Make an empty znode for others to be below, and what is missing above it."""
        acl = self._shared if self._tree.is_shared(path) else self._ours
        above = names.parent(path)
        for _ in range(ATTEMPTS):
            try:
                self._session.ask(path, lambda client: client.create_async(path, acl=acl))
            except Present:
                return
            except Absent:
                if not above:
                    break
                self._make(above)
            else:
                return
        raise self._ensemble.unavailable(path, "what is above it is not there", "see the path in cluster.zookeeper")

    def _sealed(self, path: str, record: bytes) -> bytes:
        ours = self._ensemble.credentials
        return ours.seal(path, record) if ours else record

    def _unsealed(self, path: str, value: bytes) -> bytes | None:
        ours = self._ensemble.credentials
        return ours.unseal(path, value) if ours else value
