"""What a library says of an image, in answer to `GET /v1/images/<name>?arch=` (scs-library-client, models.go); pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from stager.interfaces import Validators
from stager.sources.failures import final

LONGEST = 1 << 20
"""Bytes of an answer: some hundred tags and fingerprints."""

_HASH = re.compile(r"[A-Za-z0-9]{2,16}[.:-][A-Za-z0-9_-]{4,128}")


@dataclass(frozen=True, slots=True)
class Metadata:
    """`hash` is `sha256.<hex>`, or something else that changes with the image; `size` in bytes, None if unsaid."""

    hash: str
    size: int | None
    arch: str
    uploaded: bool

    @property
    def version(self) -> Validators:
        return Validators(etag=self.hash, size=self.size)


def read(data: bytes, name: str) -> Metadata:
    """Return what an answer says; `name` is the library's. Raises OriginUnavailable, not retryable."""
    fields = _data(data)
    text = fields.get("hash")
    if not isinstance(text, str) or not _HASH.fullmatch(text):
        raise final(f"{name} does not answer like a library", "check the `library` setting and the host's name")
    size = fields.get("size")
    known = isinstance(size, int) and not isinstance(size, bool) and 0 < size < 1 << 50
    arch = fields.get("arch")
    return Metadata(
        text.replace("sha256:", "sha256."),
        size if known else None,
        arch if isinstance(arch, str) else "",
        fields.get("uploaded") is not False,
    )


def reason(data: bytes) -> str:
    """Return what a refusal says (`{"error": {"code": 404, "message": …}}`), printable and short; empty if nothing."""
    error = _object(data).get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return ascii(message)[1:-1][:120] if isinstance(message, str) else ""


def _data(data: bytes) -> dict[str, Any]:
    inner = _object(data).get("data")
    return inner if isinstance(inner, dict) else {}


def _object(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
