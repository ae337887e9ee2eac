"""The copies in flight of one image: whose they are, and how to go on where somebody stopped."""

from __future__ import annotations

import os

from stager.interfaces import Validators
from stager.process import ProcessIdentity, boot_id
from stager.store import files, segments
from stager.store.partial import Partial, description
from stager.store.segments import UNKNOWN_END


def own_folder(root: str) -> str:
    """Return a fresh directory name below `root` that tells whose it is."""
    return f"{root}/{files.unique()}"


def adopt(root: str) -> Partial | None:
    """Take over the fullest copy below `root` whose owner is dead, or return None. Renaming decides between takers."""
    orphans = sorted((folder for folder in folders(root) if owner(folder) is None), key=_weight, reverse=True)
    for orphan in orphans:
        mine = own_folder(root)
        try:
            os.rename(orphan, mine)
            return Partial(mine)
        except OSError:
            continue
    return None


def folders(root: str) -> list[str]:
    """Return the directories of all copies below `root`."""
    return [folder for folder in (f"{root}/{name}" for name in files.names(root)) if files.is_folder(folder)]


def owner(folder: str) -> ProcessIdentity | None:
    """Return the living process that fills a copy, or None."""
    identity = ProcessIdentity.parse(os.path.basename(folder).rpartition(".")[0])
    return identity if identity is not None and identity.alive else None


def _weight(folder: str) -> int:
    state = files.read_record(f"{folder}/state") or {}
    name = "progress" if state.get("boot") == boot_id() else "durable"
    return sum(s.position - s.start for s in segments.read(f"{folder}/{name}", UNKNOWN_END, UNKNOWN_END))


def borrow(root: str, into: Partial) -> int:
    """Copy the gapless beginning of the fullest copy below `root` that a living process fills; return its bytes.

    For the successor of a leader that lives but no longer moves: its files cannot be taken, what is in them can.
    """
    busy = [folder for folder in folders(root) if folder != into.folder and owner(folder) is not None]
    for folder in sorted(busy, key=_weight, reverse=True):
        try:
            return _borrow_from(folder, into)
        except (OSError, ValueError):
            into.begin(Validators(), None, "", private=False)
    return 0


def _borrow_from(folder: str, into: Partial) -> int:
    state = files.read_record(f"{folder}/state")
    with open(f"{folder}/data", "rb", opener=segments.open_regular) as data:
        if state is None or state.get("boot") != boot_id():
            raise ValueError("nothing is known of the copy")
        origin, private, version = description(state)
        held = os.fstat(data.fileno()).st_size
        account = segments.read(f"{folder}/progress", held, UNKNOWN_END if version.size is None else version.size)
        if not account or state != files.read_record(f"{folder}/state"):
            raise ValueError("nothing is accounted for, or the copy has been begun anew meanwhile")
        into.begin(version, version.size, origin, private=private)
        for block in segments.blocks(data.fileno(), 0, min(s.position for s in account if s.start == 0)):
            into.write(into.segments[0], block)
    return into.position
