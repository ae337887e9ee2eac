"""What this machine can do for tests, found out by trying it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian keeps nginx, mount helpers and losetup; not on everybody's PATH."""

UNOBTAINABLE = frozenset({"apptainer", "singularity", "user-python"})
"""What tests/support/install-system-packages cannot install: skipped even when everything else is required.

`user-python`: an interpreter that lies in a home which is closed to other users cannot be run by them.
"""

ZOOKEEPER_JAR = "/usr/share/java/zookeeper.jar"
"""Of Debian's libzookeeper-java: the server is no program, but a class that Java runs."""

SLURM_PROGRAMS = ("slurmctld", "slurmd", "munged", "srun", "sbatch", "scontrol", "sinfo", "scancel")

GRIDENGINE = "/usr/lib/gridengine"
"""Where Debian's packages have all programs of Grid Engine: those on PATH lead there by a script that wants a cell."""
GRIDENGINE_PROGRAMS = (
    "sge_qmaster",
    "sge_execd",
    "sge_shepherd",
    "spoolinit",
    "qconf",
    "qsub",
    "qhost",
    "qstat",
    "qrsh",
)

NOBODY = 65534
LOOP_CTL_GET_FREE = 0x4C82
"""linux/loop.h"""


def _root() -> bool:
    return os.geteuid() == 0


def _runs(*command: str, user: int | None = None) -> bool:
    try:
        return subprocess.run(command, user=user, capture_output=True, check=False, timeout=10).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _loop() -> bool:
    """Containers may have /dev/loop-control and still lack, or forbid, the devices that it hands out."""
    try:
        with open("/dev/loop-control", "rb") as control:
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
        with open(f"/dev/loop{number}", "r+b", buffering=0):
            return _mount()
    except OSError:
        return False


def _mount() -> bool:
    return _root() and _runs("unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt && umount /mnt")


def _fuse() -> bool:
    return os.access("/dev/fuse", os.R_OK | os.W_OK) and program("fusermount3") is not None


def _erofs() -> bool:
    """Whether the kernel knows EROFS, or has a module that it loads at the first mount."""
    with open("/proc/filesystems", encoding="ascii") as known:
        return _mount() and ("\terofs\n" in known.read() or _runs("modinfo", "erofs"))


def _zookeeper() -> bool:
    return os.path.exists(ZOOKEEPER_JAR) and program("java") is not None


def _shaped_network() -> bool:
    """Whether there can be hosts in network namespaces, with links of a given rate between them."""
    batch = (
        "ip link add one type veth peer name two && tc qdisc add dev one root tbf rate 1mbit burst 128kb latency 50ms"
    )
    return _root() and _runs("unshare", "--net", "sh", "-c", batch)


def _machines() -> bool:
    """Whether there can be hosts that are but namespaces, each with an /etc of its own."""
    layers = "mkdir /mnt/a /mnt/b && mount -t overlay -o lowerdir=/etc,upperdir=/mnt/a,workdir=/mnt/b overlay /etc"
    trial = f"mount -t tmpfs tmpfs /mnt && {layers}"
    return _shaped_network() and _runs("unshare", "--mount", "sh", "-c", trial)


def _slurm() -> bool:
    """Whether a whole Slurm can run here, each daemon on a host of its own."""
    return all(map(daemon, SLURM_PROGRAMS)) and _machines()


def _gridengine() -> bool:
    """Whether a whole Grid Engine can run here, each daemon on a host of its own."""
    return all(os.path.exists(f"{GRIDENGINE}/{name}") for name in GRIDENGINE_PROGRAMS) and _machines()


_TRIALS: dict[str, Callable[[], bool]] = {
    "root": _root,
    "user-switch": lambda: _root() and _runs("true", user=NOBODY),
    "user-python": lambda: _root() and _runs(sys.executable, "-c", "pass", user=NOBODY),
    "mount": _mount,
    "loop": _loop,
    "fuse": _fuse,
    "erofs": _erofs,
    "userns": lambda: _runs("unshare", "--user", "--map-root-user", "--mount", "true"),
    "netns": lambda: _root() and _runs("unshare", "--net", "true"),
    "netns-cluster": _shaped_network,
    "zookeeper": _zookeeper,
    "slurm": _slurm,
    "gridengine": _gridengine,
}

PROGRAMS = (
    *("squashfuse_ll", "mksquashfs", "unsquashfs", "fusermount3", "mkfs.erofs", "siftool", "nginx", "curl"),
    *("shellcheck", "openssl", "apptainer", "singularity", "tc", "gcc", "make", "mpirun.openmpi", "mpiexec.hydra"),
    *("bash", "systemd-analyze", "docker-registry", "skopeo", "umoci", "htpasswd", "ch-image"),
)

NAMES = (*_TRIALS, *PROGRAMS)


def program(name: str) -> str | None:
    """Return where a program is, the system directories included."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATH}")


def daemon(name: str) -> str | None:
    """Return where a daemon is: Debian has those of Slurm under names of their own, and links that may be missing."""
    return program(name) or program(f"{name}-wlm")


@cache
def has(name: str) -> bool:
    """Whether the machine has the capability; ValueError for a name that does not exist."""
    if name not in NAMES:
        raise ValueError(f"no capability is called {name!r}; there are: {', '.join(NAMES)}")
    trial = _TRIALS.get(name)
    return trial() if trial else program(name) is not None


def missing(names: Iterable[str]) -> list[str]:
    """Return those of `names` that the machine lacks."""
    return [name for name in names if not has(name)]


def verdict(lacking: list[str], require: str) -> str:
    """Return what becomes of a test that lacks something: `run`, `skip` or `fail`. `require` is all or nothing."""
    if not lacking:
        return "run"
    return "fail" if require == "all" and not UNOBTAINABLE.issuperset(lacking) else "skip"


def summary() -> list[str]:
    """Return the lines of the report header."""
    marks = [name if has(name) else f"no-{name}" for name in NAMES]
    return [f"this machine: {' '.join(marks[i : i + 9])}" for i in range(0, len(marks), 9)]
