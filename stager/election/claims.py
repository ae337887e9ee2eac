"""Claims: ephemeral records, of which each path has one at a time, and which we know to be ours or not without asking.

Whoever asks to make one and loses the connection does not know whether it was made. It is looked up when the claim is
repeated; otherwise, once there is a connection again, it is removed: nobody leads without knowing.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from stager.election.ensemble import Absent
from stager.errors import ClusterUnavailable

if TYPE_CHECKING:
    from stager.election.records import Records
    from stager.election.session import Session


class Claims:
    """Those of one session. May be called from several threads."""

    def __init__(self, session: Session, records: Records) -> None:
        self._session = session
        self._records = records
        self._lock = threading.RLock()
        self._held: dict[str, int] = {}
        self._doubtful: set[str] = set()

    def claim(self, path: str, record: bytes) -> bool:
        """Return whether the claim is ours now. Raises ClusterUnavailable.

        One request, unless the connection is lost in between.
        """
        with self._lock:
            doubted = path in self._doubtful
            self._doubtful.discard(path)
        epoch, interrupted = self._session.expired, self._session.interrupted
        try:
            won = self._records.create(path, record, ephemeral=True) or self._held.get(path) == epoch
            if doubted or self._session.interrupted != interrupted:
                epoch = self._session.expired
                won = self._records.holder(path) == self._session.identity
        except ClusterUnavailable:
            self._doubt(path)
            raise
        with self._lock:
            if won:
                self._held[path] = epoch
            else:
                self._held.pop(path, None)
        return won

    def holds(self, path: str) -> bool:
        """Whether a claim is ours beyond doubt. Asks nobody."""
        return self._session.sure and self._held.get(path) == self._session.expired

    def give_up(self, path: str) -> None:
        """Take a claim back, if it is ours. Raises ClusterUnavailable; then it is taken back later."""
        with self._lock:
            epoch = self._held.pop(path, None)

        def remove(client: Any) -> Any:  # noqa: ANN401
            if epoch != self._session.expired:
                raise Absent(path)  # gone with its session; what may be there is somebody else's
            return client.delete_async(path)

        try:
            self._session.ask(path, remove)
        except Absent:
            return
        except ClusterUnavailable:
            self._doubt(path)
            raise

    def forget(self) -> None:
        """Hold nothing any more, for good: the session is about to end."""
        with self._lock:
            self._held.clear()
            self._doubtful.clear()

    def settle(self) -> None:
        """Look after what is in doubt. Called with each new connection; waits for nothing."""
        with self._lock:
            doubtful = list(self._doubtful)
        for path in doubtful:
            self._look_up(path)

    def _doubt(self, path: str) -> None:
        with self._lock:
            self._held.pop(path, None)
            self._doubtful.add(path)
        # Behind the request in doubt, if that is still waiting to be sent.
        self._look_up(path)

    def _look_up(self, path: str) -> None:
        self._session.post(lambda client: client.exists_async(path)).rawlink(lambda answer: self._seen(path, answer))

    def _seen(self, path: str, answer: Any) -> None:  # noqa: ANN401
        """Remove what is ours. An answer that never came leaves it in doubt."""
        with self._lock:
            if path not in self._doubtful or not answer.successful():
                return
            self._doubtful.discard(path)
            if answer.value and answer.value.ephemeralOwner == self._session.identity:
                removal = self._session.post(lambda client: client.delete_async(path))
                removal.rawlink(lambda outcome: self._removed(path, outcome))

    def _removed(self, path: str, outcome: Any) -> None:  # noqa: ANN401
        if not outcome.successful():
            with self._lock:
                self._doubtful.add(path)
