"""The warm path: a complete answer that one task of a job left for the others, checked and given without much ado.

A warm record holds the answer to one command line (verb, reference as typed, mount and runtime as typed) within one
scope. It is an optimisation of the same answer the long way: whatever is not exactly as recorded goes that way.
`sbatch-wrapper/stage-image` reads the same records with a shell's builtins; the two must agree.

base/warm/<scope>/<name>, lines `key value` in this order, the record's own mtime being the image's:
    answer    <scope>/<name>, so that a record moved elsewhere answers nothing
    store     $STAGE_IMAGE_STORE of the caller, may be empty
    boot      the boot it was written in
    until     seconds since boot after which it is void; 0: as long as the job
    path      of the image, which tells its digest and where its leases are; a hard link `twin` lies beside it
    root      the mountpoint, empty if not mounted; its leases are beside it too
    runtime   for exec the setting and what it was found to mean, as in auto:apptainer or none: (on the host)
    file      inode, size and mtime of the image and, if mounted, st_dev of the mountpoint. A shell cannot see them: it
              compares the image with its twin and its mtime with the record's, and looks whether the mountpoint is bare
"""

from __future__ import annotations

import os

from stager import lease
from stager.jobenv import from_environ
from stager.layout import UNMOUNTED, Layout
from stager.lease import Lease
from stager.process import boot_id, current, session_leader
from stager.question import Question, is_plain, parse
from stager.store.files import discard, is_trusted, make_folders, names, read_text, write_aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.store.images import StagedImage

SESSION_SECONDS = 60
"""For which an answer outside of any job holds; the same as memory.SESSION_PIN, which is not imported here."""

SETTLED_SECONDS = 2
"""An image's mtime is this old before it is answered for: no later write can leave the same one, neither within a tick
of the kernel's clock (up to 10 ms) nor to a shell whose -nt compares whole seconds (busybox)."""

RUNTIMES = ("apptainer", "singularity")


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
    default = f"/var/tmp/stage-image-{os.geteuid()}"  # noqa: S108 - ownership is checked before anything is believed
    store = environ.get("STAGE_IMAGE_STORE", "") or default
    return store if _is_ours(store) else default


