"""Getting tokens: distribution's "Token Authentication Specification" and "Oauth2 Token Authentication"."""

from __future__ import annotations

import json
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from stager.sources.failures import final, host_of
from stager.sources.registry.question import Question
from stager.sources.registry.refusals import Asker

if TYPE_CHECKING:
    from stager.sources.registry.auth_files import Credential
    from stager.sources.registry.challenges import Challenge
    from stager.sources.registry.settings import RegistrySettings

ANSWER_MAX = 256 * 1024
"""Bytes of a token service's answer."""

TOKEN_MAX = 64 * 1024
"""Characters. Azure's tokens have several thousand; servers refuse header lines beyond 8 to 16 KiB, some beyond 64."""

LIFETIME = 60.0
"""Seconds that a token is good for if nothing is said (Token Authentication Specification, expires_in)."""

CLIENT = "stage-image"

_URL = re.compile(r"[!-~]{1,2048}")
_TOKEN = re.compile(r"[!-~]+")
"""More than the b64token of RFC 6750, 2.1, but nothing that could be a header of its own."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and until when, by time.monotonic(), it is good."""

    value: str = field(repr=False)
    until: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which token: of the service at `realm`, for `host`'s `repository`. It may be had without TLS only if `plain`."""

    host: str
    repository: str
    plain: bool = False

    def fetch(self, challenge: Challenge, credential: Credential | None, settings: RegistrySettings) -> Token:
        """Ask for a token, once. Raises what ContainerOrigin.manifest raises."""
        realm = self._checked(challenge.parameters.get("realm", ""))
        user, found = (credential.user, credential.found) if credential else ("", "")
        asker = Asker(host_of(realm), f"a token for {self.repository}", user, found, self.host)
        asked = time.monotonic()
        with ExitStack() as stack:
            if credential and credential.identity:
                question = Question(realm, settings, stack)
                response = question.post(self._form(challenge, credential))
            else:
                question = Question(self._url(realm, challenge, credential), settings, stack, _basic(credential))
                response = question.get({"Accept-Encoding": "identity"})
            if response.status_code >= 300:
                raise question.error(response, asker)
            return _token(question.read(response, ANSWER_MAX, "a token"), asked, asker.host)

    def _checked(self, realm: str) -> str:
        try:
            parts = urlsplit(realm)
            if not parts.hostname or parts.port == 0 or "@" in parts.netloc or not _URL.fullmatch(realm):
                raise ValueError
        except ValueError:
            raise final(f"{self.host} names a token service whose address is no URL") from None
        if parts.scheme != "https" and not (parts.scheme == "http" and self.plain):
            raise final(
                f"{self.host} names a token service without https, at {host_of(realm)}",
                "no password is sent there: tell the registry's administrator",
            )
        return urlunsplit(parts._replace(fragment=""))

    def _fields(self, challenge: Challenge) -> list[tuple[str, str]]:
        scopes = challenge.parameters.get("scope") or f"repository:{self.repository}:pull"
        service = challenge.parameters.get("service")
        return [*([("service", service)] if service else []), *(("scope", scope) for scope in scopes.split()[:10])]

    def _url(self, realm: str, challenge: Challenge, credential: Credential | None) -> str:
        parts = urlsplit(realm)
        fields = [*parse_qsl(parts.query, keep_blank_values=True), *self._fields(challenge)]
        if credential:
            fields.append(("account", credential.user))
        return urlunsplit(parts._replace(query=urlencode(fields, errors="replace")))

    def _form(self, challenge: Challenge, credential: Credential) -> dict[str, str]:
        fields = dict(self._fields(challenge))
        scopes = " ".join(value for name, value in self._fields(challenge) if name == "scope")
        own = {"grant_type": "refresh_token", "client_id": CLIENT, "refresh_token": credential.secret}
        return {**fields, "scope": scopes, **own}


def _basic(credential: Credential | None) -> str:
    return credential.basic if credential else ""


def _token(body: bytes, asked: float, host: str) -> Token:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    content = content if isinstance(content, dict) else {}
    value = content.get("token") or content.get("access_token")
    if not isinstance(value, str) or len(value) > TOKEN_MAX or not _TOKEN.fullmatch(value):
        raise final(f"{host} answers without a token")
    seconds = content.get("expires_in")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e9:
        seconds = LIFETIME
    lifetime = float(seconds)
    # Somewhat earlier: it has to last until the server looks at it.
    return Token(value, asked + lifetime - min(10.0, lifetime / 10))
