"""Leases: who uses an image or a mount on this node, in file names alone, so that a crash cannot leave half of one.

A lease is an empty file `<scope>@<pid>.<start>.<boot>`: the scope is the job (or the login session), the rest the
process whose life it shares. A dead holder's lease counts for nothing and is collected by the next call. A job's own
lease, left by a site's hook, is held by no process (`<scope>@0.0.<boot>`): it lasts until it is released or the node
boots, and only who owns the directory can leave one.

In root's store every user may leave leases, so what lies there is hostile: a directory of leases is opened without
following a link, its entries are named and unlinked through that descriptor, and never opened.
"""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import islice

from stager.process import ProcessIdentity, boot_id
from stager.store.files import make_folders

MOST = 20_000
"""Leases; some 0.3 s to remove (measured on a tmpfs)."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Lease:
    """One scope's use of an image or mount, alive as long as `holder` is."""

    __slots__ = ("holder", "scope")

    def __init__(self, scope: str, holder: ProcessIdentity) -> None:
        self.scope = scope
        self.holder = holder

    def __str__(self) -> str:
        return f"{self.scope}@{self.holder}"

    @classmethod
    def parse(cls, name: str) -> Lease | None:
        """Return the lease that a file name stands for, or None."""
        scope, at, holder = name.partition("@")
        identity = ProcessIdentity.parse(holder) if at and scope else None
        return cls(scope, identity) if identity else None


def of_job(scope: str) -> Lease:
    """Return the lease of a job itself, whichever of its processes may live."""
    return Lease(scope, ProcessIdentity(0, 0, boot_id()))


def acquire(folder: str, lease: Lease) -> None:
    """Record a lease in `folder`, which is made when missing, and move its mtime, by which use is told.

    Raises OSError where we may not write.
    """
    try:
        fd = os.open(folder, _FOLDER)
    except FileNotFoundError:
        make_folders(folder)
        fd = os.open(folder, _FOLDER)
    try:
        _make_entry(fd, str(lease))
        os.utime(fd)
    finally:
        os.close(fd)


def living(folder: str) -> list[Lease]:
    """Return the leases in `folder` whose holders live. Changes nothing."""
    return survey(folder)[0]


def collect(folder: str) -> list[str]:
    """Remove what is no living holder's lease, as far as we may; return the names."""
    _, dead = survey(folder)
    if dead:
        _discard(folder, dead)
    return dead


def survey(folder: str) -> tuple[list[Lease], list[str]]:
    """Return the living leases in `folder`, and the names of all other entries. Changes nothing."""
    fd = _open(folder)
    if fd < 0:
        return [], []
    try:
        alive, dead = [], []
        for name in sorted(os.listdir(fd)):
            lease = Lease.parse(name)
            if lease is not None and _is_held(lease.holder, fd, name):
                alive.append(lease)
            else:
                dead.append(name)
    finally:
        os.close(fd)
    return alive, dead


def _is_held(holder: ProcessIdentity, fd: int, name: str) -> bool:
    if holder.pid:
        return holder.alive
    try:
        ours = os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid == os.fstat(fd).st_uid
    except OSError:
        return False
    return ours and holder.boot == boot_id()


def release(folder: str, scope: str) -> int:
    """Drop all leases of `scope` in `folder`, the job's own before all; return how many there were.

    Anybody may have left any number of others in a directory of root's store, or of this very name. So no more than
    MOST are looked at: beyond them, those of its processes count for nothing as soon as these have ended.
    """
    mine = [name for name in _names(folder, str(of_job(scope))) if name.startswith(f"{scope}@") and Lease.parse(name)]
    _discard(folder, mine)
    return len(mine)


def _make_entry(fd: int, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        os.close(os.open(name, flags, 0o644, dir_fd=fd))
    except FileExistsError:
        # The name is all a lease is, so any entry will do, but one which its owner could take away from under us.
        if os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid != os.geteuid() == 0:
            os.rename(name, f".{os.urandom(8).hex()}", src_dir_fd=fd, dst_dir_fd=fd)
            os.close(os.open(name, flags, 0o644, dir_fd=fd))


def _names(folder: str, first: str) -> list[str]:
    """Return `first`, if that is there, and MOST others."""
    fd = _open(folder)
    if fd < 0:
        return []
    try:
        with os.scandir(fd) as entries:
            found = {entry.name for entry in islice(entries, MOST)}
        with suppress(OSError):
            os.stat(first, dir_fd=fd, follow_symlinks=False)
            found.add(first)
        return sorted(found)
    finally:
        os.close(fd)


def _discard(folder: str, names: list[str]) -> None:
    """Remove entries of `folder` by name, as far as we may, without making it look used."""
    fd = _open(folder)
    if fd < 0:
        return
    try:
        status = os.fstat(fd)
        for name in names:
            _unlink_one(fd, name)
        # Taking away moves the directory's mtime, and would make the image look as if it had just been used.
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    except OSError:
        return
    finally:
        os.close(fd)


def _unlink_one(fd: int, name: str) -> None:
    for remove in (os.unlink, os.rmdir):
        try:
            remove(name, dir_fd=fd)
        except OSError:
            continue  # another's, of the other kind, or gone already


def _open(folder: str) -> int:
    try:
        return os.open(folder, _FOLDER)
    except OSError:
        return -1
