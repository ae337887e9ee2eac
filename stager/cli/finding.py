"""One line of `doctor`."""

from __future__ import annotations


class Finding:
    """What was looked at, whether it is fine, what was found, and what to do if it is not."""

    def __init__(self, name: str, *, ok: bool, detail: str, remedy: str = "") -> None:
        self.name = name
        self.ok = ok
        self.detail = detail
        self.remedy = remedy
