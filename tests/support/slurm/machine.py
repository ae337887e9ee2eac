"""A machine of the test bed: a host whose directories are its own, with munge, and with a daemon of Slurm's."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING
from uuid import uuid4

from tests.support.capabilities import daemon
from tests.support.cluster.hosts import Host
from tests.support.cluster.network import Link
from tests.support.slurm.leftovers import left_on, mountpoints
from tests.support.slurm.site import LIB, MUNGE, PLUGIN, SLURM, USERS
from tests.support.tasks import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from tests.support.cluster.hosts import Process
    from tests.support.slurm.site import Site

_STASHES = ("/srv", "/mnt", "/media")
"""One of them takes what is at hand while the machine's directories are exchanged; all hosts have them."""
_PRIVATE = ("/tmp", "/var/tmp", "/var/cache", "/var/spool", "/home", "/run", "/dev/shm")
"""What a machine has for itself: an interpreter, a checkout or the tests' own directories may lie below them."""

# Nothing of the machine that all this runs on is written to, as whoever is root here might: of some directories there
# is a copy, whose changes are a layer of the host's own, and gone with it; the rest is for reading only.
_DIRECTORIES = """\
mount -t tmpfs -o mode=1777 own /tmp
for place in run home var/cache; do mount -t tmpfs -o mode=755 own "/$place"; done
mount -t tmpfs -o mode=1777 own /dev/shm
mount --bind "$disk/spool" /var/spool
mount --bind "$disk/tmp" /var/tmp
mkdir /var/cache/stage-image
mount --bind "$disk/store" /var/cache/stage-image
for user in $users; do mkdir "/home/$user" && mount --bind "$site/home/$user" "/home/$user"; done
for place in etc usr/local opt var/lib; do
    mkdir -p "$stash/$place/above" "$stash/$place/work"
    mount -t overlay -o "lowerdir=/$place,upperdir=$stash/$place/above,workdir=$stash/$place/work" overlay "/$place"
done
cp -R "$site/etc/." /etc/
mkdir -p /usr/local/bin "$lib"
cp "$site/stage-image" /usr/local/bin/
cp -R "$site/python" "$lib/"
if [ -e "$site/$plugin" ]; then cp "$site/$plugin" "$lib/"; fi
mount --bind "$boot/boot_id" /proc/sys/kernel/random/boot_id
# udev opens it to everybody on a real node. The number is FUSE's in the kernel's devices.txt.
if [ -e /dev/fuse ]; then mknod -m 666 "$stash/fuse" c 10 229 && mount --bind "$stash/fuse" /dev/fuse; fi
"""
_MUNGE = """\
mount -o remount,bind,ro /
mkdir /run/munge
cp "$site/munge.key" /run/munge/munge.key
chown -R "$munge:$munge" /run/munge
chmod 400 /run/munge/munge.key
cd /
setpriv --reuid "$munge" --regid "$munge" --clear-groups "$munged" --num-threads=2 --key-file=/run/munge/munge.key \\
    --socket=/run/munge/munge.socket.2 --pid-file=/run/munge/munged.pid --log-file=/run/munge/munged.log \\
    --seed-file=/run/munge/munged.seed
"""


