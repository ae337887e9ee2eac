"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from typing import TYPE_CHECKING

from stager import __version__, filesystem

if TYPE_CHECKING:
    from pathlib import Path


def busy(load: float, cores: int) -> bool:
    """Whether a load average is too high for numbers worth keeping: more than half of the cores have other work."""
    return load > cores / 2


def changed(root: Path) -> list[str]:
    """Return the lines of `git status` for what is measured: numbers are kept for code that can be had again."""
    return _git(root, "status", "--porcelain", "--", "stager", "sbatch-wrapper", "tests/bench").splitlines()


def code(root: Path) -> str:
    """Return what is measured, for people: version and commit of the checkout."""
    commit = _git(root, "rev-parse", "--short", "HEAD").strip() or "unknown"
    return f"stage-image {__version__}, commit {commit}{', changed since' if changed(root) else ''}"


def described(folder: Path, load: float) -> list[str]:
    """Return the machine, for people: `folder` is where it was measured, `load` the load average before."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [
        f"{time.strftime('%Y-%m-%d', time.gmtime())}; load average before: {load:.2f}",
        f"{os.cpu_count()} cores ({_processor()}), {memory / (1 << 30):.0f} GiB of memory",
        f"Linux {platform.release()}, Python {platform.python_version()}, store on {_file_system(folder)}",
    ]


def _file_system(folder: Path) -> str:
    return filesystem.inspect(str(folder)).fstype or "an unknown file system"


def _git(root: Path, *words: str) -> str:
    # An unpacked archive has no history, a small image no git: then nothing is known, and that is no failure.
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as table:
        names = (line.partition(":")[2].strip() for line in table if line.startswith("model name"))
        return next(names, platform.machine())
