"""One leader per cluster, with the interface of the node's file lock."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from stager.errors import ClusterUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.interfaces import Rendezvous


class ClusterElection:
    """Leadership by a claim for each name; `record` says who we are.

    Leadership ends with the context, or when ZooKeeper has not heard from this process for the session's timeout:
    `rendezvous.leads(name)` tells.
    """

    def __init__(self, rendezvous: Rendezvous, record: bytes) -> None:
        self._rendezvous = rendezvous
        self._record = record

    @contextmanager
    def lead(self, name: str) -> Iterator[bool]:
        """Try to lead, without waiting for others. Raises ClusterUnavailable."""
        won = self._rendezvous.claim(name, self._record)
        try:
            yield won
        finally:
            if won:
                with suppress(ClusterUnavailable):  # then it is given up with the next connection, or with the session
                    self._rendezvous.resign(name)
