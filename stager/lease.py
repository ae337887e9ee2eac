"""Leases: who uses an image or a mount on this node, in file names alone, so that a crash cannot leave half of one.

A lease is an empty file `<scope>@<pid>.<start>.<boot>`: the scope is the job (or the login session), the rest the
process whose life it shares. A dead holder's lease counts for nothing and is collected by the next call.
"""

from __future__ import annotations

import os

from stager.process import ProcessIdentity
from stager.store.files import discard, make_folders, names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


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


def acquire(folder: str, lease: Lease) -> None:
    """Record a lease in `folder`, which is made when missing. Raises OSError where we may not write."""
    path = f"{folder}/{lease}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o644)
    except FileNotFoundError:
        make_folders(folder)
        fd = os.open(path, flags, 0o644)
    os.close(fd)


def living(folder: str) -> list[Lease]:
    """Return the leases in `folder` whose holders live, and collect the others."""
    alive = []
    for name, lease in _entries(folder):
        if lease is not None and lease.holder.alive:
            alive.append(lease)
        else:
            discard(f"{folder}/{name}")
    return alive


def release(folder: str, scope: str) -> int:
    """Drop all leases of `scope` in `folder`; return how many there were."""
    mine = [name for name, lease in _entries(folder) if lease is not None and lease.scope == scope]
    for name in mine:
        discard(f"{folder}/{name}")
    return len(mine)


def _entries(folder: str) -> Iterator[tuple[str, Lease | None]]:
    for name in names(folder):
        yield name, Lease.parse(name)
