"""Opening a store: make it, or see that it can be trusted."""

from __future__ import annotations

import errno
import os
import stat

from stager.errors import NoSpace, StoreUnusable
from stager.layout import VERSION, Layout
from stager.store.files import discard, make_folders, read_text, write_text

CACHEDIR_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Images staged by stage-image: backups may skip them.\n"
"""Cache Directory Tagging Specification, https://bford.info/cachedir/: backup programs skip the directory."""


OWN = ("partial", "locks", "pins", "warm", "failures", "quarantine")
"""Folders of root's store that are nobody else's business; the others are there for every user to read."""

SHARED_MODE = 0o1777
"""Of the directories of leases in root's store: anybody may add, only the owner (and root) may take away."""


def default_root(environ: dict[str, str] | os._Environ[str], uid: int) -> str:
    """Return where a user's store is if nobody says otherwise: $STAGE_IMAGE_STORE, else on /var/tmp.

    /var/tmp is local on compute nodes and, unlike /tmp, outlives reboots and is rarely made private to a job; the
    home directory is usually on a network file system.
    """
    return environ.get("STAGE_IMAGE_STORE") or f"/var/tmp/stage-image-{uid}"  # noqa: S108 - checked before it is used


def open_store(root: str) -> Layout:
    """Return the layout of the store at `root`, made when missing. Idempotent, and safe beside others doing the same.

    Raises NoSpace, and StoreUnusable when it is foreign, writable by others, read-only while incomplete, or of a newer
    version.
    """
    if not root.startswith("/") or any(ord(c) < 32 for c in root):
        raise StoreUnusable(f"the store {root!r} is not an absolute path")
    layout = Layout(root.rstrip("/") or "/")
    try:
        if not os.path.lexists(f"{layout.root}/VERSION"):
            _make(layout)
        check(layout)
    except OSError as error:
        kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreUnusable
        raise kind(f"the store {root} cannot be made: {error.strerror or error}") from error
    return layout


def check(layout: Layout) -> None:
    """Raise StoreUnusable unless the store belongs to us, is closed to others' writing, and of a version we know.

    Folders that are missing are made, once all else is found to be right.
    """
    if os.geteuid() == 0:
        _check_way_to(layout.root)
    _check_folder(layout.root, os.geteuid())
    version = (read_text(f"{layout.root}/VERSION") or "").strip()
    if version != str(VERSION):
        shown = version[:20] or "none"
        raise StoreUnusable(f"the store {layout.root} has version {shown!r}, this program knows {VERSION}")
    for path in layout.folders:
        _make_folder(path)
        _check_folder(path, os.geteuid())


def _check_way_to(root: str) -> None:
    # Whoever may rename a directory on the way can put another store in its place between two looks of root's.
    for path in {*_ancestors(root), *_ancestors(os.path.realpath(root))}:
        status = os.lstat(path)
        closed = not status.st_mode & 0o022 or status.st_mode & stat.S_ISVTX or stat.S_ISLNK(status.st_mode)
        if status.st_uid != 0 or not closed:
            raise StoreUnusable(f"{path}, on the way to root's store {root}, can be changed by others than root")


def _ancestors(path: str) -> list[str]:
    parts = path.split("/")[1:-1]
    return ["/", *("/" + "/".join(parts[:end]) for end in range(1, len(parts) + 1))]


def is_shared_by_root(root: str) -> bool:
    """Whether a whole store of root's is there for us, who are not root, to take images from but not to write."""
    if os.geteuid() == 0 or not os.path.lexists(f"{root}/VERSION"):
        return False
    try:
        _check_folder(root, 0)
        _check_folder(f"{root}/images", 0)
        _check_folder(f"{root}/images/sha256", 0)
    except StoreUnusable:
        return False
    return True


def may_be_ours(root: str) -> bool:
    """Whether a directory is ours, or could be made by us."""
    if os.path.lexists(root):
        return os.lstat(root).st_uid == os.geteuid()
    parent = os.path.dirname(root)
    return os.access(parent, os.W_OK) if os.path.isdir(parent) else parent != root and may_be_ours(parent)


def open_to_leases(path: str) -> None:
    """Make a directory where every user of the node may leave a lease, if we are root; nobody can remove another's.

    Its parent is root's alone, and no link at its place is followed.
    """
    make_folders(path)
    if os.geteuid() != 0:
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, SHARED_MODE)
    finally:
        os.close(fd)


def _check_folder(path: str, owner: int) -> None:
    try:
        status = os.lstat(path)
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be read: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise StoreUnusable(f"{path} is not a directory (links are not followed inside a store)")
    if status.st_uid != owner:
        raise StoreUnusable(f"{path} belongs to uid {status.st_uid}, not to uid {owner}")
    if status.st_mode & 0o022:
        raise StoreUnusable(f"{path} can be written by others (mode {status.st_mode & 0o7777:04o})")


def _make(layout: Layout) -> None:
    make_folders(os.path.dirname(layout.root))
    _make_folder(layout.root)
    _check_folder(layout.root, os.geteuid())
    _refuse_foreign_content(layout)
    for folder in layout.folders:
        _make_folder(folder)
    write_text(f"{layout.root}/CACHEDIR.TAG", CACHEDIR_TAG)
    write_text(f"{layout.root}/VERSION", f"{VERSION}\n", durable=True)


def _make_folder(path: str) -> None:
    if os.path.lexists(path):
        return
    try:
        os.mkdir(path, 0o755 if os.geteuid() == 0 and os.path.basename(path) not in OWN else 0o700)
    except FileExistsError:
        return


def _refuse_foreign_content(layout: Layout) -> None:
    # A mistyped STAGE_IMAGE_STORE=/home/me must not litter a directory that holds somebody's data.
    known = {*(os.path.basename(folder) for folder in layout.folders), "CACHEDIR.TAG", "VERSION", "lost+found", "jobs"}
    known.add(os.path.basename(layout.blobs))
    foreign = [n for n in os.listdir(layout.root) if n not in known and not n.startswith((".VERSION.", ".CACHEDIR."))]
    if foreign:
        raise StoreUnusable(f"{layout.root} is not a store and not empty (it holds {foreign[0]!r})")


def is_writable(layout: Layout) -> bool:
    """Whether a file can be made in the store, found by making one: permission bits show no read-only mount."""
    probe = f"{layout.root}/locks/.probe.{os.getpid()}"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    discard(probe)
    return True
