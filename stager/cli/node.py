"""The composition root: from settings and environment to objects that work together; adapters come when chosen."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from stager import collect, filesystem, warm
from stager.clock import SystemClock
from stager.config import Config, load
from stager.election.file_lock import FileLockElection
from stager.errors import MountUnavailable, StoreUnusable
from stager.jobenv import from_environ
from stager.layout import Layout
from stager.leading import give_up
from stager.lease import Lease
from stager.process import current, session_leader
from stager.progress import teller
from stager.reference import Reference, parse
from stager.store import files, folder, memory
from stager.variables import SITE_FILE, SITE_VARIABLE

if TYPE_CHECKING:
    import argparse

    from stager.interfaces import Mounter, Teller
    from stager.mount import Mounted
    from stager.sources.settings import HttpSettings
    from stager.store.images import StagedImage


class Node:
    """This node, as one call sees it: its settings, its store, its job."""

    def __init__(self, flags: dict[str, object], scope: str | None = None) -> None:
        self.environ = dict(os.environ)
        self.config: Config = load(self.environ, flags)
        self.clock = SystemClock()
        self.job = from_environ(self.environ)
        self.session = session_leader()
        self.scope = scope or self.job.scope or f"session-{self.session.pid}-{self.session.start}"

    @cached_property
    def layout(self) -> Layout:
        """The store, made and trusted. Raises StoreUnusable."""
        self._check_filesystem(self.root)
        return folder.open_store(self.root)

    @cached_property
    def root(self) -> str:
        """Where our own store is: a configured one that is root's is for reading only, then ours is at the default."""
        default = folder.default_root({}, os.geteuid())
        return default if self._roots or self._is_left_to_root else os.path.abspath(self.config.store or default)

    @cached_property
    def tiers(self) -> tuple[Layout, ...]:
        """The stores that are only read: root's, if that is the configured one and we are not root; the cluster's."""
        return (*self._roots, *self._clusters)

    @property
    def _roots(self) -> tuple[Layout, ...]:
        root = self.config.store and os.path.abspath(self.config.store)
        return (Layout(root),) if root and folder.is_shared_by_root(root) else ()

    @property
    def _is_left_to_root(self) -> bool:
        """Whether the site's store is root's to make, and root has not made it yet: there is nothing in it for us."""
        store, source = self.config.store, self.config.setting("store").source
        sites = source == (self.environ.get(SITE_VARIABLE) or SITE_FILE)
        return bool(store) and sites and os.geteuid() != 0 and not folder.may_be_ours(os.path.abspath(store))

    @property
    def _clusters(self) -> tuple[Layout, ...]:
        shared = self.config.cluster_transport == "shared" and self.config.is_cluster
        return (Layout(self.config.cluster_shared_dir),) if shared else ()

    @cached_property
    def election(self) -> FileLockElection:
        """Who does what on this node."""
        return FileLockElection(self.layout.lock, locks="STAGE_IMAGE_TEST_NO_LOCKS" not in self.environ)

    @cached_property
    def collector(self) -> collect.Collector:
        """What tidies up after the dead."""
        return collect.Collector(self.layout, self.election, self.way_of)

    def reference(self, text: str) -> Reference:
        """Parse a reference as typed here."""
        if text.startswith("/") or "://" in text:
            reference = parse(text)  # from a directory that has been removed, too
        else:
            try:
                reference = parse(text, os.getcwd())
            except OSError as error:
                raise StoreUnusable(f"the current directory cannot be read: {error.strerror}") from error
        if reference.scheme in ("http", "https", "file"):
            return reference
        from stager.variants import usual, variant

        wanted = variant(self.config, reference)
        return reference.with_variant(wanted, usual=wanted == usual(reference))

    @property
    def http_settings(self) -> HttpSettings:
        """How origins that speak HTTP are asked."""
        from stager.sources.settings import HttpSettings

        config = self.config
        return HttpSettings(
            connect_timeout=config.connect_timeout,
            stall_timeout=config.stall_timeout,
            ca_file=config.ca_file,
            token_file=config.token_file,
        )

    def teller(self, subject: str) -> Teller:
        """Return who speaks of `subject`: everything for the first local rank, only what matters for the others."""
        return teller(subject, self.config.progress, quiet=(self.job.local_rank or 0) > 0)

    def lease(self, *, own: bool) -> Lease:
        """Return our lease: by this process (`own`), which becomes the command, or by the session that called us."""
        return Lease(self.scope, current() if own else self.session)

    def heed_hooks(self, reference: Reference, tell: Teller) -> None:
        """Wait for the site's hook that stages `reference` for our job, and mean by it what that has staged."""
        if self.job.scheduler in ("slurm", "sge"):
            from stager.cli.slurm_known import heed

            heed(self, reference, tell)

    def mounted(self, image: StagedImage, mode: str, *, own: bool, tell: Teller) -> Mounted:
        """Return the image mounted by `mode` (auto, loop or fuse). Raises MountFailed, MountUnavailable."""
        from stager import mount, mounts
        from stager.mounts.fuse import is_dead

        if mode == "none":
            raise MountUnavailable("--mount=none leaves nothing to mount")
        return mount.Mounting(
            layout=self.layout,
            image=image,
            lease=self.lease(own=own),
            session=f"{self.session.pid}.{self.session.start}",
            ways=mounts.order("loop" if mode == "loop" else "fuse" if mode == "fuse" else "auto", image.info),
            election=self.election,
            clock=self.clock,
            tell=tell,
            is_dead=is_dead,
            tiers=() if mode == "fuse" else self.tiers,
        ).run()

    def way_of(self, kind: str) -> Mounter:
        """Return the mounter that made a mount of this kind."""
        from stager import mounts

        return mounts.way_of(kind.partition("-")[0])

    def leave_answer(self, arguments: argparse.Namespace, image: StagedImage, mounted: Mounted | None) -> None:
        """Leave a warm record for the other tasks of this job, if this command line can be answered by one."""
        question = warm.parse(arguments.words)
        if question is None or self.config.freshness == "always" or not warm.is_plain(self.environ):
            return
        if question.verb == "exec" and self.config.runtime != "none" and image.info.config and image.info.config.env:
            return  # what the image adds to a container's environment stands in its sidecar, not in a record
        place = warm.Place(self.environ)
        path = place.record(question)
        if path is None:
            return
        reference = self.reference(question.text)
        until = 0
        if not self.job.scope and reference.digest is None:
            pin_ends = memory.pin_end(self.layout.pin(self.scope, reference.key))
            until = int(min(self.clock.now() + warm.SESSION_SECONDS, pin_ends))
        try:
            warm.leave(
                path,
                image,
                store=place.store,
                until=until,
                mount=(mounted.root, mounted.users) if mounted else None,
                leases=image.leases,
                runtime=self.config.runtime,
            )
        except OSError:
            return  # an optimisation that could not be left is no failure

    def _check_filesystem(self, root: str) -> None:
        found = filesystem.inspect(root)
        if found.network:
            why = f"is on a network file system ({found.fstype}), where locks of one node mean nothing to others"
        elif found.private:
            why = f"is private to this job: {found.private}"
        else:
            return
        if not self.config.allow_unsafe_store:
            _take_back(root)
            raise StoreUnusable(f"the store {root} {why}")
        self.teller(root).say(f"warning: the store {root} {why}")


def _take_back(root: str) -> None:
    """Remove what the entry has left at a store that then was refused: an empty directory with its note."""
    with suppress(OSError):
        for name in files.names(f"{root}/locks"):
            if name.endswith(".leader"):
                give_up(f"{root}/locks/{name}")
        os.rmdir(f"{root}/locks")
        os.rmdir(root)
