"""One mount per node and image, shared by all who lease it, whatever dies in between.

mounts/<hex>.<kind>/
├── root       the mountpoint, holding UNMOUNTED while bare
├── ready      how it is mounted; removed before unmounting
└── users/     leases of the mount

A FUSE server dies with the job step that started it, so its kind carries the session: `fuse-<pid>.<start>`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager import lease, warm
from stager.errors import InUse, MountFailed, MountUnavailable
from stager.interfaces import MountReport
from stager.layout import UNMOUNTED
from stager.process import boot_id
from stager.store import files, folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stager.clock import Clock
    from stager.interfaces import Election, Mounter, Teller
    from stager.layout import Layout
    from stager.lease import Lease
    from stager.reference import Digest
    from stager.store.images import StagedImage

KINDS = ("loop", "erofs", "fuse")

PATIENCE = 60.0
"""Seconds to wait for another process's mount(2), which takes milliseconds unless the node is dying."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """An image that is mounted at `root`; `users` is where its leases are."""

    root: str
    users: str
    report: MountReport


@dataclass(frozen=True, slots=True)
class Mounting:
    """One task's wish for a mounted image.

    `ways` are tried in order; `session` keys the mounts that die with it; `tiers` are root's stores whose mounts we may
    use.
    """

    layout: Layout
    image: StagedImage
    lease: Lease
    session: str
    ways: Sequence[Mounter]
    election: Election
    clock: Clock
    tell: Teller
    is_dead: Callable[[str], bool]
    tiers: tuple[Layout, ...] = ()

    def run(self) -> Mounted:
        """Return the mount, leased. Raises MountFailed, or MountUnavailable when no way is open."""
        if (shared := self._shared_by_root()) is not None:
            return shared
        obstacles = []
        for way in self.ways:
            why = way.obstacle(self.image.info)
            if not why:
                try:
                    return self._share(way)
                except MountUnavailable as error:
                    why = error.message
            obstacles.append(f"{way.kind}: {why}")
            if len(self.ways) > len(obstacles):
                self.tell.say(f"cannot mount by {way.kind} ({why}); trying {self.ways[len(obstacles)].kind}")
        raise MountUnavailable(f"no way to mount the image is open ({'; '.join(obstacles) or 'none was allowed'})")

    def _shared_by_root(self) -> Mounted | None:
        """Return a mount that root made in a store which we only read, if we may lease it."""
        for place in (MountPlace(tier, self.image.digest, kind) for tier in self.tiers for kind in ("loop", "erofs")):
            try:
                if place.mounted() is not None:
                    lease.acquire(place.users, self.lease)
                    if (mounted := place.mounted()) is not None:
                        return mounted
            except OSError:
                continue
        return None

    def _share(self, way: Mounter) -> Mounted:
        kind = f"fuse-{self.session}" if way.kind == "fuse" else way.kind
        place = MountPlace(self.layout, self.image.digest, kind)
        give_up = self.clock.now() + PATIENCE
        while self.clock.now() < give_up:
            lease.acquire(place.users, self.lease)
            if (mounted := place.mounted()) is not None and not self.is_dead(place.root):
                return mounted
            with self.election.lead(place.lock) as leads:
                if leads:
                    return self._mount(way, place)
            self.clock.sleep(0.02)
        raise MountFailed(f"another process has been mounting the image for {PATIENCE:.0f} s")

    def _mount(self, way: Mounter, place: MountPlace) -> Mounted:
        if (mounted := place.mounted()) is not None and not self.is_dead(place.root):
            lease.acquire(place.users, self.lease)
            return mounted
        place.clear(way, lazy=True)
        place.prepare()
        lease.acquire(place.users, self.lease)
        report = way.mount(self.image.path, self.image.info, place.root)
        if report.direct_io:
            files.drop_cached(self.image.path)
        if report.note:
            self.tell.say(f"mounted by {report.kind}: {report.note}")
        return place.record(report)


