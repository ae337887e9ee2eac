"""`stage-image slurm prolog`: what a job asked for is staged, mounted and made before its first task.

    request ─▶ record ─▶ private directories, namespace ─▶ a process of its own stages ─▶ wait while the budget lasts

Slurm drains a node whose Prolog fails, requeues a job whose Prolog is slow, and kills a Prolog that is too slow: so
this ends with 0 whatever happens unless the site is strict, within its budget, and has nothing to tidy up when killed.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from stager.cli.boundary import report
from stager.cli.slurm_job import JobNode, log_line
from stager.cli.slurm_stager import LOCK_SECONDS, job_lock, stage
from stager.errors import ConfigError, LeaderLost, StageImageError
from stager.schedulers import hook, private, told, visible
from stager.schedulers.hook import HookEnvironment
from stager.schedulers.registry import (
    Directory,
    JobRecord,
    forget_ended,
    make_image_folders,
    make_run_folder,
    run_folder,
)
from stager.schedulers.told import Told
from stager.store.trouble import as_error

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from stager.schedulers.site import Hook

CLEARING_SECONDS = 10.0
"""For what an earlier run of the job has left here."""

NAMESPACE = "ns"
"""Where the SPANK plugin, too, looks for it."""


def run(_arguments: argparse.Namespace) -> int:
    """Do all that a Prolog does; 0, or the exit code of what failed where the site is strict."""
    failure = attempt(lambda: HookEnvironment.read(os.environ))
    return failure.exit_code if failure is not None else 0


def attempt(read: Callable[[], Hook]) -> StageImageError | None:
    """Do all that a scheduler's prolog does for the job that `read` returns.

    Return what failed where the site is strict; otherwise it is only reported, logged, and told to the job's tasks.
    """
    if hook.is_off():
        return None
    os.umask(0o022)  # the scheduler's may be anything, and what is staged is for users
    job: Hook | None = None
    node: JobNode | None = None
    try:
        job = read()
        node = JobNode(job)
        Prolog(node).run()
    except (StageImageError, OSError) as error:
        failure = error if isinstance(error, StageImageError) else as_error(error, node.root if node else "/")
        report(failure)
        if job is not None and _has_asked(job):
            log_line(job.job, "prolog", failure, image=failure.reference)
            _tell_tasks(job, failure)
        return failure if node is not None and node.site.strict else None
    return None


def _has_asked(job: Hook) -> bool:
    """Whether the job wants anything of us: the tasks of all others need not hear of our troubles."""
    try:
        return job.private_tmp or bool(job.request())
    except StageImageError:
        return True


def _tell_tasks(job: Hook, error: StageImageError) -> None:
    # Whoever staged has told them already, and more.
    if job.uid is not None and told.read(job.scope) is None:
        with suppress(OSError):
            told.write(job.scope, Told.failed(error), job.uid)


class Prolog:
    """One job's Prolog on this node."""

    def __init__(self, node: JobNode) -> None:
        self._node = node
        self._hook = node.hook
        self._begun = monotonic()

    def run(self) -> None:
        """Make what was asked for. Raises the StageImageError of what could not be had within the budget."""
        places = self._places()
        references = self._hook.request().references
        if not references and not places:
            return
        earlier = self._earlier()
        if earlier is not None and earlier.stager is not None:
            self._await(earlier)
            return
        # An Epilog beside a living Prolog, as after a slurmd that was killed, finds nothing, or all of it recorded.
        with self._job_lock():
            record = self._earlier() or self._recorded(references, places)
            shows = references and self._node.site.images_at
            if (places or shows) and not _is_pinned(record):
                record = self._make_private(record)
        if references:
            self._stage()

    @contextmanager
    def _job_lock(self) -> Iterator[None]:
        give_up = monotonic() + LOCK_SECONDS
        while monotonic() < give_up:
            with self._node.election.lead(job_lock(self._node.scope)) as ours:
                if ours:
                    yield
                    return
            self._node.clock.sleep(0.05)
        raise LeaderLost(f"another hook of the job has been at work here for {LOCK_SECONDS:.0f} s")

    def _places(self) -> tuple[private.Place, ...]:
        site = self._node.site
        asked = site.private_for == "all" or self._hook.private_tmp
        return private.parse(site.private) if asked and site.private else ()

    def _owner(self) -> tuple[int, int]:
        uid, gid = self._hook.uid, self._hook.gid
        if uid is None or gid is None:
            raise ConfigError("the scheduler does not say whose job it is, by a user and group that there are")
        return uid, gid

    def _earlier(self) -> JobRecord | None:
        """Return what this very run of the job has here already; what an earlier run left is cleared away."""
        earlier = self._node.registry.read(self._node.scope)
        mine = (self._hook.uid, self._hook.gid, self._hook.restart)
        if earlier is None or (earlier.is_alive and (earlier.uid, earlier.gid, earlier.restart) == mine):
            return earlier
        from stager.cli.slurm_release import Release

        Release(self._node, earlier, monotonic() + CLEARING_SECONDS).run()
        return None

    def _recorded(self, references: tuple[str, ...], places: tuple[private.Place, ...]) -> JobRecord:
        """Return the job's record, written down."""
        uid, gid = self._owner()
        wanted = private.directories(places, self._hook.job, self._hook.restart) if places else ()
        record = JobRecord(
            scope=self._node.scope,
            uid=uid,
            gid=gid,
            restart=self._hook.restart,
            references=references,
            directories=tuple(Directory(each.path, each.mount) for each in wanted),
        )
        # What was noted of an earlier run that left no record is not said of this one.
        forget_ended(record.scope)
        self._node.registry.write(record)
        return record

    def _make_private(self, record: JobRecord) -> JobRecord:
        from stager.mounts.namespace import Namespace

        binds = []
        for directory in record.directories:
            made = private.make(private.Directory(directory.mount, directory.path), record.uid, record.gid)
            record = record.with_directory(replace(directory, dev=made.dev, ino=made.ino))
            self._node.registry.write(record)
            binds.append((directory.path, directory.mount))
        binds += self._visible(record.directories)
        record = replace(record, namespace=f"{run_folder(record.scope)}/{NAMESPACE}")
        self._node.registry.write(record)
        make_run_folder(record.scope)
        if record.references and self._node.site.images_at:
            binds.append((make_image_folders(record.scope, len(record.references)), self._node.site.images_at))
        Namespace().pin(record.namespace, binds)
        self._node.log("private", seconds=monotonic() - self._begun)
        return record

    def _visible(self, directories: tuple[Directory, ...]) -> list[tuple[str, str]]:
        """Return what is bound back into directories that cover it, as far as it is there and can be."""
        binds = []
        for path in self._node.site.private_shows:
            directory = visible.covering(path, directories)
            try:
                if directory is not None and visible.is_roots(path):
                    visible.make_room(path, directory)
                    binds.append((path, path))
            except OSError as error:
                self._node.log("private", as_error(error, path))
        return binds

    def _stage(self) -> None:
        """Have a process of its own stage, and wait for it while the budget lasts."""
        from stager import deputy

        tell = self._node.teller("the job's images")
        with deputy.begin(lambda principal: stage(self._node, principal), tell) as process, suppress(_BudgetSpentError):
            process.outcome(self._look_at_budget)

    def _await(self, record: JobRecord) -> None:
        while record.stager is not None and self._left > 0:
            self._node.clock.sleep(0.1)

    def _look_at_budget(self) -> None:
        if self._left <= 0:
            self._node.log("prolog", seconds=monotonic() - self._begun, image="goes on without the Prolog")
            raise _BudgetSpentError

    @property
    def _left(self) -> float:
        return self._begun + self._node.site.budget - monotonic()


def _is_pinned(record: JobRecord) -> bool:
    # The record comes first, then an empty file to pin it to: a Prolog that was killed in between has made nothing yet.
    from stager.mounts.namespace import PIN

    return bool(record.namespace) and os.path.ismount(f"{record.namespace}/{PIN}")


class _BudgetSpentError(Exception):
    """The Prolog has waited long enough."""
