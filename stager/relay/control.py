"""What a member says to the coordinator, and what it answers: signed JSON over one connection that is kept."""

from __future__ import annotations

import json
from time import monotonic

from stager.relay.link import Link, PeerLost
from stager.relay.wire import JSON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from stager.clock import Clock
    from stager.relay.secret import Secret

__all__ = ["Control", "PeerLost"]

ANSWER_MAX = 8 << 20
"""Bytes; 10,000 nodes in an answer to `status` are some 2 MB."""

_LOST = {403: "denied", 404: "moved", 410: "moved"}


class Control:
    """A way to the coordinator of `staging` at `address`; `timeout` bounds each question, in seconds.

    For one thread, apart from `stop`.
    """

    def __init__(
        self, address: str, *, staging: str, secret: Secret, timeout: float, clock: Clock | None = None
    ) -> None:
        self.address = address
        self._path = f"/v1/{staging}"
        self._timeout = timeout
        self._link = Link(address, secret, clock)

    def ask(self, verb: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the coordinator's answer, within the timeout. Raises PeerLost, whose `why` says what became of it."""
        deadline = monotonic() + self._timeout
        body = json.dumps(message, separators=(",", ":")).encode()
        reused = self._link.connected
        try:
            return self._ask(verb, body, deadline)
        except PeerLost as lost:
            self._link.close()
            if not (reused and lost.why == "reset"):
                raise
        # A connection that was kept may have been given up by the other side just as we used it (RFC 9112, 9.3.1).
        try:
            return self._ask(verb, body, deadline)
        except PeerLost:
            self._link.close()
            raise

    def stop(self) -> None:
        """End a question that is being asked, and all later ones, from any thread."""
        self._link.shut()

    def close(self) -> None:
        """Let the connection go."""
        self._link.close()

    def _ask(self, verb: str, body: bytes, deadline: float) -> dict[str, Any]:
        link = self._link
        link.deadline = deadline
        if not link.connected:
            link.connect(max(0.001, deadline - monotonic()))
        answer = link.ask("POST", f"{self._path}/{verb}", fields={"Content-Type": JSON}, body=body)
        length = answer.length
        if length is None or length > ANSWER_MAX:
            raise PeerLost("stranger", f"{self.address} answers in a way that is none of ours")
        said = link.take(length)
        if len(said) < length:
            raise PeerLost("reset", f"{self.address} broke off its answer")
        if answer.close:
            link.close()
        if answer.status != 200:
            raise PeerLost(_LOST.get(answer.status, "reset"), f"{self.address} answers {answer.status}")
        if not link.is_sealed(answer, said):
            raise PeerLost("stranger", f"{self.address} does not know the secret")
        return _object(said, self.address)


def _object(said: bytes, address: str) -> dict[str, Any]:
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PeerLost("stranger", f"{address} answers something else than an object")
    return value
