"""The process that stages a job's images for its Prolog, and goes on when the Prolog's time is over."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING

from stager.cli.obtain import Obtained, obtain
from stager.cli.slurm_job import JobNode, Story
from stager.errors import AccessDenied, StageImageError
from stager.process import current
from stager.reference import parse
from stager.schedulers import policy
from stager.schedulers.told import Told
from stager.store.trouble import as_error

if TYPE_CHECKING:
    from stager.deputy import Principal
    from stager.schedulers.registry import JobRecord

LOCK_SECONDS = 5.0
"""For whoever clears away what an earlier run of this job left here."""


def job_lock(scope: str) -> str:
    """Return under which name one process at a time makes or removes what a job has here."""
    return f"job.{scope}"


def stage(node: JobNode, principal: Principal) -> None:
    """Stage all that the job's record asks for, tell its tasks, and answer the Prolog, if it still waits."""
    try:
        _stage(node, principal)
    except (StageImageError, OSError) as error:
        failure = error if isinstance(error, StageImageError) else as_error(error, node.root)
        node.log("stage", failure)
        principal.failed(failure)
        with suppress(OSError):
            node.tell_tasks(Told.failed(failure))


def _stage(node: JobNode, principal: Principal) -> None:
    give_up = monotonic() + LOCK_SECONDS
    while monotonic() < give_up:
        with node.election.lead(job_lock(node.scope)) as ours:
            if ours:
                # Under the lock: an Epilog that was quicker has removed the record, and there is nothing to do.
                record = node.registry.read(node.scope)
                if record is not None:
                    _stage_all(node, replace(record, process=str(current())), principal)
                return
        node.clock.sleep(0.05)


def _stage_all(node: JobNode, record: JobRecord, principal: Principal) -> None:
    node.registry.write(record)
    node.story = story = Story(record.references, node.tell_tasks)
    story.begin()
    failure: StageImageError | None = None
    try:
        for number in range(1, len(record.references) + 1):
            failure = _Image(node, record, story, number).stage() or failure
    finally:
        story.end(Told.failed(failure).last if failure is not None else "ready")
        node.registry.write(replace(record, process=""))
    if failure is not None:
        principal.failed(failure)
    else:
        principal.staged("all")


@dataclass(frozen=True, slots=True)
class _Image:
    """One of a job's images, the first being number 1."""

    node: JobNode
    record: JobRecord
    story: Story
    number: int

    @property
    def text(self) -> str:
        return self.record.references[self.number - 1]

    def stage(self) -> StageImageError | None:
        """Stage it and add what the tasks are told of it; return what went wrong."""
        begun, shown = monotonic(), parse(self.text).shown
        self.story.parts()
        try:
            site = self.node.site
            if site.allow is not None:
                policy.check(parse(self.text), site.allow, site.table)
            optional = self.node.config.mount == "auto"
            obtained = obtain(_arguments(self.text), own=False, mode=None, optional=optional, node=self.node)
            if site.allow is not None:
                _refuse_private(obtained)
            exports = self._exports(obtained)
        except StageImageError as error:
            error.reference = error.reference or shown
            self.node.log("stage", error, image=shown, seconds=monotonic() - begun)
            return error
        seconds = monotonic() - begun
        self.story.add(*exports, _summary(shown, obtained, seconds, self.story))
        self.node.log("stage", image=shown, seconds=seconds)
        return None

    def _exports(self, obtained: Obtained) -> list[str]:
        behind = f"_{self.number}" if self.number > 1 else ""
        values = {"REFERENCE": self.text, "PATH": obtained.image.path, "DIGEST": str(obtained.image.digest)}
        if obtained.mounted is not None:
            values["ROOT"] = self._seen_at(obtained.mounted.root)
        return [f"export STAGE_IMAGE_{name}{behind}={value}" for name, value in values.items()]

    def _seen_at(self, root: str) -> str:
        """Return where the job's tasks see the mount: in their own namespace, if they are to."""
        place = self.node.site.images_at
        if not place or not self.record.namespace:
            return root
        from stager.mounts.namespace import Namespace

        Namespace().bind_in(self.record.namespace, root, f"{place}/{self.number}")
        return f"{place}/{self.number}"


def _refuse_private(obtained: Obtained) -> None:
    # Root's credentials got it, and a mount shows it to every user of the node.
    if obtained.image.private:
        raise AccessDenied("its origin wanted credentials, and those are the site's, not the user's")


def _summary(shown: str, obtained: Obtained, seconds: float, story: Story) -> str:
    parts = "; ".join(filter(None, (story.parts(), *story.said)))
    story.said.clear()
    mounted = f", mounted by {obtained.mounted.report.kind}" if obtained.mounted is not None else ""
    size = obtained.image.size / 2**20
    line = f"print stage-image: {shown} on {os.uname().nodename}: {size:.1f} MiB in {seconds:.1f} s{mounted}"
    return f"{line} ({parts})" if parts else line


def _arguments(text: str) -> argparse.Namespace:
    return argparse.Namespace(reference=text, retry=False, words=[])
