"""A session with ZooKeeper, by kazoo: begun, asked and ended within bounds.

kazoo's own blocking calls wait without limit while there is no connection, and its start and stop for as long as a name
server or a silent server likes. So nothing of kazoo's that blocks is called from the caller's thread.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from kazoo import exceptions
from kazoo.client import KazooClient
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.security import ACL, Id, Permissions

from stager.election.contact import HUNG_UP
from stager.election.ensemble import Absent, Present
from stager.election.wire import Wire
from stager.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.election.ensemble import Ensemble

SURE = 0.75
"""Of the session's timeout, how long our word for it counts. A follower tells the leader of the ensemble every half
tick which clients it heard from (Leader.lead, ZooKeeper 3.8), and may die before; a session lasts two ticks at least,
so that is a quarter. kazoo asks for a sign of life after a third."""

GRACE = 1.0
"""Seconds for a session to end in good order, and again for being torn down."""

LOOK = 0.05
"""Seconds between two looks at a connection that is being made."""

REFUSALS = 3
"""So often each server may hang up before it is asked why."""

_RECONNECT = {"max_tries": -1, "delay": 0.1, "backoff": 2, "max_jitter": 0.5, "max_delay": 2.0}

_SILENT = logging.Logger("kazoo", logging.CRITICAL + 1)  # noqa: LOG001
"""Attached to nothing: kazoo would tell the whole record, secret included, to whoever listens at level DEBUG."""

_AGAIN = (exceptions.ConnectionLoss, exceptions.OperationTimeoutError, exceptions.SessionExpiredError)


class Session:
    """One client of the ensemble. `changed` is called with each new state, in kazoo's thread: it must not block.

    `state` is `connected`, `suspended` (no connection, the session may live) or `lost`. `interrupted` counts the times
    that it was anything but connected, `expired` those that it was lost: kazoo then begins another session.
    """

    def __init__(self, ensemble: Ensemble, changed: Callable[[str], None]) -> None:
        self._ensemble = ensemble
        self._changed = changed
        self._wire = Wire(ensemble.tls())
        self.state = "lost"
        self.expired = 0
        self.interrupted = 0
        self._looked_into = 0
        try:
            self._client = KazooClient(
                ensemble.hosts,
                timeout=ensemble.session_timeout,
                handler=self._wire,
                auth_data=[("digest", ensemble.credentials.plain)] if ensemble.credentials else None,
                connection_retry=dict(_RECONNECT),
                logger=_SILENT,
            )
        except ValueError as error:
            raise ConfigError(f"ZooKeeper's servers cannot be {ensemble.hosts!a}: {error}") from error
        self._wire.patience = ensemble.connect_timeout / (1 + len(self._client.hosts))
        self._wire.silence = ensemble.connect_timeout / 2
        self._client.add_listener(self._listen)

    @property
    def address(self) -> str:
        """Our own IP address of the connection; empty before there was one."""
        return self._wire.address

    @property
    def identity(self) -> int | None:
        """The session's number, None while it is not connected."""
        known = self._client.client_id
        return known[0] if known else None

    @property
    def sure(self) -> bool:
        """Whether the session lives for certain, without asking."""
        return self.state == "connected" and self._wire.contact.sure(SURE)

    def begin(self) -> None:
        """Connect. Raises ClusterUnavailable within connect_timeout and some moments for tidying up."""
        end = time.monotonic() + self._ensemble.connect_timeout
        live = self._client.start_async()
        while not live.wait(LOOK):
            late = time.monotonic() >= end
            why, hint = self._diagnosis() if late or self._is_doubtful() else ("", "")
            if late or hint:
                self.end()
                raise self._ensemble.unavailable("there is no session", why, hint)

    def ask(self, path: str, request: Callable[[Any], Any]) -> Any:  # noqa: ANN401
        """Return the answer to `request`, called with kazoo's client once for each attempt.

        Raises Absent, Present, and ClusterUnavailable, the latter within session_timeout.
        """
        end = time.monotonic() + self._ensemble.session_timeout
        while True:
            try:
                return request(self._client).get(timeout=max(0.0, end - time.monotonic()))
            except exceptions.NoNodeError as error:
                raise Absent(path) from error
            except (exceptions.NodeExistsError, exceptions.NotEmptyError) as error:
                raise Present(path) from error
            except KazooTimeoutError as error:
                raise self._ensemble.unavailable(
                    path, f"no answer within {self._ensemble.session_timeout:g} s"
                ) from error
            except exceptions.KazooException as error:
                pause = random.uniform(LOOK, 4 * LOOK)  # noqa: S311
                lasting = isinstance(error, exceptions.ConnectionClosedError) or not isinstance(error, _AGAIN)
                if lasting or time.monotonic() + pause > end:
                    raise self._ensemble.unavailable(path, *_told(error)) from error
                time.sleep(pause)

    def post(self, request: Callable[[Any], Any]) -> Any:  # noqa: ANN401
        """Ask without waiting; return kazoo's promise of an answer."""
        return request(self._client)

    def end(self) -> None:
        """End the session, which removes its ephemerals at once, and give up in 2 × GRACE. May be called twice."""
        ending = threading.Thread(target=self._end, daemon=True)
        ending.start()
        ending.join(GRACE)
        if ending.is_alive():
            self._wire.abort()
            ending.join(GRACE)

    def _end(self) -> None:
        with suppress(Exception):  # whatever kazoo may find: nothing is left to do about it
            self._client.stop()
            self._client.close()

    def _listen(self, state: str) -> None:
        self.state = state.lower()
        self.interrupted += self.state != "connected"
        self.expired += self.state == "lost"
        self._changed(self.state)

    def _is_doubtful(self) -> bool:
        """Whether it is time to find out if waiting is any use."""
        refused = self._wire.refusals - self._looked_into >= REFUSALS * len(self._client.hosts)
        self._looked_into += REFUSALS * len(self._client.hosts) * refused
        return refused or self._client.client_state == "AUTH_FAILED"

    def _diagnosis(self) -> tuple[str, str]:
        """Return why there is no connection, and a hint where waiting any longer is no use."""
        if self._client.client_state == "AUTH_FAILED":
            return _told(exceptions.AuthFailedError())
        troubles = self._wire.troubles
        told = "; ".join(f"{place}: {text}" for place, text in sorted(troubles.items()))
        if any("SSL" in text for text in troubles.values()):
            return told, "see cluster.ca_file, cluster.certificate_file and the names in cluster.zookeeper"
        if HUNG_UP in troubles.values() and not self._ensemble.ca_file and self._are_full():
            return f"{told}: it has as many connections from here as it allows", "raise maxClientCnxns in its zoo.cfg"
        waited = f"not within {self._ensemble.connect_timeout:g} s"
        return f"{waited}: {told or 'the names of the servers cannot be resolved'}", ""

    def _are_full(self) -> bool:
        """Whether no server says even how it is: one without a quorum does, one with too many connections does not."""
        return not any(_status(place) for place in self._client.hosts)


