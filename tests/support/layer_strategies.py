"""Layers at random: few names, so that they meet; every kind of member; and whether two file systems are the same."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tests.support import tar_entries as tars

if TYPE_CHECKING:
    from pathlib import Path

_NAMES = ("a", "b", "c")
_part = st.sampled_from(_NAMES)
_paths = st.lists(_part, min_size=1, max_size=3).map("/".join)
_ways = st.sampled_from(("{}", "{}", "{}", "./{}", "/{}", "../{}", "a/../{}", "b/./{}"))
paths = st.builds(lambda way, path: way.format(path), _ways, _paths)
"""Names as tars have them: most of them plain, some absolute or through a parent."""

_targets = st.sampled_from(("a", "b", "../c", "/a", "/b/c", "nowhere", "..", "../../../b", "."))
_metadata: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "uid": st.sampled_from((0, 1, 1000, 2_097_152, 4_294_967_294)),
        "gid": st.sampled_from((0, 5, 70_000)),
        "mtime": st.sampled_from((1, 1_600_000_000, 0xFFFF_FFF0)),
        "mode": st.sampled_from((0o644, 0o755, 0o4755, 0o2711, 0o1777, 0)),
    }
)
_attributes = st.sampled_from(({}, {}, {"user.a": b"1"}, {"user.b": b"\0=\n\xff", "trusted.c": b""}))
_described = st.builds(lambda of, xattrs: {**of, "xattrs": xattrs}, _metadata, _attributes)

members: st.SearchStrategy[tars.Entry] = st.one_of(
    st.builds(lambda p, of: tars.directory(p, **of), paths, _described),
    st.builds(lambda p, of: tars.directory(p, **of), _paths, _described),
    st.builds(lambda p, data, of: tars.file(p, data, **of), paths, st.binary(max_size=20), _described),
    st.builds(tars.symlink, paths, _targets),
    st.builds(tars.hardlink, paths, paths),
    st.builds(lambda p, of: tars.device(p, "c", 1, 300, **of), _paths, _metadata),
    st.builds(lambda p, of: tars.fifo(p, **of), _paths, _metadata),
    st.builds(tars.whiteout, paths),
    st.builds(tars.opaque, paths | st.just(".")),
    st.builds(lambda of: tars.directory(".", **of), _metadata),
)
layer_lists = st.lists(st.lists(members, max_size=8), min_size=1, max_size=4)


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    """Return everything that can be told of every file below `root`, by its name; hard links as the first of them."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    for folder, folders, files in os.walk(root):
        for name in ("", *folders, *files) if folder == str(root) else (*folders, *files):
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = _told(path)
    for path in sorted(found):
        status = os.lstat(root / path)
        link = first.setdefault(status.st_ino, path) if not stat.S_ISDIR(status.st_mode) else ""
        found[path] = (*found[path], link)
    return found


def _told(path: str) -> tuple[object, ...]:
    status = os.lstat(path)
    mode = status.st_mode
    content = ""
    if stat.S_ISREG(mode):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    elif stat.S_ISLNK(mode):
        content = os.readlink(path)
    names = sorted(os.listxattr(path, follow_symlinks=False))
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    time = 0 if stat.S_ISLNK(mode) else int(status.st_mtime)
    return oct(mode), status.st_uid, status.st_gid, time, status.st_rdev, content, xattrs


def same(ours: dict[str, tuple[object, ...]], theirs: dict[str, tuple[object, ...]], since: float) -> bool:
    """Compare two listings, but for what umoci makes of directories that no layer describes: they are of 1970 in ours.

    It gives them the time of day, from `since` on (seconds), and those in which it makes them, too; and they inherit
    the group of a set-gid directory.
    """
    return ours.keys() == theirs.keys() and all(_alike(mine, theirs[path], since) for path, mine in ours.items())


def _alike(mine: tuple[object, ...], other: tuple[object, ...], since: float) -> bool:
    of_day = isinstance(other[3], int) and since - 1 <= other[3] <= since + 86400
    if not (of_day and stat.S_ISDIR(int(str(mine[0]), 8)) and stat.S_ISDIR(int(str(other[0]), 8))):
        return mine == other
    return mine[3] == 0 or mine[:3] + mine[4:] == other[:3] + other[4:]
