"""What a job's tasks are told on a node: `/run/stage-image/jobs/<scope>/tasks`, in the lines of Slurm's TaskProlog.

    export STAGE_IMAGE_PATH=…      as a task gets it (https://slurm.schedmd.com/prolog_epilog.html)
    print …                        on the task's standard output
    ready                          the last line: all is there; or
    failed <exit code> <message>   what is missing is missing; or
    staging <pid>.<start>.<boot> <done> <total> <reference>…
                                   this process is at it, so many bytes of how many (0: unknown) of the present image

Without a last line of these the file is not whole, and counts as absent. It is the job's user's to read, and nothing
of root's ever reads it: a user may tell himself what he likes.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from stager.layout import UNMOUNTED
from stager.process import ProcessIdentity
from stager.schedulers.registry import make_run_folder, run_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stager.clock import Clock
    from stager.errors import StageImageError
    from stager.interfaces import Teller

NAME = "tasks"
MAX = 64 * 1024
"""Characters: eight images with four variables each, and some lines for people."""

SILENT = 15.0
"""Seconds without a sign of life after which whoever stages is given up: it writes the file anew every second."""

LOOK = 0.1

_NOBODY = 2**32 - 1
"""In an access control list (linux/posix_acl_xattr.h, version 2): entries are a tag, permissions and an id, little
endian; the tags are owner 1, user 2, owner's group 4, mask 16, others 32."""

_REFERENCE = "STAGE_IMAGE_REFERENCE"
LONGEST = 24 * 3600.0


class Told:
    """A file's content: the lines for Slurm, and how it stands. `written`: when, in nanoseconds of the wall clock."""

    __slots__ = ("last", "lines", "written")

    def __init__(self, lines: Sequence[str], last: str, written: int = 0) -> None:
        self.lines = tuple(lines)
        self.last = last
        self.written = written

    @classmethod
    def failed(cls, error: StageImageError, lines: Sequence[str] = ()) -> Told:
        """Return what tells of an error."""
        about = f"{error.reference}: " if error.reference and error.reference not in error.message else ""
        return cls(lines, " ".join(f"failed {error.exit_code} {about}{error.message}".split()))

    @property
    def state(self) -> str:
        """`ready`, `failed` or `staging`."""
        return self.last.partition(" ")[0]

    @property
    def failure(self) -> str:
        """Why something is missing; empty if nothing is."""
        return self.last.split(" ", 2)[-1] if self.state == "failed" else ""

    @property
    def stager(self) -> ProcessIdentity | None:
        """Who stages, if that process lives."""
        words = self.last.split()
        identity = ProcessIdentity.parse(words[1]) if self.state == "staging" and len(words) > 1 else None
        return identity if identity is not None and identity.alive else None

    @property
    def wanted(self) -> tuple[str, ...]:
        """The references that are being staged."""
        return tuple(self.last.split()[4:]) if self.state == "staging" else ()

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes of the present image that are there, and in all (0: unknown)."""
        words = self.last.split()[2:4]
        numbers = [int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 20]
        return (numbers[0], numbers[1]) if self.state == "staging" and len(numbers) == 2 else (0, 0)

    @property
    def digests(self) -> dict[str, str]:
        """What each reference that is staged means in this job (`sha256:…`)."""
        exports = (line.removeprefix("export ").partition("=") for line in self.lines if line.startswith("export "))
        values = {name: value for name, _, value in exports}
        names = [name for name in values if name.startswith(_REFERENCE)]
        return {values[name]: values.get(name.replace(_REFERENCE, "STAGE_IMAGE_DIGEST"), "") for name in names}

    def text(self) -> str:
        """Return the file's content."""
        return "".join(f"{line}\n" for line in (*self.lines, self.last))


def path(scope: str) -> str:
    """Return where a job's file is."""
    return f"{run_folder(scope)}/{NAME}"


