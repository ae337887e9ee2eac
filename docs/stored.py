"""The page of the store's layout: drawn in the docstrings of the modules that write there."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from stager import layout, lease, mount, warm
from stager.store import partial

if TYPE_CHECKING:
    from types import ModuleType

PARTS = (
    ("Leases", lease),
    ("Bytes in flight", partial),
    ("Mounts", mount),
    ("Warm answers", warm),
)
"""Heading → the module whose docstring is its text."""


def page(notice: str) -> str:
    """Return docs/reference/store-layout.md."""
    sections = [f"## {heading}\n\n{_prose(module)}" for heading, module in PARTS]
    drawing = "\n\n".join(_blocks(layout)[1:])
    return "\n\n".join((notice, HEAD.strip(), drawing, RECORDS.strip(), *sections, SAFE.strip())) + "\n"


HEAD = f"""
# Layout of a store

A store is one directory on a node's local disk. Where it is, `stage-image config show` and `stage-image doctor` say;
unless set, it is `/var/tmp/stage-image-<uid>`. This is version {layout.VERSION} of the layout, the number in the file
`VERSION`: a store of any other version is refused and left as it is. `CACHEDIR.TAG` tells backup programs to skip the
directory.
"""

RECORDS = """
`<key>` is the sha256 of a reference in its canonical form, pin included; `<hex>` the sha256 of an image, its digest;
`<scope>` a job or login session ([glossary](glossary.md)); `<kind>` how an image is mounted. Names that begin with a
dot are being written.

Records are lines of a key, a blank and a value, at most 1 MiB, written aside and renamed. One that belongs to neither
the reader nor root, that others may write, or that is a symbolic link, counts as absent. `image.json` is JSON: digest,
origin, `fetched` (seconds since 1970), inode and mtime of the verified file, whether it is `private`, and in `info`
format, size, compression, architecture, partitions and, of a container image, its configuration (without labels where
it has more than 256 KiB, and none if it has more still).

| what | owner | mode |
|------|-------|------|
| a user's store | the user | 0700 |
| root's store, which all users may read | root | 0755, and the way there is root's |
| `partial`, `locks`, `pins`, `warm`, `failures`, `quarantine` | as the store | 0700 |
| `blobs` and all below it | as the store | 0700, files 0600 |
| an image | as the store | 0444; 0400 if credentials were needed, or other users may not read the origin's file |
| in root's store, `leases/<hex>` and `users` | root | 1777: everybody may add a lease, nobody remove another's |
"""

SAFE = """
`base` is the store of the caller if the caller owns it, else the caller's default store.

## What may be removed by hand

Better nothing: `stage-image prune`, `remove` and `umount` look at leases and mounts first. While nothing runs,
everything but `images/`, `mounts/` and `locks/` may be removed at the price of some requests to origins. Without its
pin, a running job may meet a second version of an image. A lock file that is removed and made again is another lock,
so that two processes may download at once; nothing worse. Below `mounts/`, unmount first.
"""


def _prose(module: ModuleType) -> str:
    """Return a module's docstring, without the name that its heading says already."""
    first, *rest = _blocks(module)
    name, colon, sentence = first.partition(": ")
    if colon and any(name == heading for heading, _ in PARTS):
        first = sentence[:1].upper() + sentence[1:]
    return "\n\n".join((first, *rest))


def _blocks(module: ModuleType) -> list[str]:
    """Return the paragraphs of a docstring; trees and tables as literal text."""
    text = inspect.cleandoc(module.__doc__ or "").replace("UNMOUNTED", layout.UNMOUNTED)
    return [f"```text\n{part}\n```" if _is_drawn(part) else part for part in text.split("\n\n")]


def _is_drawn(paragraph: str) -> bool:
    return "──" in paragraph or "\n    " in paragraph
