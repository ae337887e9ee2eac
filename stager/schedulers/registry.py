"""What a site's hooks made for a job on this node: written down before it is made, so that all of it is found again.

`<store>/jobs/<scope>.json`, root's alone. What is removed when the job ends is what stands here, never what a name
computed anew would say: a restart count that one hook is told and the other is not leaves every requeued job's
directories behind.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from stager.process import ProcessIdentity, boot_id
from stager.store import files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.layout import Layout

RUN = "/run/stage-image/jobs"
"""What of a job ends with the boot: a tmpfs on every system with a File Hierarchy Standard 3.0."""

_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Directory:
    """A private directory of a job's; `dev` and `ino` tell it from another of its name, 0 until it is made."""

    path: str
    mount: str
    dev: int = 0
    ino: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job on this node.

    `process` is who stages for it (as `pid.start.boot`), `namespace` where it is pinned. `over`: it has ended, and what
    is still here goes with the next Epilog of any job.
    """

    scope: str
    uid: int
    gid: int
    restart: int = 0
    boot: str = field(default_factory=boot_id)
    references: tuple[str, ...] = ()
    directories: tuple[Directory, ...] = ()
    namespace: str = ""
    process: str = ""
    over: bool = False

    @property
    def of_this_boot(self) -> bool:
        """Whether mounts, namespaces and processes of it may still be there."""
        return self.boot == boot_id()

    @property
    def is_alive(self) -> bool:
        """Whether the job may still be running."""
        return self.of_this_boot and not self.over and self.scope not in ended()

    @property
    def stager(self) -> ProcessIdentity | None:
        """The process that stages for the job, if it lives."""
        identity = ProcessIdentity.parse(self.process)
        return identity if identity is not None and identity.alive else None

    def with_directory(self, made: Directory) -> JobRecord:
        """Return the record with one directory as it was made."""
        return replace(self, directories=tuple(made if d.path == made.path else d for d in self.directories))


class Registry:
    """The records of one store, whose directory for them is made when the first is written."""

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.jobs

    def path(self, scope: str) -> str:
        """Where a job's record is."""
        return f"{self._folder}/{scope}{_SUFFIX}"

    def read(self, scope: str) -> JobRecord | None:
        """Return a job's record, None if there is no sound one."""
        text = files.read_text(self.path(scope))
        try:
            record = _record(json.loads(text)) if text else None
        except (ValueError, TypeError, RecursionError):
            return None
        return record if record is not None and record.scope == scope else None

    def write(self, record: JobRecord) -> None:
        """Write a record down, so that it survives a power cut. Raises OSError."""
        if not files.is_folder(self._folder):
            files.make_folders(os.path.dirname(self._folder))
            os.makedirs(self._folder, 0o700, exist_ok=True)
        files.write_text(self.path(record.scope), json.dumps(asdict(record)), 0o600, durable=True)

    def remove(self, scope: str) -> None:
        """Forget a job."""
        files.discard(self.path(scope))

    def records(self) -> Iterator[JobRecord]:
        """Yield all sound records."""
        for name in files.names(self._folder):
            if name.endswith(_SUFFIX) and (record := self.read(name.removesuffix(_SUFFIX))) is not None:
                yield record


def leave_ended(scope: str) -> None:
    """Note that a job has ended, where its record cannot be reached: the next Epilog takes back what it had.

    The script of the Epilog does the same while the hooks are switched off. Never raises.
    """
    with suppress(OSError):
        _made(os.path.dirname(RUN), _ended_folder())
        files.write_text(f"{_ended_folder()}/{scope}", "")


def ended() -> set[str]:
    """Return the jobs of which that is noted."""
    return set(files.names(_ended_folder()))


def forget_ended(scope: str) -> None:
    """Take the note back."""
    files.discard(f"{_ended_folder()}/{scope}")


def _ended_folder() -> str:
    return f"{os.path.dirname(RUN)}/ended"


def run_folder(scope: str) -> str:
    """Return the job's directory that ends with the boot."""
    return f"{RUN}/{scope}"


def make_run_folder(scope: str) -> str:
    """Make the job's directory that ends with the boot, for all to read; return it. Raises OSError."""
    return _made(os.path.dirname(RUN), RUN, run_folder(scope))


def make_image_folders(scope: str, count: int) -> str:
    """Make a directory with others named 1, 2 and so on in it, to mount images on; return it. Raises OSError."""
    folder = f"{make_run_folder(scope)}/images"
    for number in range(1, count + 1):
        _made(folder, f"{folder}/{number}")
    return folder


def _made(*paths: str) -> str:
    for path in paths:
        with suppress(FileExistsError):
            os.mkdir(path, 0o755)
            os.chmod(path, 0o755)  # noqa: S103 - for tasks to look into; slurmd's umask may be anything
    return paths[-1]


def _record(raw: Any) -> JobRecord:  # noqa: ANN401 - whatever JSON holds
    known = {each.name: raw[each.name] for each in fields(JobRecord) if each.name in raw}
    known["directories"] = tuple(Directory(**each) for each in known.get("directories", ()))
    known["references"] = tuple(known.get("references", ()))
    return JobRecord(**known)
