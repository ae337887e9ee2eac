"""Time as an argument, so that tests decide how it passes."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Clock(Protocol):
        """What the core may know of time; all in seconds."""

        def now(self) -> float:
            """Since boot, suspends included; never jumps. Comparable between processes of one boot."""

        def wall(self) -> float:
            """Since the epoch; may jump. For people and for records that outlive a boot."""

        def sleep(self, seconds: float) -> None:
            """Return after about `seconds`."""


class SystemClock:
    """The real one."""

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))