def access(ensemble: Ensemble, *, shared: bool) -> list[Any]:
    """Return kazoo's form of who may do what with a znode: everybody everything where we have no credentials.

    With credentials only we, but others may have their own trees below what is `shared`.
    """
    anyone = Id("world", "anyone")
    if not ensemble.credentials:
        return [ACL(Permissions.ALL, anyone)]
    ours = ACL(Permissions.ALL, Id("digest", ensemble.credentials.identity))
    return [ours, ACL(Permissions.READ | Permissions.CREATE, anyone)] if shared else [ours]


def _told(error: Exception) -> tuple[str, str]:
    """Return what an answer means, and what to try."""
    if isinstance(error, exceptions.NoAuthError):
        return "access denied: it belongs to somebody with other credentials", "see cluster.credentials_file"
    if isinstance(error, (exceptions.AuthFailedError, exceptions.SessionClosedRequireSaslError)):
        return "it wants other credentials than ours, or refuses them", "see cluster.credentials_file"
    if isinstance(error, exceptions.ConnectionClosedError):
        return "the session is closed", ""
    if isinstance(error, _AGAIN):
        return "the connection was lost", ""
    return str(error) or type(error).__name__, ""


def _listed(troubles: dict[str, str]) -> str:
    return "; ".join(f"{place}: {text}" for place, text in sorted(troubles.items()))


def _status(place: tuple[str, int]) -> bytes:
    """Return the beginning of what a server says to `srvr`, which all allow; nothing if it does not answer."""
    try:
        with socket.create_connection(place, GRACE) as connection:
            connection.sendall(b"srvr")
            return connection.recv(64)
    except OSError:
        return b""
