"""Taking back all that a job had on this node: its process, namespace, leases, mounts, private directories."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from stager import lease
from stager.cli.as_user import as_user
from stager.cli.full import run
from stager.cli.slurm_stager import job_lock
from stager.cli.umount_verb import close
from stager.errors import InUse, NoSpace, StageImageError, StoreUnusable
from stager.mount import places
from stager.schedulers import private
from stager.schedulers.registry import forget_ended, run_folder
from stager.store import files, folder, images

if TYPE_CHECKING:
    from stager.cli.slurm_job import JobNode
    from stager.process import ProcessIdentity
    from stager.schedulers.registry import JobRecord

ENDING = 3.0
"""Seconds for the job's stager to end by itself; what it has fetched stays."""


class Release:
    """One job's end here. `problems` is what could not be taken back, `notes` what else is to be known, for people."""

    def __init__(self, node: JobNode, record: JobRecord, until: float) -> None:
        """`until`: by time.monotonic(), when whoever waits for it has waited long enough."""
        self._node = node
        self._record = record
        self._until = until
        self.problems: list[str] = []
        self.notes: list[str] = []

    def run(self) -> None:
        """Take everything back, as far as that goes; may be repeated, and beside a stager that has just begun."""
        while monotonic() < self._until:
            self._end_stager()
            try:
                with self._node.election.lead(job_lock(self._record.scope)) as ours:
                    if ours:
                        self._take_back()
                        return
            except (StoreUnusable, NoSpace):  # so there is no lock, and nobody stages; the rest goes all the same
                self._take_back()
                return
            self._node.clock.sleep(0.05)
        # Without the lock: whoever holds it writes the record only while it makes things, and it has been told to end.
        with suppress(OSError):
            self._mark()
        self.problems.append("the process that stages for the job does not end")

    def _take_back(self) -> None:
        steps = (self._mark, self._namespace, self._mounts, self._images, self._own_mounts, self._directories)
        for step in steps:
            try:
                step()
            except (StageImageError, OSError) as error:
                self.problems.append(str(error))
        scope = self._record.scope
        for kind in ("pins", "warm"):
            files.discard_tree(f"{self._node.root}/{kind}/{scope}")
        files.discard_tree(run_folder(scope))
        if not self.problems:
            self._node.registry.remove(scope)
            forget_ended(scope)

    def _mark(self) -> None:
        """Let the Epilog of any other job go on where this one may not come to an end."""
        if self._node.registry.read(self._record.scope) is not None:
            self._node.registry.write(replace(self._record, process="", over=True))

    def _end_stager(self) -> None:
        record = self._node.registry.read(self._record.scope) or self._record
        stager = record.stager
        if stager is None:
            return
        with suppress(ProcessLookupError):
            os.kill(stager.pid, signal.SIGTERM)
        self._await_end(stager)
        if stager.alive:
            with suppress(ProcessLookupError):
                os.kill(stager.pid, signal.SIGKILL)

    def _await_end(self, stager: ProcessIdentity) -> None:
        until = monotonic() + ENDING
        while stager.alive and monotonic() < until:
            self._node.clock.sleep(0.02)

    def _namespace(self) -> None:
        if self._record.namespace:
            from stager.mounts.namespace import Namespace

            Namespace().unpin(self._record.namespace)

    def _mounts(self) -> None:
        for place in places(self._node.layout):
            if lease.release(place.users, self._record.scope):
                patience = max(0.5, min(5.0, self._until - monotonic()))
                close(self._node, place, lazy=True, patience=patience, say=self.notes.append)

    def _own_mounts(self) -> None:
        """Have the user unmount what the job has mounted in the user's own store: a FUSE server may outlive its job."""
        uid, gid, scope = self._record.uid, self._record.gid, self._record.scope
        if uid and not os.geteuid() and os.path.isdir(f"{folder.default_root({}, uid)}/mounts"):
            patience = max(0.5, min(10.0, self._until - monotonic()))
            if as_user(uid, gid, lambda: run(["umount", "--scope", scope, "--lazy"]), patience) < 0:
                self.notes.append(f"the user's own store does not answer: what {scope} has mounted there stays")

    def _images(self) -> None:
        for digest in images.digests(self._node.layout):
            if monotonic() > self._until:
                raise InUse("there are too many leases to look through")
            lease.release(self._node.layout.leases(digest), self._record.scope)

    def _directories(self) -> None:
        for directory in reversed(self._record.directories):
            if not os.path.lexists(directory.path):
                continue
            # Device numbers are those of one boot: of tmpfs, btrfs, device mapper and NFS they may be others after it.
            dev = directory.dev if self._record.of_this_boot else 0
            try:
                private.remove(directory.path, dev, directory.ino, patience=max(1.0, self._until - monotonic()))
            except (StageImageError, OSError) as error:
                self.problems.append(str(error))