class Machine:
    """`number` is its port at the switch; `role` slurmctld, slurmd, or nothing, for a host that has just a network."""

    def __init__(self, name: str, site: Site, *, address: str, number: int, role: str) -> None:
        self.name = name
        self.address = address
        self.role = role
        self.folder = site.folder / name
        self.store = self.folder / "store"
        self._site = site
        self._number = number
        self._boots = 0
        self._host: Host | None = None
        self._daemon: Process | None = None
        self._own: AbstractSet[str] = frozenset()
        for place, mode in (("store", 0o755), ("spool", 0o755), ("tmp", 0o1777)):
            (self.folder / place).mkdir(parents=True)
            (self.folder / place).chmod(mode)
        for place, owner in (("slurmd", 0), ("slurmctld", SLURM)):
            (self.folder / "spool" / place).mkdir()
            os.chown(self.folder / "spool" / place, owner, owner)

    def __repr__(self) -> str:
        return self.name

    @property
    def host(self) -> Host:
        """What it is since it was last started."""
        assert self._host, f"{self} has no power"
        return self._host

    @property
    def is_up(self) -> bool:
        return self._host is not None

    def view(self, path: str | Path) -> Path:
        """Return the path out here of what is at `path` on the machine."""
        return self.host.view(path)

    def run(self, *words: str, stdin: str = "") -> str:
        """Run a command as root; return its output. Raises CalledProcessError."""
        return self.host.run(*words, stdin=stdin)

    def power_on(self, hosts: Path) -> None:
        """Begin to boot; `set_up` follows, when the host is there."""
        self._boots += 1
        self._own = frozenset()
        self._host = Host(self.name, self.folder / f"boot-{self._boots}", hosts)

    def power_off(self) -> None:
        """End it, with all that runs or is mounted there; what is on its disk stays. Idempotent."""
        host, self._host = self._host, None
        if host:
            host.destroy()

    def link(self, rate: float) -> Link:
        return Link(self.host, self.address, f"port{self._number}", rate)

    def set_up(self) -> tuple[list[str], str]:
        """Return the command, with its standard input, that gives it its directories and starts munge."""
        (self.host.folder / "boot_id").write_text(f"{uuid4()}\n", encoding="ascii")
        kept = self._site.kept()
        stash = next(place for place in _STASHES if not any(path.is_relative_to(place) for path in kept))
        site = f"{stash}/{kept.index(self._site.folder)}"
        boot = f"{site}/{self.name}/{self.host.folder.name}"
        values = {"stash": stash, "site": site, "disk": f"{site}/{self.name}", "boot": boot, "users": " ".join(USERS)}
        values |= {"lib": LIB, "plugin": PLUGIN, "munge": str(MUNGE), "munged": daemon("munged") or "munged"}
        lines = (f"{name}={shlex.quote(value)}" for name, value in values.items())
        moved = (*_stashed(kept, stash), _DIRECTORIES, *_linked(self._site, kept, stash), *_opened(kept, stash))
        text = "\n".join(("set -eu", "umask 022", *lines, *moved, _MUNGE))
        return self.host.enter("sh", "-s"), text

    def serve(self) -> None:
        """Start the daemon of its role, or start it again."""
        self._own = self._own or frozenset(mountpoints(self.host.pid))
        self._daemon = self.host.start(daemon(self.role) or self.role, "-D")

    def check(self) -> None:
        """Fail if the daemon has ended."""
        if self._daemon and not self._daemon.running:
            raise RuntimeError(f"{self.role} of {self} ended with {self._daemon.done()}: {self._daemon.err[-2000:]}")

    def stop_daemon(self) -> None:
        """End slurmd or slurmctld alone, as a restart of its service does; steps go on."""
        assert self._daemon
        self._daemon.kill()
        until(lambda: not self._daemon or not self._daemon.running, f"{self.role} of {self} to end")

    def leftovers(self) -> list[str]:
        """Return one line for each thing that a job, or a hook, left there; of a machine without power, none."""
        if not self.is_up:
            return []
        private = (path for base in sorted(self._site.bases) for path in self._below(base))
        return [f"{self}: {line}" for line in (*left_on(self.host, self.store, self._own), *private)]

    def _below(self, base: str) -> list[str]:
        """Return the private directories of jobs."""
        folder, _, name = base.rpartition("/")
        return [f"{folder}/{path.name}" for path in sorted(self.view(folder).glob(f"{name}.*"))]


def _stashed(kept: list[Path], stash: str) -> Iterator[str]:
    """Yield what makes directories reachable while others are put over them."""
    yield f"mount -t tmpfs -o mode=755 own {stash}"
    for number, path in enumerate(kept):
        yield f"mkdir {stash}/{number} && mount --rbind {shlex.quote(str(path))} {stash}/{number}"


def _linked(site: Site, kept: list[Path], stash: str) -> Iterator[str]:
    """Yield what puts directories to their second places, below LIB."""
    for name, path in site.linked().items():
        around = next((place for place in kept if path.is_relative_to(place)), None)
        if around:
            source = shlex.quote(f"{stash}/{kept.index(around)}/{path.relative_to(around)}")
            yield f'mkdir "$lib/{name}" && mount --bind {source} "$lib/{name}"'


def _opened(kept: list[Path], stash: str) -> Iterator[str]:
    """Yield what brings them back to their places, there for every user, and the first to be written to."""
    closed = {place for path in kept if (place := _closed(path))}
    for place in closed:
        yield f"mount -t tmpfs -o mode=755 own {shlex.quote(place)}"
    for number, path in enumerate(kept):
        if number == 0 or any(path.is_relative_to(place) for place in (*_PRIVATE, *closed)):
            yield f"mkdir -p {shlex.quote(str(path))} && mount --rbind {stash}/{number} {shlex.quote(str(path))}"


def _closed(path: Path) -> str:
    """Return the topmost directory above `path` that others cannot pass; empty if there is none, or it is exchanged."""
    closed = (place for place in reversed(path.parents) if not place.stat().st_mode & 0o001)
    return "" if any(path.is_relative_to(place) for place in _PRIVATE) else str(next(closed, ""))
