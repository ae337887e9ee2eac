"""What a scheduler is told of a store's images: a small file, which staging and eviction keep up to date.

`<store>/report` has a line for each name of each image, the image used last first:

    tool.sif@0123456789ab 0123456789ab…      the item, a blank, the digest's 64 digits

What is made of a registry's image has an item with the manifest's digest as well: who submits a job knows no other.

It is there only where a load sensor, or whoever pushes, has made it, so that others pay for nothing but a look. Writers
change it under `locks/report.lock`, each after what it did to the store: then the file has all of it, whoever comes
last. Readers take no lock. A writer that dies in between leaves a file that is wrong until the next `rebuild`, for
which the sensor cares; and whoever reads it looks whether the images are there.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress

from stager.store import files, images

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.layout import Layout
    from stager.reference import Digest

DIGITS = 12
"""Of a digest, in an item: as in the names of node features."""

NAME_MAX = 120
"""Characters of a name in an item: with the digits, seven of the longest fit into one value of 900 bytes."""

ITEMS_MAX = 1000
"""Lines of the file: more than all values of a sensor can hold, eight of 900 bytes with items of 15 or more."""

LOCK_SECONDS = 5.0
"""A staging waits no longer for the report: the next rebuild has what it would have written."""

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:+-")
_HEX = frozenset("0123456789abcdef")
_REGISTRIES = ("docker://", "oras://")


def item_name(shown: str) -> str:
    """Return what an image is called in an item: the last component of its reference, `_` for all but plain letters.

    `shown` is a reference as people see it, with or without its pin. What matches in Grid Engine's requests, or ends
    an item, is not plain: `, [ ] * ? ! & | ( ) = ; @`, blanks, and all that is not ASCII.
    """
    location = shown.rpartition("@sha256:")[0] or shown
    name = location.rstrip("/").rpartition("/")[2]
    return "".join(letter if letter in _PLAIN else "_" for letter in name[:NAME_MAX]) or "image"


def item(shown: str, digits: str) -> str:
    """Return the item of an image: what it is called, and the beginning of its digest."""
    return f"{item_name(shown)}@{digits[:DIGITS]}"


def manifest_in(shown: str) -> str:
    """Return the 64 digits of the manifest or index that a reference to a registry names; empty if it names none."""
    digits = shown.rpartition("@sha256:")[2]
    return digits if shown.startswith(_REGISTRIES) and _is_digits(digits) else ""


def manifests(layout: Layout) -> dict[str, set[str]]:
    """Return image → the manifests and indexes that named it, 64 digits each: by references, or by what tags meant."""
    found: dict[str, set[str]] = {}
    for digits, record in _meanings(layout):
        etag = record.get("etag", "").removeprefix("sha256:")
        told = {manifest_in(record["reference"])}
        told |= {etag} if record["reference"].startswith(_REGISTRIES) and _is_digits(etag) else set()
        found.setdefault(digits, set()).update(told - {"", digits})
    return found


def read(layout: Layout) -> list[tuple[str, str]]:
    """Return the items with their digests, the last used first, of images that are there; empty without a report."""
    there: dict[str, bool] = {}
    found = []
    for name, digits in _lines(layout):
        if digits not in there:
            there[digits] = os.path.lexists(f"{layout.images}/{digits[:2]}/{digits}/image.json")
        if there[digits]:
            found.append((name, digits))
    return found


def note(layout: Layout, digest: Digest, shown: str) -> None:
    """Have the report tell of an image that `shown` means now; nothing without a report. Never raises."""
    if not os.path.lexists(layout.report) or (item(shown, digest.hex), digest.hex) in _lines(layout):
        return
    if _is_told(layout, digest):
        rebuild(layout)


def drop(layout: Layout, digest: Digest) -> None:
    """Take an image that is gone out of the report, if there is one. Never raises."""
    if not os.path.lexists(layout.report):
        return
    with suppress(OSError), locked(layout.lock("report")) as is_ours:
        lines = _lines(layout) if is_ours else []
        kept = [line for line in lines if line[1] != digest.hex]
        if len(kept) < len(lines) and not os.path.lexists(layout.sidecar(digest)):
            _write(layout, kept)


def rebuild(layout: Layout, *, create: bool = False) -> bool:
    """Write the report anew, where there is one or `create` is set; whether it is right now. Never raises."""
    if not create and not os.path.lexists(layout.report):
        return False
    try:
        with locked(layout.lock("report")) as is_ours:
            if is_ours:
                lines = list(_survey(layout))
                if lines != _lines(layout) or not os.path.lexists(layout.report):
                    _write(layout, lines)
            return is_ours
    except OSError:
        return False


@contextmanager
def locked(path: str, seconds: float | None = None) -> Iterator[bool]:
    """Hold a lock file for the time of the context; tell whether it could be had in time (default: LOCK_SECONDS)."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield _is_locked(fd, time.monotonic() + (LOCK_SECONDS if seconds is None else seconds))
    finally:
        os.close(fd)