class Record:
    """What a record says; the lines of the file in their order."""

    __slots__ = ("answer", "store", "boot", "until", "path", "root", "runtime", "file")  # noqa: RUF023 - their order

    def __init__(self, *values: str) -> None:
        self.answer, self.store, self.boot, self.until, self.path, self.root, self.runtime, self.file = values

    def text(self) -> str:
        """Return the file's content."""
        return "".join(f"{key} {getattr(self, key)}\n" for key in self.__slots__)

    @property
    def hex(self) -> str:
        """The digest's digits."""
        return os.path.basename(os.path.dirname(self.path))

    @property
    def inside(self) -> str:
        """The container runtime that `exec` runs the command in; empty on the host."""
        return self.runtime.partition(":")[2]

    @property
    def leases(self) -> list[str]:
        """The directories where a user of the image, and of the mount, leaves a lease."""
        image = f"{self.path.rpartition('/images/sha256/')[0]}/leases/{self.hex}"
        return [image, f"{os.path.dirname(self.root)}/users"] if self.root else [image]

    def command(self, question: Question) -> list[str]:
        """Return what `exec` becomes."""
        return [self.inside, "exec", self.path, *question.command] if self.inside else question.command

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return `environ` as a command that runs on the image gets it, on the host or inside of a container."""
        about = {"STAGE_IMAGE_PATH": self.path, "STAGE_IMAGE_DIGEST": f"sha256:{self.hex}"}
        rest = {name: value for name, value in environ.items() if name != "STAGE_IMAGE_ROOT"}
        rest |= about | ({"STAGE_IMAGE_ROOT": self.root} if self.root else {})
        if self.inside:
            inside = about | {"STAGE_IMAGE_ROOT": "/"}
            rest |= {f"{self.inside.upper()}ENV_{name}": value for name, value in inside.items()}
        return rest


def answer(question: Question, place: Place) -> Record | None:
    """Return a record whose every claim holds now, with our lease taken; None if the long way must be gone."""
    path = place.record(question)
    record = _read(path) if path and _is_safe(path) else None
    if path is None or record is None or not _is_current(record, path, place):
        return None
    if not (_is_as_pinned(record, question) and _means_the_same(record, question)):
        return None
    holder = current() if question.verb == "exec" else place.session
    if not _leased(record, Lease(place.scope, holder)):
        return None
    # Looked at after the lease was written, and the record once more: who evicts or unmounts removes records, sidecar
    # or `ready` first and looks for leases after that, so that one of us sees the other.
    if not (_image_holds(record) and _mount_holds(record, question) and os.path.lexists(path)):
        return None
    return record


def leave(  # noqa: PLR0913 - each is one line of the record
    path: str,
    image: StagedImage,
    *,
    store: str,
    until: int,
    mount: tuple[str, str] | None,
    leases: str,
    runtime: str = "",
) -> None:
    """Leave a record at `path` for the other tasks; `mount` is (mountpoint, directory of its leases).

    `runtime` is the setting, for exec only. Leaves nothing where the answer could not be believed. Raises OSError.
    """
    scope, name = path.split("/")[-2:]
    meant = _meant(runtime) if name.startswith("exec,") else ""
    _make_scope(os.path.dirname(path))
    if meant is None or not _is_safe(path) or not _is_settled(image):
        return
    root, users = mount or ("", "")
    device = os.lstat(root).st_dev if root else ""
    file = f"{image.inode} {image.size} {image.mtime_ns} {device}"
    record = Record(f"{scope}/{name}", store, boot_id(), str(until), image.path, root, meant, file)
    if record.leases != ([leases, users] if root else [leases]) or "\n" in f"{store}{image.path}{root}":
        return
    aside = write_aside(path, record.text(), 0o600)
    os.utime(aside, ns=(image.mtime_ns, image.mtime_ns))
    os.replace(aside, path)


def _make_scope(folder: str) -> None:
    # For us alone: the names are references, and a signed URL is a secret.
    if not os.path.isdir(folder):
        make_folders(os.path.dirname(folder))
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            return


def forget(layout: Layout, word: str) -> None:
    """Remove all warm records that mention `word`, a digest or a mountpoint, before it goes away."""
    for scope in names(f"{layout.root}/warm"):
        folder = f"{layout.root}/warm/{scope}"
        for name in names(folder):
            record = _read(f"{folder}/{name}")
            if record is not None and word in (f"sha256:{record.hex}", record.root):
                discard(f"{folder}/{name}")


def _read(path: str) -> Record | None:
    """Return a record that is whole: all keys in their order, and every line ended."""
    text = read_text(path) or ""
    pairs = [line.partition(" ") for line in text.split("\n")]
    if [key for key, _, _ in pairs] != [*Record.__slots__, ""] or "\0" in text:
        return None
    record = Record(*(value for key, _, value in pairs if key))
    return record if "/images/sha256/" in record.path else None


def _is_safe(path: str) -> bool:
    """Whether nobody else can put a record at `path`: store, `warm` and scope are ours alone."""
    scope = os.path.dirname(path)
    warm = os.path.dirname(scope)
    return _is_ours(os.path.dirname(warm)) and _is_ours(warm) and _is_ours(scope)


def _is_ours(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022 and status.st_mode & 0o170000 == 0o040000


def _is_settled(image: StagedImage) -> bool:
    from time import time_ns

    return time_ns() - image.mtime_ns >= SETTLED_SECONDS * 10**9


def _is_current(record: Record, path: str, place: Place) -> bool:
    if record.answer != "/".join(path.split("/")[-2:]):
        return False
    if record.store != place.store or record.boot != boot_id():
        return False
    until = record.until
    if until == "0":
        return True
    from time import CLOCK_BOOTTIME, clock_gettime

    return until.isascii() and until.isdecimal() and len(until) <= 15 and clock_gettime(CLOCK_BOOTTIME) < int(until)


def _is_as_pinned(record: Record, question: Question) -> bool:
    if question.text.startswith(("docker://", "oras://")):
        return True  # it names the manifest of which the file was made, and is part of the record's name
    return "@sha256:" not in question.text or question.text.rpartition("@")[2] == f"sha256:{record.hex}"


def _means_the_same(record: Record, question: Question) -> bool:
    return question.verb != "exec" or _meant(record.runtime.partition(":")[0]) == record.runtime


def _meant(runtime: str) -> str | None:
    """Return `setting:runtime`, the latter empty for the host; None if the setting's runtime is not there."""
    if runtime == "auto":
        return f"auto:{next((name for name in RUNTIMES if _is_on_path(name)), '')}"
    if runtime in RUNTIMES and _is_on_path(runtime):
        return f"{runtime}:{runtime}"
    return "none:" if runtime == "none" else None


def _is_on_path(name: str) -> bool:
    found = (f"{folder or '.'}/{name}" for folder in os.environ.get("PATH", os.defpath).split(":"))
    return any(os.path.isfile(path) and os.access(path, os.X_OK) for path in found)


def _leased(record: Record, mine: Lease) -> bool:
    try:
        for folder in record.leases:
            lease.acquire(folder, mine)
    except OSError:
        return False
    return True


def _image_holds(record: Record) -> bool:
    """Whether the image is the recorded one, and whoever would evict it has not begun to: its sidecar goes first."""
    try:
        os.lstat(f"{os.path.dirname(record.path)}/image.json")
        status = os.lstat(record.path)
    except OSError:
        return False
    seen = [str(status.st_ino), str(status.st_size), str(status.st_mtime_ns)]
    regular = status.st_mode & 0o170000 == 0o100000 and is_trusted(status)
    return regular and seen == record.file.split(" ")[:3]


def _mount_holds(record: Record, question: Question) -> bool:
    """Whether the mount is the recorded one, and whoever would unmount it has not begun to: `ready` goes first."""
    root = record.root
    if not root:
        return question.verb != "mount"
    try:
        status = os.lstat(root)
        os.statvfs(root)  # a dead FUSE server's mountpoint can still be stat'ed: the kernel remembers it
    except OSError:
        return False
    same = status.st_mode & 0o170000 == 0o040000 and str(status.st_dev) == record.file.split(" ")[-1]
    ready = f"{os.path.dirname(root)}/ready"
    return same and os.path.isfile(ready) and not os.path.lexists(f"{root}/{UNMOUNTED}")


__all__ = ["Place", "Question", "Record", "answer", "base", "forget", "is_plain", "leave", "parse"]
