"""Directories that belong to one job: a /tmp of its own, say, whose content is not left for others to find.

The rules are those of HPC2N's SPANK private-tmpdir (pairs of mount and base, `<base>.<job>.<restart>/<mount with / as
_>`, https://github.com/hpc2n/spank-private-tmp), with what its README asks of the admin made into errors.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager.errors import ConfigError, InUse, StoreUnusable
from stager.mounts.child import text
from stager.mounts.way import opened
from stager.schedulers.removal import FOLDER, Removal, mount_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.clock import Clock

DEFAULT_BASE = "/var/lib/stage-image-private"
"""In a directory that only root writes to. Below /var/tmp, any user could take the names of jobs to come."""

MOST = 16
"""Places, as in private-tmpdir."""

PATIENCE = 60.0
"""Seconds that removing a directory may take: a process that goes on writing would make it endless."""

SYSTEM = (
    *(
        "/bin",
        "/boot",
        "/dev",
        "/etc",
        "/lib",
        "/lib32",
        "/lib64",
        "/libx32",
        "/proc",
        "/root",
        "/run",
        "/sbin",
        "/sys",
    ),
    *("/usr", "/var/lib", "/var/spool"),
)
"""Where setuid programs, which a job may run, find what they trust; a directory of the user's there makes him root."""
HARMLESS = ("/dev/shm",)  # noqa: S108 - a place of that name is what sites want


@dataclass(frozen=True, slots=True)
class Place:
    """A directory `mount` of which each job gets its own, made next to `base`."""

    mount: str
    base: str


@dataclass(frozen=True, slots=True)
class Directory:
    """One job's directory `path`, to be bound on `mount`."""

    mount: str
    path: str


@dataclass(frozen=True, slots=True)
class Made:
    """A directory that is there, as stat(2) knows it."""

    path: str
    dev: int
    ino: int


def parse(settings: tuple[str, ...]) -> tuple[Place, ...]:
    """Return the places of `slurm.private`: each setting is `mount=base` or `mount`. Raises ConfigError."""
    places = tuple(_place(setting) for setting in settings)
    if len(places) > MOST:
        raise ConfigError(f"slurm.private has {len(places)} places, {MOST} are the most")
    for number, place in enumerate(places):
        _check_order(place, places[:number], places)
    return places


def directories(places: tuple[Place, ...], job: str, restart: int) -> tuple[Directory, ...]:
    """Return one job's directories, in the order in which they are to be bound; nothing is made.

    `job` is Slurm's job id; `restart` counts its requeues, so that no run finds what an earlier one left. Raises
    ConfigError for a job that is no number.
    """
    if not (job.isascii() and job.isdigit()) or restart < 0:
        raise ConfigError(f"{job!r}, restarted {restart} times, is no job of Slurm's")
    return tuple(Directory(place.mount, f"{place.base}.{job}.{restart}/{_name(place)}") for place in places)


def obstacles(places: tuple[Place, ...]) -> tuple[str, ...]:
    """Return what, on this node, would keep jobs from having these places; nothing is made."""
    return tuple(why for place in places for why in (_obstacle(place.mount), _obstacle_above(place.base)) if why)


def make(directory: Directory, uid: int, gid: int) -> Made:
    """Make the directory, mode 0700, for the job's user; one that is there must be the same user's.

    The directories on the way belong to root and are closed to others' writing, or sticky; none is a link. Raises
    StoreUnusable.
    """
    try:
        with _outer(directory.path, make=True) as outer:
            made = _made(outer, os.path.basename(directory.path), (uid, gid))
    except OSError as error:
        raise StoreUnusable(
            f"the job's directory {directory.path} cannot be made: {text(error)}",
            hint="the bases of slurm.private lie in a directory that is there, is root's and no link",
        ) from error
    return Made(directory.path, made.st_dev, made.st_ino)


