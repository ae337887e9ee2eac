"""Temporary files in memory, for sessions that run nothing but units and laws.

Some 20,000 files and directories are made and removed: a third of such a session's time on a disk with a journal. What
is about disks lies in other folders of tests.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

MEMORY = "/dev/shm"
ROOM = 1 << 30
"""Bytes that must be free: a session makes 16 MB, and pytest keeps those of three. Containers often offer 64 MB."""


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest put its directories there; a hook for a conftest.py in each of the folders."""
    quick = [config.rootpath / "tests" / name for name in ("unit", "property")]
    asked = [(config.invocation_params.dir / word.partition("::")[0]).resolve() for word in config.args]
    if all(any(path.is_relative_to(folder) for folder in quick) for path in asked) and _is_fit(Path(MEMORY)):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)


def _is_fit(path: Path) -> bool:
    try:
        status = os.statvfs(path)
    except OSError:
        return False
    free = status.f_bavail * status.f_frsize
    return os.access(path, os.W_OK | os.X_OK) and free >= ROOM and not status.f_flag & os.ST_NOEXEC
