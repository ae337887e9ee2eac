"""The warm path: a complete answer that one task of a job left for the others, checked and given without much ado.

A warm record holds the answer to one command line (verb, reference as typed, mount and runtime as typed) within one
scope. It is an optimisation of the same answer the long way: whatever is not exactly as recorded goes that way.
`sbatch-wrapper/stage-image` reads the same records with a shell's builtins; the two must agree.

base/warm/<scope>/<name>, lines `key value` in this order, the record's own mtime being the image's:
    store     $STAGE_IMAGE_STORE of the caller, may be empty
    boot      the boot it was written in
    until     seconds since boot after which it is void; 0: as long as the job
    digest, path, twin, inode, size, mtime      of the image; twin is a hard link beside it
    root      the mountpoint, empty if not mounted;  device: st_dev of what is mounted there
    leases    where a user of the image leaves a lease;  users: the same for the mount, empty if not mounted
"""

from __future__ import annotations

import os
import sys

from stager import lease
from stager.jobenv import from_environ
from stager.layout import UNMOUNTED, Layout, warm_name
from stager.lease import Lease
from stager.process import ProcessIdentity, boot_id, current, session_leader
from stager.store.files import discard, read_record, write_aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.store.images import StagedImage

OUTPUTS = ("STAGE_IMAGE_PATH", "STAGE_IMAGE_ROOT", "STAGE_IMAGE_DIGEST")
SESSION_SECONDS = 60
"""For which an answer outside of any job holds; the same as memory.SESSION_PIN, which is not imported here."""

HARMLESS = (*OUTPUTS, "STAGE_IMAGE_STORE", "STAGE_IMAGE_PYTHON")
"""Variables which do not change what the answer is; with any other STAGE_IMAGE_* the long way is taken."""


class Question:
    """A command line that can be answered warm: `verb` is path, mount or exec; `mount` and `runtime` as typed."""

    __slots__ = ("command", "mount", "runtime", "text", "verb")

    def __init__(self, verb: str, text: str, mount: str = "", runtime: str = "") -> None:
        self.verb = verb
        self.text = text
        self.mount = mount
        self.runtime = runtime
        self.command: list[str] = []

    @property
    def name(self) -> str | None:
        """The record's file name, or None if there cannot be one."""
        return warm_name(self.verb, self.mount, self.runtime, self.text)


def parse(argv: list[str]) -> Question | None:
    """Understand the plainest forms of a command line; None for all others, right or wrong.

    REF | mount [--mount=M] REF | exec [--mount=M] [--runtime=R] REF [--mount=M] [--runtime=R] -- CMD…
    """
    if not argv or argv[0] not in ("mount", "exec"):
        return Question("path", argv[0]) if len(argv) == 1 and not argv[0].startswith("-") else None
    words = argv[1:]
    if argv[0] == "exec":
        if "--" not in words:
            return None
        cut = words.index("--")
        words, command = words[:cut], words[cut + 1 :]
        if not command:
            return None
    else:
        command = []
    options = {"--mount": "", "--runtime": ""}
    references = []
    for word in words:
        option, equals, value = word.partition("=")
        if not word.startswith("-"):
            references.append(word)
        elif equals and value.isalpha() and option in options and (option == "--mount" or argv[0] == "exec"):
            options[option] = value
        else:
            return None
    if len(references) != 1:
        return None
    question = Question(argv[0], references[0], options["--mount"], options["--runtime"])
    question.command = command
    return question


def is_plain(environ: Mapping[str, str]) -> bool:
    """Whether no variable changes what the answer would be."""
    return not any(name.startswith("STAGE_IMAGE_") and name not in HARMLESS for name in environ)


class Place:
    """Where this caller's warm records are, and how its leases are written: by scope and session."""

    __slots__ = ("layout", "scope", "session", "store")

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.store = environ.get("STAGE_IMAGE_STORE", "")
        self.layout = Layout(base(environ))
        self.session = session_leader()
        job = from_environ(environ).scope
        self.scope = job or f"session-{self.session.pid}-{self.session.start}"

    def record(self, question: Question) -> str | None:
        """Return the path of the record that may answer, or None."""
        name = question.name
        return self.layout.warm(self.scope, name) if name else None


