"""The warm path: a complete answer that one task of a job left for the others, checked and given without much ado.

A warm record holds the answer to one command line (verb, reference as typed, mount and runtime as typed) within one
scope. It is an optimisation of the same answer the long way: whatever is not exactly as recorded goes that way.
`sbatch-wrapper/stage-image` reads the same records with a shell's builtins; the two must agree.

base/warm/<scope>/<name>, lines `key value` in this order, the record's own mtime being the image's:
    answer    <scope>/<name>, so that a record moved elsewhere answers nothing
    store     $STAGE_IMAGE_STORE of the caller, may be empty
    boot      the boot it was written in
    until     seconds since boot after which it is void; 0: as long as the job
    digest, path    of the image; a hard link `twin` lies beside it
    root      the mountpoint, empty if not mounted
    leases    where a user of the image leaves a lease;  users: the same for the mount, empty if not mounted
    runtime   for exec: auto, apptainer, singularity or none;  inside: the runtime that this was found to mean, or empty
    inode, size, mtime    of the image;  device: st_dev of what is mounted. A shell cannot see them: it compares the
              image with its twin and its mtime with the record's, and looks whether the mountpoint is bare
"""

from __future__ import annotations

import os

from stager import lease
from stager.jobenv import from_environ
from stager.layout import UNMOUNTED, Layout, warm_name
from stager.lease import Lease
from stager.process import boot_id, current, session_leader
from stager.store.files import discard, is_trusted, make_folders, read_text, write_aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.store.images import StagedImage

SESSION_SECONDS = 60
"""For which an answer outside of any job holds; the same as memory.SESSION_PIN, which is not imported here."""

SETTLED_SECONDS = 2
"""An image's mtime is this old before it is answered for: no later write can leave the same one, neither within a tick
of the kernel's clock (up to 10 ms) nor to a shell whose -nt compares whole seconds (busybox)."""

HARMLESS = ("STAGE_IMAGE_PATH", "STAGE_IMAGE_ROOT", "STAGE_IMAGE_DIGEST", "STAGE_IMAGE_STORE", "STAGE_IMAGE_PYTHON")
"""Variables which do not change what the answer is; with any other STAGE_IMAGE_* the long way is taken."""

RUNTIMES = ("apptainer", "singularity")

KEYS = (
    *("answer", "store", "boot", "until", "digest", "path", "root", "leases", "users", "runtime", "inside"),
    *("inode", "size", "mtime", "device"),
)


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
    default = f"/var/tmp/stage-image-{os.geteuid()}"  # noqa: S108: ownership is checked before anything is believed
    store = environ.get("STAGE_IMAGE_STORE", "") or default
    return store if _is_ours(store) else default


def answer(question: Question, place: Place) -> dict[str, str] | None:
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
    # Looked at after the lease was written, and the record once more: who evicts or unmounts removes the record
    # first and looks for leases after that, so that one of us sees the other.
    if not (_image_holds(record) and _mount_holds(record, question) and os.path.lexists(path)):
        return None
    return record


def command(record: Mapping[str, str], question: Question) -> list[str]:
    """Return the command that `exec` becomes."""
    inside = record["inside"]
    return [inside, "exec", record["path"], *question.command] if inside else question.command


