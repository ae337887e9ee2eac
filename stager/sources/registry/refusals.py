"""What it means that a registry says no, in words: which of our errors, why, and what to do; pure.

The codes are those of the distribution specification (1.1, "Error Codes").
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from http.client import responses
from typing import TYPE_CHECKING

from stager.errors import AccessDenied, NotFound, OriginUnavailable, StageImageError
from stager.image_names import HUB, HUB_SERVER
from stager.sources.failures import PASSING
from stager.sources.headers import retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping

ERROR_MAX = 64 * 1024
"""Bytes of an error's body that are read."""

BLOB = "the blob "
"""How an Asker's subject begins that is a blob: who names an image does not name its blobs."""

_SHOWN = 200
"""Characters of a server's own words that are shown."""

_LIMIT = re.compile(r"\s*([0-9]{1,9})\s*(?:;\s*w=([0-9]{1,9}))?")
_UNKNOWN = frozenset({"MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN"})
_DENIED = frozenset({"UNAUTHORIZED", "DENIED"})


@dataclass(frozen=True, slots=True)
class Complaint:
    """One error of a registry's, fit to be printed."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked whom for what: `host` and `subject` for people.

    `user` and `found`, which tells where the credentials come from, are empty for anonymous questions. `account`: the
    server at which one logs in, if it is another.
    """

    host: str
    subject: str
    user: str = ""
    found: str = ""
    account: str = ""

    def __str__(self) -> str:
        found = f"({self.found})"
        return " ".join(filter(None, (printable(self.user), found))) if self.found else "anonymous users"

    @property
    def login(self) -> str:
        """What to do to be somebody."""
        host = self.account or self.host
        return f"`docker login {HUB if host == HUB_SERVER else host}`"


def complaints(body: bytes) -> list[Complaint]:
    """Return what the JSON of an error holds, at most three; nothing of what is no such JSON."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return []
    errors = content.get("errors") if isinstance(content, dict) else None
    if not isinstance(errors, list):
        # The token services of some registries (Docker Hub's among them) have a form of their own.
        errors = [content] if isinstance(content, dict) else []
    found = (_complaint(entry) for entry in errors[:20] if isinstance(entry, dict))
    return [complaint for complaint in found if complaint.code or complaint.message][:3]


def printable(text: str) -> str:
    """Return a stranger's words as ASCII on one line, cut."""
    quoted = ascii(" ".join(text[: 4 * _SHOWN].split()))[1:-1]
    return quoted if len(quoted) <= _SHOWN else f"{quoted[: _SHOWN - 3]}..."


def refused(asker: Asker, status: int, headers: Mapping[str, str], body: bytes, *, now: float) -> StageImageError:
    """Return the error that an answer means; `now` as for headers.retry_after."""
    said = complaints(body)
    codes = {complaint.code for complaint in said}
    words = _words(status, said)
    wait = retry_after(headers, now)
    if status == 429 or "TOOMANYREQUESTS" in codes or (status == 503 and wait is not None):
        return _limited(asker, words, headers, wait)
    if status in (401, 403, 407) or (codes & _DENIED and 400 <= status < 500):
        return denied(asker, words)
    if status in (404, 410) or (codes & _UNKNOWN and 400 <= status < 500):
        return _not_there(asker, words)
    error = OriginUnavailable(f"{asker.host} failed to send {asker.subject}: {words}", retry_after=wait)
    error.retryable = status >= 500 or status in PASSING
    return error


def denied(asker: Asker, words: str) -> AccessDenied:
    """Return the error for credentials, or their absence, that did not do."""
    hint = f"log in with {asker.login}; or the repository's name is wrong: registries do not tell"
    if asker.found:
        hint = f"ask the owner for access, or log in anew with {asker.login}; or the repository's name is wrong"
    return AccessDenied(f"{asker.host} refuses {asker.subject} to {asker}: {words}", hint=hint)


def _not_there(asker: Asker, words: str) -> NotFound:
    if asker.subject.startswith(BLOB):
        hint = "the registry has lost a part of the image: push it again, or ask its owner to"
        return NotFound(f"{asker.host} does not have {asker.subject}: {words}", hint=hint)
    hint = "check the spelling of the repository and the tag"
    if not asker.found:
        hint += f"; a private one looks like this to those who are not logged in: {asker.login}"
    return NotFound(f"{asker.host} does not have {asker.subject}: {words}", hint=hint)


def _limited(asker: Asker, words: str, headers: Mapping[str, str], wait: float | None) -> OriginUnavailable:
    limits = _limits(headers)
    login = "" if asker.found else f"log in with {asker.login}, "
    return OriginUnavailable(
        f"{asker.host} limits the rate of pulls by {asker}{f' ({limits})' if limits else ''}: {words}",
        hint=f"wait, {login}{'or ' if login else ''}name a mirror in the mirrors setting of this registry",
        retry_after=wait,
    )


def _limits(headers: Mapping[str, str]) -> str:
    """Return what `100;w=21600` means (docs.docker.com, "Pull usage and limits"), as far as it is said."""
    found = []
    for name, verb in (("RateLimit-Limit", "allowed"), ("RateLimit-Remaining", "left")):
        if match := _LIMIT.fullmatch(headers.get(name, "")[:40].strip()):
            window = f" in {int(match[2])} s" if match[2] else ""
            found.append(f"{int(match[1])} {verb}{window}")
    return ", ".join(found)


def _words(status: int, said: list[Complaint]) -> str:
    texts = [": ".join(filter(None, (complaint.code, complaint.message))) for complaint in said]
    answer = f"{status} {responses.get(status, '')}".rstrip()
    return f"{answer} ({'; '.join(texts)})" if texts else answer


def _complaint(entry: dict[str, object]) -> Complaint:
    code, message = entry.get("code"), entry.get("message") or entry.get("details")
    code = printable(code)[:60].upper() if isinstance(code, str) else ""
    return Complaint(code, printable(message) if isinstance(message, str) else "")