def base(environ: Mapping[str, str]) -> str:
    """Return the directory of ours that holds warm records: the store if it is ours, else our default store."""
    default = f"/var/tmp/stage-image-{os.geteuid()}"  # noqa: S108 - its owner is checked before it is believed
    store = environ.get("STAGE_IMAGE_STORE", "") or default
    return store if _is_ours(store) else default


def answer(question: Question, place: Place) -> dict[str, str] | None:
    """Return a record whose every claim holds now, with our lease taken; None if the long way must be gone."""
    path = place.record(question)
    record = read_record(path) if path and _is_ours(place.layout.root) else None
    if path is None or record is None or not _is_current(record, place):
        return None
    holder = current() if question.verb == "exec" else place.session
    if not _leased(record, Lease(place.scope, holder)):
        return None
    # Looked at after the lease was written, and the record once more: who evicts or unmounts removes the record
    # first and looks for leases after that, so that one of us sees the other.
    if not (_image_holds(record) and _mount_holds(record, question) and os.path.lexists(path)):
        return None
    return record


def environment(record: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a command run on an image gets."""
    found = {"STAGE_IMAGE_PATH": record["path"], "STAGE_IMAGE_DIGEST": record["digest"]}
    return found | {"STAGE_IMAGE_ROOT": record["root"]} if record.get("root") else found


def leave(path: str, image: StagedImage, *, store: str, until: int, mount: tuple[str, str] | None, leases: str) -> None:
    """Leave a record for the other tasks; `mount` is (mountpoint, directory of its leases)."""
    twin = f"{os.path.dirname(image.path)}/twin"
    root, users = mount or ("", "")
    record = {
        "store": store,
        "boot": boot_id(),
        "until": str(until),
        "digest": str(image.digest),
        "path": image.path,
        "twin": twin,
        "inode": str(image.inode),
        "size": str(image.size),
        "mtime": str(image.mtime_ns),
        "root": root,
        "device": str(os.stat(root).st_dev) if root else "",
        "leases": leases,
        "users": users,
    }
    aside = write_aside(path, "".join(f"{key} {value}\n" for key, value in record.items()), 0o600)
    os.utime(aside, ns=(image.mtime_ns, image.mtime_ns))
    os.replace(aside, path)


def forget(layout: Layout, word: str) -> None:
    """Remove all warm records that mention `word`, a digest or a mountpoint, before it goes away."""
    for scope in _listed(f"{layout.root}/warm"):
        folder = f"{layout.root}/warm/{scope}"
        for name in _listed(folder):
            record = read_record(f"{folder}/{name}")
            if record is None or word in record.values():
                discard(f"{folder}/{name}")


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _is_ours(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022 and status.st_mode & 0o170000 == 0o040000


def _is_current(record: Mapping[str, str], place: Place) -> bool:
    if record.get("store") != place.store or record.get("boot") != boot_id():
        return False
    until = record.get("until", "")
    if until == "0":
        return True
    from time import CLOCK_BOOTTIME, clock_gettime

    return until.isdecimal() and clock_gettime(CLOCK_BOOTTIME) < int(until)


def _leased(record: Mapping[str, str], mine: Lease) -> bool:
    try:
        for folder in (record["leases"], record["users"]):
            if folder:
                lease.acquire(folder, mine)
    except (OSError, KeyError):
        return False
    return True


def _image_holds(record: Mapping[str, str]) -> bool:
    try:
        status = os.lstat(record["path"])
    except (OSError, KeyError):
        return False
    seen = (str(status.st_ino), str(status.st_size), str(status.st_mtime_ns))
    regular = status.st_mode & 0o170000 == 0o100000 and not status.st_mode & 0o022
    return regular and seen == (record.get("inode"), record.get("size"), record.get("mtime"))


def _mount_holds(record: Mapping[str, str], question: Question) -> bool:
    root = record.get("root", "")
    if not root:
        return question.verb != "mount"
    try:
        return str(os.stat(root).st_dev) == record.get("device") and not os.path.lexists(f"{root}/{UNMOUNTED}")
    except OSError:
        return False


def complain(text: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(f"stage-image: {text}\n")


__all__ = [
    "Place",
    "ProcessIdentity",
    "Question",
    "answer",
    "base",
    "environment",
    "forget",
    "is_plain",
    "leave",
    "parse",
]
