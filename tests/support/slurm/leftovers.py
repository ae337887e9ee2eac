"""What jobs and hooks have left on a machine that is a host of the test bed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING

from tests.support.slurm.site import RUN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from tests.support.cluster.hosts import Host

_SERVICES = frozenset({"slurmctld", "slurmscriptd", "slurmd", "slurmstepd", "munged"})
_GET_STATUS = 0x4C05
"""LOOP_GET_STATUS64 of linux/loop.h; the struct begins with device and inode of the file, and has 232 bytes."""
_STATUS = Struct("<QQ")
_STATUS_SIZE = 232


def left_on(host: Host, store: Path, own: AbstractSet[str]) -> list[str]:
    """Return one line for each thing; `own` are the mountpoints that the machine has anyway."""
    return [
        *(f"process {pid}: {command}" for pid, command in host.commands().items() if _name(pid) not in _SERVICES),
        *(f"mount on {point}" for point in mountpoints(host.pid) if point not in own),
        *(f"{device} of a file in the store" for device in _loops(store)),
        *(f"lease {path.relative_to(store)}" for path in _job_leases(store)),
        *(f"record {path.name}" for path in sorted(store.glob("jobs/*"))),
        *(f"{RUN}/jobs/{path.name}" for path in sorted(host.view(f"{RUN}/jobs").glob("*"))),
    ]


def mountpoints(pid: int) -> list[str]:
    """Return all mountpoints that a process sees."""
    table = Path(f"/proc/{pid}/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    return [line.split()[4] for line in table]


def _job_leases(store: Path) -> list[Path]:
    """Return the leases that are held by a job; that of a process is worth nothing once it is dead."""
    return [path for pattern in ("leases/*/*@0.0.*", "mounts/*/users/*@0.0.*") for path in sorted(store.glob(pattern))]


def _loops(store: Path) -> list[str]:
    """Return the loop devices of files in the store; their paths do not tell machines apart, but inodes do."""
    files = {(status.st_dev, status.st_ino) for status in _statuses(store)}
    return [f"/dev/{entry.parts[3]}" for entry in Path("/sys/block").glob("loop*/loop") if _backing(entry) in files]


def _statuses(store: Path) -> Iterator[os.stat_result]:
    for folder, _, names in os.walk(store):
        for name in names:
            with contextlib.suppress(OSError):
                yield os.lstat(f"{folder}/{name}")


def _backing(entry: Path) -> tuple[int, int] | None:
    try:
        with open(f"/dev/{entry.parts[3]}", "rb", buffering=0) as device:
            status = fcntl.ioctl(device, _GET_STATUS, bytes(_STATUS_SIZE))
    except OSError:  # detached in the meantime
        return None
    device_number, inode = _STATUS.unpack_from(status)
    return device_number, inode


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        return ""