def scope_of(scope: str, environ: Mapping[str, str]) -> str:
    """Return by which name this node's Prolog went for the job that a task is of; `scope` unless it is another one.

    A component of a heterogeneous job of Slurm's has a number of its own, but its tasks have the leader's
    (https://slurm.schedmd.com/heterogeneous_jobs.html).
    """
    if read(scope) is not None:
        return scope
    size = environ.get("SLURM_HET_SIZE", "")
    groups = range(int(size)) if size.isascii() and size.isdigit() and len(size) < 4 else ()
    jobs = (environ.get(f"SLURM_JOB_ID_HET_GROUP_{group}", "") for group in groups)
    others = (f"slurm-{job}" for job in jobs if job.isascii() and job.isdigit())
    return next((other for other in others if read(other) is not None), scope)


def stale(environ: Mapping[str, str], *, is_told: bool) -> list[str]:
    """Return TaskProlog's lines that take back what the batch script's environment brings from another node.

    Where the Prolog has told anything, all of it; where it has not, what is not on this node.
    """
    found = []
    for number in ("", *(f"_{number}" for number in range(2, 9))):
        image, root = environ.get(f"STAGE_IMAGE_PATH{number}"), environ.get(f"STAGE_IMAGE_ROOT{number}")
        if image and (is_told or not os.path.isfile(image)):
            found += [f"unset STAGE_IMAGE_PATH{number}", f"unset STAGE_IMAGE_DIGEST{number}"]
        if root and (is_told or not os.path.isdir(root) or os.path.exists(f"{root}/{UNMOUNTED}")):
            found.append(f"unset STAGE_IMAGE_ROOT{number}")
    return found


def read(scope: str) -> Told | None:
    """Return what a job's tasks are told here, None if there is nothing whole."""
    try:
        fd = os.open(path(scope), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, encoding="utf-8", errors="replace") as file:
            text, written = file.read(MAX), os.fstat(fd).st_mtime_ns
    except OSError:
        return None
    *lines, last = text.removesuffix("\n").split("\n")
    if not text.endswith("\n") or last.partition(" ")[0] not in ("ready", "failed", "staging"):
        return None
    return Told([line for line in lines if line], last, written)


def write(scope: str, told: Told, uid: int) -> None:
    """Tell the tasks of a job of `uid`'s. Raises OSError."""
    folder = make_run_folder(scope)
    aside = f"{folder}/.{NAME}.{os.getpid()}"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
        _let_read(fd, uid)
        file.write(told.text())
    os.rename(aside, path(scope))


def _let_read(fd: int, uid: int) -> None:
    """Let a user read a file of root's: if it were his own, he could fill /run with it."""
    if uid == os.geteuid():
        return
    entries = ((1, 4, _NOBODY), (2, 4, uid), (4, 0, _NOBODY), (16, 4, _NOBODY), (32, 0, _NOBODY))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(fd, "system.posix_acl_access", acl)
    except OSError:
        os.fchown(fd, uid, -1)  # a /run without access control lists


def await_stager(
    scope: str, clock: Clock, tell: Teller, enough: Callable[[Told], bool] = lambda _told: False
) -> Told | None:
    """Wait while somebody stages for the job, and it is not `enough`; return the outcome.

    Bounded: by the life of whoever stages, by SILENT seconds without a line of it, and by LONGEST.
    """
    begun, seen, since, met = clock.now(), 0, clock.now(), False
    while (told := read(scope)) is not None and (stager := told.stager) is not None:
        if enough(told):
            return told
        now = clock.now()
        if told.written != seen:
            seen, since = told.written, now
        if now - since > SILENT or now - begun > LONGEST:
            tell.say(f"the Prolog's process {stager.pid} has stopped moving; going on without it")
            return told
        if not met:
            tell.waiting(stager.pid, clock.wall())
            met = True
        tell.progress("staging", *told.progress)
        clock.sleep(LOOK)
    return told