def _is_locked(fd: int, give_up: float) -> bool:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                return False
            time.sleep(0.01)
        else:
            return True


def _survey(layout: Layout) -> Iterator[tuple[str, str]]:
    """Yield what the store's images are called: by the references that mean them, or else by where they came from."""
    told = [digest for digest in images.digests(layout) if _is_told(layout, digest)]
    told.sort(key=lambda digest: images.last_used(layout, digest), reverse=True)
    names: dict[str, set[str]] = {digest.hex: set() for digest in told[:ITEMS_MAX]}
    made_of = manifests(layout)
    for digits, record in _meanings(layout):
        if digits in names:
            shown = record["reference"]
            more = made_of.get(digits, ()) if shown.startswith(_REGISTRIES) else ()
            names[digits].update(item(shown, each) for each in (digits, *more))
    count = 0
    for digest in told[:ITEMS_MAX]:
        for name in sorted(names[digest.hex]) or [_by_origin(layout, digest)]:
            if count < ITEMS_MAX:
                yield name, digest.hex
            count += 1


def _meanings(layout: Layout) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield what references meant when last seen: 64 digits of an image, and the record, which has a `reference`."""
    for key in files.names(f"{layout.root}/refs"):
        record = files.read_record(layout.reference_record(key)) or {}
        if record.get("reference"):
            yield record.get("digest", "").removeprefix("sha256:"), record


def _by_origin(layout: Layout, digest: Digest) -> str:
    image = images.read_sidecar(layout, digest)
    return item(image.origin if image else "", digest.hex)


def _is_told(layout: Layout, digest: Digest) -> bool:
    # A private image, whose origin wanted credentials, has a sidecar that only its owner may read.
    try:
        return bool(os.lstat(layout.sidecar(digest)).st_mode & 0o044)
    except OSError:
        return False


def _lines(layout: Layout) -> list[tuple[str, str]]:
    lines = (files.read_text(layout.report) or "").split("\n")[:ITEMS_MAX]
    return [(name, digits) for name, _, digits in (line.partition(" ") for line in lines) if _is_sound(name, digits)]


def _is_sound(entry: str, digits: str) -> bool:
    name, _, beginning = entry.partition("@")
    if not _is_digits(digits) or len(beginning) != DIGITS or not _HEX.issuperset(beginning):
        return False
    return 0 < len(name) <= NAME_MAX and _PLAIN.issuperset(name)


def _is_digits(text: str) -> bool:
    return len(text) == 64 and _HEX.issuperset(text)


def _write(layout: Layout, lines: list[tuple[str, str]]) -> None:
    text = "".join(f"{name} {digits}\n" for name, digits in lines)
    aside = files.write_aside(layout.report, text, 0o644)
    os.chmod(aside, 0o644)  # whatever the umask of who stages
    os.replace(aside, layout.report)