def remove(path: str, dev: int, ino: int, *, clock: Clock | None = None, patience: float = PATIENCE) -> None:
    """Remove what `make` made, with all that the job left in it, and the directory around it if it is empty.

    No link is followed, no mount crossed. What is there must still be that inode: 0 for `dev` and `ino` means that
    nobody knows, as when the node went down before it was written. Nothing there is fine. Raises StoreUnusable if it is
    something else, InUse for what stays: mounts, and what is written while we remove.
    """
    from stager.clock import SystemClock

    try:
        with _outer(path, make=False) as outer:
            name = os.path.basename(path)
            with suppress(FileNotFoundError):
                fd = os.open(name, FOLDER, dir_fd=outer)
                try:
                    if mount_id(fd) != mount_id(outer):
                        raise InUse(f"{path} is a mountpoint, so what it shows is not ours to remove")
                    _check_same(path, os.fstat(fd), dev, ino)
                    Removal(path, fd, clock or SystemClock(), patience).run()
                finally:
                    os.close(fd)
                os.rmdir(name, dir_fd=outer)
        _remove_outer(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreUnusable(f"the job's directory {path} cannot be removed: {text(error)}") from error


def _place(setting: str) -> Place:
    mount, equals, base = setting.partition("=")
    place = Place(mount, base if equals else DEFAULT_BASE)
    for path in (place.mount, place.base):
        if not path.startswith("/") or path == "/" or os.path.normpath(path) != path or path.startswith("//"):
            raise ConfigError(f"{path!r} in slurm.private is no absolute path in its shortest form")
        if not path.isprintable() or len(path) > 255:
            raise ConfigError(f"{path!r} in slurm.private is too long, or not printable")
    system = (path for path in SYSTEM if _holds(path, place.mount) or _holds(place.mount, path))
    if place.mount not in HARMLESS and any(system):
        raise ConfigError(f"{place.mount} cannot be private to jobs: the system needs it as it is")
    return place


def _obstacle(mount: str) -> str:
    try:
        with opened(mount):
            return ""
    except OSError as error:
        return f"nothing can be mounted on {mount}: {text(error)}"


def _obstacle_above(base: str) -> str:
    try:
        with opened(os.path.dirname(base), _check_closed):
            return ""
    except StoreUnusable as error:
        return error.message
    except OSError as error:
        return f"no directory can be made next to {base}: {text(error)}"


def _check_order(place: Place, earlier: tuple[Place, ...], places: tuple[Place, ...]) -> None:
    for other in earlier:
        if _holds(place.mount, other.mount) or _holds(other.mount, place.mount):
            raise ConfigError(f"{place.mount} and {other.mount} in slurm.private hide each other")
        if (other.base, _name(other)) == (place.base, _name(place)):
            raise ConfigError(f"{other.mount} and {place.mount} in slurm.private have one name: give them two bases")
    for other in places:
        if place is not places[-1] and other.base != place.mount and _holds(place.mount, other.base):
            raise ConfigError(f"{place.mount} in slurm.private hides the base {other.base}: it has to be the last")


def _holds(above: str, path: str) -> bool:
    return path == above or path.startswith(f"{above}/")


def _name(place: Place) -> str:
    return place.mount.replace("/", "_")


@contextmanager
def _outer(path: str, *, make: bool) -> Iterator[int]:
    """Yield a descriptor of the directory around a job's. Raises OSError, StoreUnusable."""
    outer = os.path.dirname(path)
    with opened(os.path.dirname(outer), _check_closed) as base:
        name = os.path.basename(outer)
        if make:
            # Closed: the user gets in by the bind alone. By the path, he could put a FUSE mount there, on the node
            # itself, where it would outlive his job and stand in the way of the Epilog.
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=base)
        with opened(outer, _check_closed) as fd:
            # In a sticky directory, others may have been quicker: what is not root's alone is no place for root.
            if os.fstat(fd).st_mode & 0o022:
                raise StoreUnusable(f"{outer} can be written by others than root")
            yield fd


def _check_closed(path: str, status: os.stat_result) -> None:
    if status.st_uid != 0 or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
        raise StoreUnusable(f"{path}, on the way to a job's directory, can be changed by others than root")


def _made(outer: int, name: str, owner: tuple[int, int]) -> os.stat_result:
    try:
        os.mkdir(name, 0o700, dir_fd=outer)
    except FileExistsError:
        there = os.stat(name, dir_fd=outer, follow_symlinks=False)
        if there.st_uid != owner[0]:
            _replace_empty(outer, name, there.st_uid)
    fd = os.open(name, FOLDER, dir_fd=outer)
    try:
        os.fchown(fd, *owner)
        os.fchmod(fd, 0o700)
        return os.fstat(fd)
    finally:
        os.close(fd)


def _replace_empty(outer: int, name: str, uid: int) -> None:
    # Root's own, if whoever made it was killed before giving it away; another user's, if Slurm began to count anew.
    try:
        os.rmdir(name, dir_fd=outer)
    except OSError as error:
        raise OSError(error.errno, f"it is there, and belongs to uid {uid}", name) from error
    os.mkdir(name, 0o700, dir_fd=outer)


def _check_same(path: str, found: os.stat_result, dev: int, ino: int) -> None:
    if (dev and found.st_dev != dev) or (ino and found.st_ino != ino):
        raise StoreUnusable(f"{path} is not the directory that was made for the job")


def _remove_outer(path: str) -> None:
    outer = os.path.dirname(path)
    with opened(os.path.dirname(outer), _check_closed) as base, suppress(FileNotFoundError):
        try:
            os.rmdir(os.path.basename(outer), dir_fd=base)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
