"""Collecting what the dead left: mounts, leases, copies in flight, answers and pins. Safe at any time, by anybody.

Each piece is taken under the lock of whoever makes such pieces, so that nothing is collected while it comes to be.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stager import lease, report, warm
from stager.errors import StageImageError
from stager.process import ProcessIdentity, boot_id
from stager.store import copies, files, images, room
from stager.store.blobs import WORK, Blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stager.interfaces import Election, Mounter
    from stager.layout import Layout
    from stager.mount import MountPlace
    from stager.reference import Digest

DAY = 86400.0
PARTIAL_DAYS = 7.0
"""A copy that nobody went on with for so long belongs to a reference that nobody wants any more."""
CONVERSION_DAYS = 180.0
"""For which it is kept what came of a conversion."""
SCOPE_DAYS = 30.0
"""Longest life of a job's pins: longer than a queue lets a job run, shorter than job ids take to come round."""


@dataclass(slots=True)
class Collected:
    """What a collection did: names of what it removed, and of what it could not, with the reason."""

    removed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Collector:
    """Collects in one store. `way_of` gives the mounter for a mount's kind; with `dry_run` things are only named."""

    layout: Layout
    election: Election
    way_of: Callable[[str], Mounter]
    dry_run: bool = False

    def run(self) -> Collected:
        """Collect everything that belongs to the dead; never raises for a piece that cannot be had."""
        collected = Collected()
        try:
            with self.election.lead("collect") as leads:
                if leads:
                    self._collect(collected)
        except (StageImageError, OSError) as error:
            collected.kept.append(f"everything: {error}")
        return collected

    def _collect(self, collected: Collected) -> None:
        for place in _places(self.layout):
            try:
                self._mount(place, collected)
            except (StageImageError, OSError) as error:
                collected.kept.append(f"mount {place.root}: {error}")
        self._dead_leases(collected)
        for what, path in self._leftovers():
            collected.removed.append(what)
            if not self.dry_run:
                files.discard_tree(path)
        self._old_blobs(collected)

    def _mount(self, place: MountPlace, collected: Collected) -> None:
        alive, _ = lease.survey(place.users)
        if alive:
            return
        if self.dry_run:
            collected.removed.append(f"mount {place.root}")
            return
        with self.election.lead(place.lock) as leads:
            if leads and place.close(self.way_of(place.kind), lazy=False):
                collected.removed.append(f"mount {place.root}")

    def _dead_leases(self, collected: Collected) -> None:
        for digest in files.names(f"{self.layout.root}/leases"):
            folder = f"{self.layout.root}/leases/{digest}"
            dead = lease.survey(folder)[1] if self.dry_run else lease.collect(folder)
            collected.removed += [f"lease {name} of {digest[:12]}" for name in dead]

    def _leftovers(self) -> Iterator[tuple[str, str]]:
        yield from self._unfinished_publishing()
        yield from self._old_partials()
        yield from self._dead_scopes()
        yield from self._old_conversions()
        yield from self._old_asides()

    def _unfinished_publishing(self) -> Iterator[tuple[str, str]]:
        for parent in files.names(self.layout.images):
            folder = f"{self.layout.images}/{parent}"
            for name in files.hidden_names(folder):
                if not _is_owned(name[66:].rpartition(".")[0]):
                    yield f"unfinished image {name}", f"{folder}/{name}"

    def _old_partials(self) -> Iterator[tuple[str, str]]:
        for key, name in files.walk_pairs(f"{self.layout.root}/partial"):
            stray = f"{self.layout.partials(key)}/{name}"
            if not files.is_folder(stray) and _age(stray) > PARTIAL_DAYS * DAY:
                yield f"stray file {stray}", stray
        for folder in _orphans(self.layout):
            if _age(folder) > PARTIAL_DAYS * DAY or (_age(folder) > 1.0 and not _can_be_continued(folder)):
                yield f"old partial copy {folder}", folder

    def _old_blobs(self, collected: Collected) -> None:
        blobs = Blobs(self.layout)
        for path, size, written in blobs.orphans():
            age = time.time() - written
            if age > PARTIAL_DAYS * DAY or (age > 1.0 and not size):
                collected.removed.append(f"old partial blob {path}")
                if not self.dry_run:
                    blobs.drop_orphan(path)  # under its lock: somebody may go on with it at this very moment

    def _dead_scopes(self) -> Iterator[tuple[str, str]]:
        for kind in ("pins", "warm"):
            for scope in files.names(f"{self.layout.root}/{kind}"):
                path = f"{self.layout.root}/{kind}/{scope}"
                if _is_dead_session(scope) or _age(path) > SCOPE_DAYS * DAY:
                    yield f"{kind} of {scope}", path

    def _old_conversions(self) -> Iterator[tuple[str, str]]:
        for name in files.names(f"{self.layout.root}/conversions"):
            path = self.layout.conversion(name)
            if _age(path) > CONVERSION_DAYS * DAY:
                yield f"what came of the conversion {name[:12]}", path

    def _old_asides(self) -> Iterator[tuple[str, str]]:
        # What write_aside left when it was killed between making and renaming.
        folders = [f"{self.layout.root}/{name}" for name in ("refs", "conversions", "locks", "failures", "mounts")]
        folders += [os.path.dirname(place.root) for place in _places(self.layout)]
        for folder in folders:
            for name in files.hidden_names(folder):
                if _age(f"{folder}/{name}") > DAY:
                    yield f"unfinished record {name}", f"{folder}/{name}"
        for name in files.hidden_names(self.layout.root):
            if name.startswith(".report.") and _age(f"{self.layout.root}/{name}") > DAY:
                yield f"unfinished report {name}", f"{self.layout.root}/{name}"


