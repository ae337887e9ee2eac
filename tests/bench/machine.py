"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import time
from typing import TYPE_CHECKING

from stager import filesystem

if TYPE_CHECKING:
    from pathlib import Path


def described(folder: Path, load: float) -> list[str]:
    """Return lines for people; `folder` is where it was measured, `load` the load average before."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [
        f"{time.strftime('%Y-%m-%d', time.gmtime())}; load average before: {load:.2f}",
        f"{os.cpu_count()} cores ({_processor()}), {memory / (1 << 30):.0f} GiB of memory",
        f"Linux {platform.release()}, Python {platform.python_version()}, store on {_file_system(folder)}",
    ]


def _file_system(folder: Path) -> str:
    return filesystem.inspect(str(folder)).fstype or "an unknown file system"


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as table:
        names = (line.partition(":")[2].strip() for line in table if line.startswith("model name"))
        return next(names, platform.machine())
