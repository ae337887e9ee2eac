"""Lines about strangers in the log, no more than a person can read."""

from __future__ import annotations

from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BURST = 5
SECONDS_EACH = 10.0
"""After BURST lines, one line in so many seconds."""


class Complaints:
    """Writes lines by `log`, at most so many; the next one tells how many there were besides."""

    def __init__(self, log: Callable[[str], None], now: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._now = now
        self._allowed = float(BURST)
        self._since = now()
        self._silent = 0

    def refused(self, peer: str, reason: str) -> None:
        """Tell whose request was refused and why."""
        now = self._now()
        self._allowed = min(float(BURST), self._allowed + (now - self._since) / SECONDS_EACH)
        self._since = now
        if self._allowed < 1.0:
            self._silent += 1
            return
        self._allowed -= 1.0
        more = f" (and {self._silent} more since the last such line)" if self._silent else ""
        self._silent = 0
        self._log(f"relay: refused a request from {peer}: {reason}{more}")