def _places(layout: Layout) -> list[MountPlace]:
    if not files.names(f"{layout.root}/mounts"):
        return []  # on many nodes nothing is ever mounted: nor need be imported what would
    from stager.mount import places

    return places(layout)


def drop_orphans(layout: Layout, *, dry_run: bool = False) -> int:
    """Remove the copies in flight that nobody fills, however young; return their bytes. For when there is no room.

    Those of blobs are room.make_room's: they count in the quota, too.
    """
    dropped = 0
    for folder in list(_orphans(layout)):
        mine = copies.own_folder(os.path.dirname(folder))
        with suppress(OSError):  # somebody else has taken it: renaming decides
            size = _bytes_in(folder)
            if not dry_run:
                os.rename(folder, mine)
                files.discard_tree(mine)
            dropped += size
    return dropped


def _orphans(layout: Layout) -> Iterator[str]:
    for key in files.names(f"{layout.root}/partial"):
        yield from (folder for folder in copies.folders(layout.partials(key)) if copies.owner(folder) is None)


def evict(layout: Layout, digest: Digest, *, force: bool = False) -> int:
    """Remove an image unless it is in use; return the bytes freed, 0 if it was in use after all.

    Answers go first, then the sidecar, and leases are looked at last: whoever took one meanwhile looks for the image
    after that, so it is put back. `force` overrides leases, but no mounts.
    """
    if room.is_mounted(layout, digest) or (not force and room.in_use(layout, digest)):
        return 0
    warm.forget(layout, str(digest))
    freed = images.remove(layout, digest, keep=lambda: not force and bool(lease.living(layout.leases(digest))))
    report.drop(layout, digest)
    return freed


def _bytes_in(folder: str) -> int:
    """Return the bytes on disk of the files in a tree; what goes away meanwhile has none."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += os.lstat(f"{parent}/{name}").st_blocks * 512
    return size


def _can_be_continued(folder: str) -> bool:
    if os.path.basename(os.path.dirname(folder)) == WORK:
        return False  # a conversion begins anew, in a folder of its own
    try:
        return os.lstat(f"{folder}/data").st_size > 0
    except OSError:
        return False


def _is_dead_session(scope: str) -> bool:
    kind, _, rest = scope.partition("-")
    pid, _, start = rest.partition("-")
    if kind != "session" or not (pid.isdigit() and start.isdigit()):
        return False
    identity = ProcessIdentity.parse(f"{pid}.{start}.{boot_id()}")
    return identity is None or not identity.alive


def _is_owned(text: str) -> bool:
    identity = ProcessIdentity.parse(text)
    return identity is not None and identity.alive


def _age(path: str) -> float:
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return 0.0
