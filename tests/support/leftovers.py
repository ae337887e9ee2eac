"""What a test session left behind on the machine: processes, mounts, loop devices."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "STAGE_IMAGE_TEST_SESSION"
"""Environment variable that every process started by the session inherits."""

GRACE = float(os.environ.get("STAGE_IMAGE_TEST_GRACE", "5"))
"""Seconds in which what is just going away may go."""


@dataclass(frozen=True)
class Traces:
    """How to know what belongs to a session: its name in the environment, its directories in every path."""

    session: str
    folders: tuple[str, ...]

    def processes(self) -> dict[int, str]:
        """Return pid → command line of the session's processes, without this one and the dead."""
        pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
        found = {pid: self._command(pid) for pid in pids if pid != os.getpid() and self._owns(pid)}
        return {pid: command for pid, command in found.items() if command}

    def mounts(self) -> list[str]:
        """Return the mountpoints below the session's directories, innermost first."""
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            points = [line.split(" ")[4].replace("\\040", " ") for line in table]
        return [point for point in reversed(points) if self._below(point)]

    def loops(self) -> dict[str, str]:
        """Return loop device → backing file, of those whose file lies below the session's directories."""
        found = {}
        for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):  # detached in the meantime
                backing = entry.read_text(errors="surrogateescape").strip()
                if self._below(backing):
                    found[f"/dev/{entry.parts[3]}"] = backing
        return found

    def found(self) -> list[str]:
        """Return one line for each thing left behind."""
        return [
            *(f"process {pid}: {command}" for pid, command in self.processes().items()),
            *(f"mount on {point}" for point in self.mounts()),
            *(f"{device} of {backing}" for device, backing in self.loops().items()),
        ]

    def after_grace(self, grace: float = GRACE) -> list[str]:
        """Return `found` once nothing is left or the grace is over."""
        end = time.monotonic() + grace
        while (lines := self.found()) and time.monotonic() < end:
            time.sleep(0.05)
        return lines

    def remove(self) -> None:
        """End, unmount and detach it all, so that the next session starts clean."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for point in self.mounts():
            subprocess.run(["umount", "--lazy", point], check=False)
        for device in self.loops():
            subprocess.run(["losetup", "--detach", device], check=False)

    def _below(self, path: str) -> bool:
        return any(path == folder or path.startswith(f"{folder}/") for folder in self.folders)

    def _owns(self, pid: int) -> bool:
        """Whether a process carries the mark or, having thrown its environment away, sits in our directories."""
        return f"{MARK}={self.session}" in _strings(pid, "environ") or any(self._below(path) for path in _places(pid))

    def _command(self, pid: int) -> str:
        return " ".join(_strings(pid, "cmdline"))[:200]  # a zombie has none


def _strings(pid: int, name: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="surrogateescape").rstrip("\0").split("\0")
    except OSError:
        return []


def _places(pid: int) -> Iterator[str]:
    for link in ("cwd", "exe"):
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{pid}/{link}")
    yield from _strings(pid, "cmdline")
