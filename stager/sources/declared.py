"""What an HTTP origin says of an image without sending it: that it is the version known, or its digest."""

from __future__ import annotations

import re
import time
from base64 import b64decode
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager.reference import Digest
from stager.sources.answers import Asked, Outcome, judge
from stager.sources.failures import refusal
from stager.sources.http import Exchange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.interfaces import Validators
    from stager.sources.settings import HttpSettings

_MEMBER = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):(?:;.*)?")
"""A member of Repr-Digest (RFC 9530, 3): a byte sequence of RFC 8941, and parameters, of which none are known."""

_INSTANCE = re.compile(r"sha-256=([A-Za-z0-9+/]{43}=)", re.IGNORECASE)
"""A member of Digest (RFC 3230, 4.3.2), whose names of algorithms do not care for case."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What an origin says; it may be wrong, which is found out when the bytes come.

    `unchanged`: it still has the version that was asked about.
    """

    unchanged: bool = False
    digest: Digest | None = None


def ask(url: str, settings: HttpSettings, known: Validators | None = None) -> Claim:
    """Ask about an image, once, for one byte of it. Raises what HttpSource.open raises.

    Not by HEAD: a signed URL is signed for its method, and origins that count, redirect or make pages on demand treat
    HEAD worst. Both headers are of the whole representation in the answer to a range, too (RFC 9530, 3.1).
    """
    asked = Asked(0, 1, unless=known)
    with ExitStack() as stack:
        exchange = Exchange(url, settings, stack)
        response = exchange.get({**asked.headers(), "Want-Repr-Digest": "sha-256=10", "Want-Digest": "sha-256"})
        if response.status_code >= 300 and response.status_code not in (304, 416):
            raise refusal(exchange.url, response.status_code, response.headers, time.time())
        if judge(asked, response.status_code, response.headers) is Outcome.UNCHANGED:
            return Claim(unchanged=True)
        return Claim(digest=digest_in(response.headers))


def digest_in(headers: Mapping[str, str]) -> Digest | None:
    """Return the sha256 of the image's bytes, if the headers state one.

    `headers` must not care for case. With a content coding, the digest is that of the coded bytes (RFC 9530, 3), which
    nobody stages. Of several in one header the last counts, as in any dictionary of RFC 8941.
    """
    if headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
        return None
    for name, pattern in (("Repr-Digest", _MEMBER), ("Digest", _INSTANCE)):
        members = (pattern.fullmatch(member.strip()) for member in headers.get(name, "").split(","))
        found = [match[1] for match in members if match]
        if found:
            return Digest(b64decode(found[-1]).hex())
    return None
