"""One line to the system's log, or none: a hook waits for nobody.

For the hooks: `Syslog().line(job=…, image=…, action=…, result=…, seconds=…)`. RFC 3164 as syslog(3) sends it, one
datagram to /dev/log. The standard library's syslog module was passed over: it blocks while the daemon does not read.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

DEVICE = "/dev/log"
DAEMON = 3 << 3
"""Facility "system daemons", RFC 3164 section 4.1.1."""

WARNING, INFO = 4, 6
MAX_BYTES = 1024
"""RFC 3164 section 4.1: the length of a packet must be no more."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_STRANGE = re.compile(r"[^ -~]")
_PLAIN = re.compile(r"[^ \"=]+")


class Syslog:
    """Where lines go. `tag` is what the log calls us."""

    __slots__ = ("_device", "_tag")

    def __init__(self, tag: str = "stage-image", device: str = DEVICE) -> None:
        self._tag = tag
        self._device = device

    def line(self, *, severity: int = INFO, **fields: object) -> None:
        """Send the fields as `name=value`, in their order; those that are None or empty are left out.

        Times in seconds are floats, shown in thousandths. Without a listener, or with one that does not
        keep up, nothing happens.
        """
        with suppress(OSError), socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC) as log:
            log.sendto(self.packet(time.time(), severity, fields), self._device)

    def packet(self, now: float, severity: int, fields: Mapping[str, object]) -> bytes:
        """Return what `line` sends at the time `now`, in seconds since 1970: ASCII, one line."""
        at = time.localtime(now)
        stamp = f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:2} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
        shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items() if value not in (None, ""))
        text = f"<{DAEMON | severity}>{stamp} {self._tag}[{os.getpid()}]: {shown}"
        return text.encode("ascii")[:MAX_BYTES]


def _shown(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else _STRANGE.sub("?", str(value)[:MAX_BYTES])
    return text if _PLAIN.fullmatch(text) else '"' + text.replace('"', "'") + '"'
