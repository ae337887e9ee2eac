"""Servers of tests: a port that is free, and the wait until somebody listens there."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

PATIENCE = 15.0


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until_up(name: str, host: str, process: subprocess.Popen[bytes] | None, log: str) -> None:
    """Return once `host` (address:port) accepts connections; RuntimeError, with the end of `log`, if that never is."""
    address, _, port = host.partition(":")
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((address, int(port)), 1).close()
        except OSError:
            if time.monotonic() > end or (process and process.poll() is not None):
                said = Path(log).read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"{name} did not come up: {said[-2000:]}") from None
            time.sleep(0.01)
        else:
            return
