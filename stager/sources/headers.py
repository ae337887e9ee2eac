"""What origins say in headers, taken with a grain of salt; pure.

Whatever a header holds, these functions return a sound value or nothing. Section numbers are those of RFC 9110.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

from stager.interfaces import Validators

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_WAIT = 7 * 86400.0
"""Seconds. More is asked for only by mistake or malice, and nobody waits that long."""

STRONG_AGE = 60.0
"""Seconds after which a modification time is a strong validator. 8.8.2.2 wants one second, and enough more to make
up for the clocks of a web server and its file server; a minute was RFC 7232's answer."""

_NUMBER = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes +([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes +\*/([0-9]{1,18})", re.IGNORECASE)
_ENTITY_TAG = re.compile(r'(?:W/)?"[!#-~]*"')
_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")


class Part(NamedTuple):
    """Bytes [start, end) of `size` in all, if known."""

    start: int
    end: int
    size: int | None


def number(text: str) -> int | None:
    """Return a count of bytes below 10**18, or None."""
    text = text.strip()
    return int(text) if _NUMBER.fullmatch(text) else None


def content_range(text: str) -> Part | None:
    """Return the part which a 206 says it holds (14.4), or None for anything that cannot be true."""
    match = _RANGE.fullmatch(text.strip())
    if not match:
        return None
    start, last = int(match[1]), int(match[2])
    size = None if match[3] == "*" else int(match[3])
    if last < start or (size is not None and last >= size):
        return None
    return Part(start, last + 1, size)


def unsatisfied_size(text: str) -> int | None:
    """Return the size which a 416 says the image has (14.4), or None."""
    match = _UNSATISFIED.fullmatch(text.strip())
    return int(match[1]) if match else None


def date(text: str) -> float | None:
    """Return the seconds since the epoch of an IMF-fixdate, the one form that may be sent (5.6.7), or None."""
    if not _DATE.fullmatch(text):
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait (10.2.3), from 0 to LONGEST_WAIT, or None if nothing sensible is said.

    A date counts from the origin's own Date if it sends one: `now`, the time here, may be off.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:18]), LONGEST_WAIT)
    moment = date(text)
    if moment is None:
        return None
    there = date(headers.get("Date", ""))
    return min(max(0.0, moment - (now if there is None else there)), LONGEST_WAIT)


def validators(headers: Mapping[str, str], size: int | None) -> Validators:
    """Return ETag and Last-Modified as sent, each empty if it is not well-formed: they go back in requests."""
    etag, modified = headers.get("ETag", "").strip(), headers.get("Last-Modified", "").strip()
    sound_tag = len(etag) <= 1024 and _ENTITY_TAG.fullmatch(etag)
    return Validators(etag if sound_tag else "", modified if date(modified) is not None else "", size)


def is_strong(etag: str) -> bool:
    """Whether equal tags mean equal bytes (8.8.3.2)."""
    return etag.startswith('"')


def names_one_version(headers: Mapping[str, str], version: Validators) -> bool:
    """Whether the validators are strong enough for parts to be put together (8.8.1, 13.1.5)."""
    if version.etag:
        return is_strong(version.etag)
    modified, sent = date(version.modified), date(headers.get("Date", ""))
    return modified is not None and sent is not None and sent - modified >= STRONG_AGE
