"""Getting in: what a server wants to see before it answers, found once and renewed, for all threads that ask it."""

from __future__ import annotations

import math
import time
from threading import Lock
from typing import TYPE_CHECKING

from stager.sources.registry import challenges

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.sources.registry.auth_files import Credential
    from stager.sources.registry.challenges import Challenge
    from stager.sources.registry.tokens import Token


class Gate:
    """The Authorization header for one repository at one server.

    `find` looks for credentials, when they are wanted and not before: a helper may ask its user. `fetch` gets a token.
    """

    def __init__(
        self,
        find: Callable[[], Credential | None],
        fetch: Callable[[Challenge, Credential | None], Token],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find = find
        self._fetch = fetch
        self._now = now
        self._lock = Lock()
        self._searched = False
        self._credential: Credential | None = None
        self._challenge: Challenge | None = None
        self._header = ""
        self._until = math.inf

    @property
    def credential(self) -> Credential | None:
        """Who we are to the server, so far."""
        return self._credential

    def header(self) -> str:
        """Return what to send; empty as long as nothing was asked for."""
        with self._lock:
            if self._now() >= self._until and self._challenge:
                self._meet(self._challenge)
            return self._header

    def open(self, demand: str, sent: str) -> bool:
        """Take note that a question with the header `sent` was answered 401 and `demand` (WWW-Authenticate).

        Return whether asking again may help: with what this, or another thread, got in the meantime.
        """
        with self._lock:
            if self._header != sent:
                return True
            challenge = challenges.best(challenges.parse(demand))
            if challenge is None or (challenge.scheme == "basic" and sent.startswith("Basic ")):
                return False
            return self._meet(challenge)

    def _meet(self, challenge: Challenge) -> bool:
        if not self._searched:
            self._credential, self._searched = self._find(), True
        if challenge.scheme == "basic":
            if not self._credential or self._credential.identity:
                return False
            self._header, self._until = self._credential.basic, math.inf
            return True
        token = self._fetch(challenge, self._credential)
        self._challenge, self._header, self._until = challenge, f"Bearer {token.value}", token.until
        return True
