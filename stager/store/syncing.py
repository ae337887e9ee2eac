"""Writing back while bytes still come, so that publishing has little left to wait for and a reboot loses little.

16 nodes that publish 256 MiB each on one disk, all at the same moment, wait 1.4 s for what 3 GB/s write (measured).
"""

from __future__ import annotations

import threading
from typing import Protocol

BYTES = 8 << 20
SECONDS = 0.5
"""Between two looks whether so much has come."""


class InFlight(Protocol):
    """A copy in flight: `held` bytes are there, of which `synced` survive a power loss."""

    synced: int

    @property
    def held(self) -> int: ...

    def sync(self) -> None: ...


class Syncing:
    """A thread that does so for a copy in flight, for the time of the context. Several may look after the same one."""

    def __init__(self, partial: InFlight) -> None:
        self._partial = partial
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(SECONDS):
            if self._partial.held - self._partial.synced >= BYTES:
                try:
                    self._partial.sync()
                except OSError:
                    return  # the final one before publishing meets the same error, where it can be told