@dataclass(frozen=True, slots=True)
class MountPlace:
    """A directory below mounts/: where an image is, was or will be mounted."""

    layout: Layout
    digest: Digest
    kind: str

    @property
    def root(self) -> str:
        """The mountpoint."""
        return self.layout.mountpoint(self.digest, self.kind)

    @property
    def users(self) -> str:
        """The directory of the mount's leases."""
        return f"{self.layout.mount_dir(self.digest, self.kind)}/users"

    @property
    def ready(self) -> str:
        """The record of how it is mounted."""
        return self.layout.mount_ready(self.digest, self.kind)

    @property
    def lock(self) -> str:
        """The name under which processes agree who mounts and unmounts here."""
        return f"mount.{self.digest.hex}.{self.kind}"

    def mounted(self) -> Mounted | None:
        """Return the mount if the record of this boot says so and something is mounted there."""
        record = files.read_record(self.ready)
        if record is None or record.get("boot") != boot_id() or not os.path.ismount(self.root):
            return None
        report = MountReport(
            kind=record.get("kind", ""),
            direct_io=record.get("direct_io") == "yes",
            device=record.get("device", ""),
            server=files.whole_number(record.get("server")),
            note=record.get("note", ""),
        )
        return Mounted(self.root, self.users, report)

    def prepare(self) -> None:
        """Make the bare mountpoint."""
        mode = 0o755 if os.geteuid() == 0 else 0o700
        for path in (os.path.dirname(self.root), self.root):
            if not os.path.isdir(path):
                os.mkdir(path, mode)
        folder.open_to_leases(self.users)
        files.write_text(f"{self.root}/{UNMOUNTED}", "nothing is mounted here\n")

    def record(self, report: MountReport) -> Mounted:
        """Write down how the image is mounted."""
        record = {
            "kind": report.kind,
            "direct_io": "yes" if report.direct_io else "no",
            "device": report.device,
            "server": str(report.server),
            "note": report.note,
            "boot": boot_id(),
        }
        files.write_record(self.ready, record)
        return Mounted(self.root, self.users, report)

    def clear(self, way: Mounter, *, lazy: bool) -> None:
        """Unmount whatever is there. Raises InUse, MountFailed."""
        files.discard(self.ready)
        warm.forget(self.layout, self.root)
        way.unmount(self.root, lazy=lazy)

    def close(self, way: Mounter, *, lazy: bool, force: bool = False) -> bool:
        """Unmount and remove the place unless somebody leases it; tell whether it is gone. Raises InUse, MountFailed.

        The record goes first and the leases are looked at after that: a newcomer writes its lease first and looks at
        the record after that, so that one of the two sees the other.
        """
        if not force and lease.living(self.users):
            return False
        record = files.read_record(self.ready) or {}
        files.discard(self.ready)
        warm.forget(self.layout, self.root)
        if not force and lease.living(self.users):
            files.write_record(self.ready, record)
            return False
        try:
            way.unmount(self.root, lazy=lazy)
        except (InUse, MountFailed):
            files.write_record(self.ready, record)
            raise
        self._remove()
        return True

    def _remove(self) -> None:
        files.discard(f"{self.root}/{UNMOUNTED}")
        for name in [*files.names(self.users), *files.hidden_names(self.users)]:
            files.discard(f"{self.users}/{name}")
        for path in (self.root, os.path.dirname(self.root)):
            for name in files.hidden_names(path):
                files.discard(f"{path}/{name}")
        for path in (self.root, self.users, os.path.dirname(self.root)):
            try:
                os.rmdir(path)
            except OSError:
                return


def places(layout: Layout) -> list[MountPlace]:
    """Return every place below mounts/, mounted or not."""
    from stager.reference import Digest

    found = []
    for name in files.names(f"{layout.root}/mounts"):
        digest, _, kind = name.partition(".")
        if not files.is_folder(f"{layout.root}/mounts/{name}"):
            continue
        if len(digest) == 64 and kind.partition("-")[0] in KINDS and not set(digest) - set("0123456789abcdef"):
            found.append(MountPlace(layout, Digest(digest), kind))
    return found