def environment(record: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` as a command that runs on the image gets it, on the host or inside of a container."""
    about = {"STAGE_IMAGE_PATH": record["path"], "STAGE_IMAGE_DIGEST": record["digest"]}
    rest = {name: value for name, value in environ.items() if name != "STAGE_IMAGE_ROOT"}
    rest |= about | ({"STAGE_IMAGE_ROOT": record["root"]} if record["root"] else {})
    if record["inside"]:
        prefix = f"{record['inside'].upper()}ENV_"
        rest |= {f"{prefix}{name}": value for name, value in about.items()} | {f"{prefix}STAGE_IMAGE_ROOT": "/"}
    return rest


def meaning(runtime: str) -> str | None:
    """Return the container runtime that a setting means here and now, empty for the host; None if it is not there."""
    if runtime == "auto":
        return next((name for name in RUNTIMES if _is_on_path(name)), "")
    if runtime in RUNTIMES:
        return runtime if _is_on_path(runtime) else None
    return "" if runtime == "none" else None


def leave(
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
    inside = meaning(runtime) if name.startswith("exec,") else ""
    make_folders(os.path.dirname(path))
    if inside is None or not _is_safe(path) or not _is_settled(image):
        return
    root, users = mount or ("", "")
    values = (
        *(f"{scope}/{name}", store, boot_id(), str(until), str(image.digest), image.path, root, leases, users),
        *(runtime if name.startswith("exec,") else "", inside),
        *(str(image.inode), str(image.size), str(image.mtime_ns), str(os.lstat(root).st_dev) if root else ""),
    )
    if any("\n" in value for value in values):
        return
    text = "".join(f"{key} {value}\n" for key, value in zip(KEYS, values, strict=True))
    aside = write_aside(path, text, 0o600)
    os.utime(aside, ns=(image.mtime_ns, image.mtime_ns))
    os.replace(aside, path)


def forget(layout: Layout, word: str) -> None:
    """Remove all warm records that mention `word`, a digest or a mountpoint, before it goes away."""
    for scope in _listed(f"{layout.root}/warm"):
        folder = f"{layout.root}/warm/{scope}"
        for name in _listed(folder):
            record = _read(f"{folder}/{name}")
            if record is None or word in record.values():
                discard(f"{folder}/{name}")


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _read(path: str) -> dict[str, str] | None:
    """Return a record that is whole: all keys in their order, and every line ended."""
    pairs = [line.partition(" ") for line in (read_text(path) or "").split("\n")]
    if [key for key, _, _ in pairs] != [*KEYS, ""]:
        return None
    return {key: value for key, _, value in pairs if key}


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


def _is_current(record: Mapping[str, str], path: str, place: Place) -> bool:
    if record["answer"] != "/".join(path.split("/")[-2:]):
        return False
    if record["store"] != place.store or record["boot"] != boot_id():
        return False
    until = record["until"]
    if until == "0":
        return True
    from time import CLOCK_BOOTTIME, clock_gettime

    return until.isascii() and until.isdecimal() and len(until) <= 15 and clock_gettime(CLOCK_BOOTTIME) < int(until)


def _is_as_pinned(record: Mapping[str, str], question: Question) -> bool:
    return "@sha256:" not in question.text or question.text.rpartition("@")[2] == record["digest"]


def _means_the_same(record: Mapping[str, str], question: Question) -> bool:
    return question.verb != "exec" or meaning(record["runtime"]) == record["inside"]


def _is_on_path(name: str) -> bool:
    found = (f"{folder or '.'}/{name}" for folder in os.environ.get("PATH", os.defpath).split(":"))
    return any(os.path.isfile(path) and os.access(path, os.X_OK) for path in found)


def _leased(record: Mapping[str, str], mine: Lease) -> bool:
    try:
        for folder in (record["leases"], record["users"]):
            if folder:
                lease.acquire(folder, mine)
    except OSError:
        return False
    return True


def _image_holds(record: Mapping[str, str]) -> bool:
    try:
        status = os.lstat(record["path"])
    except OSError:
        return False
    seen = (str(status.st_ino), str(status.st_size), str(status.st_mtime_ns))
    regular = status.st_mode & 0o170000 == 0o100000 and is_trusted(status)
    return regular and seen == (record["inode"], record["size"], record["mtime"])


def _mount_holds(record: Mapping[str, str], question: Question) -> bool:
    """Whether the mount is the recorded one, and whoever would unmount it has not begun to: `ready` goes first."""
    root = record["root"]
    if not root:
        return question.verb != "mount"
    try:
        same = str(os.lstat(root).st_dev) == record["device"]
    except OSError:
        return False
    ready = f"{os.path.dirname(root)}/ready"
    return same and os.path.isfile(ready) and not os.path.lexists(f"{root}/{UNMOUNTED}")
