"""What layers mean together: one tree, from the lowest layer up. OCI layer.md, as `umoci unpack` 0.4.7 reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.errors import DamagedImage, ImageRefused
from stager.layers.entry import DIRECTORY, HARD, PATH_MAX, SYMLINK, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.layers.entry import Content, Entry

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"

SYMLINKS_MAX = 255
"""Links followed for one name: more are a circle (securejoin, which umoci uses; the kernel stops at 40)."""


class Node:
    """An inode: of several names, if it is in several directories. `children` of a directory, by name.

    `touched` has the names that the layer being applied has made or gone through: its whiteouts do not mean them.
    """

    __slots__ = (
        *("children", "content", "device", "gid", "kind", "layer", "link", "mode", "mtime", "touched", "uid", "xattrs"),
        "touched_by",
    )

    def __init__(self, kind: bytes, mode: int) -> None:
        self.kind = kind
        self.mode = mode
        self.uid = self.gid = self.mtime = 0
        self.link = b""
        self.device = (0, 0)
        self.xattrs: Mapping[bytes, bytes] | None = None
        self.content: Content | None = None
        self.layer = 0
        self.children: dict[bytes, Node] = {}
        self.touched: set[bytes] = set()
        self.touched_by = -1

    def upper(self, layer: int) -> set[bytes]:
        """Return the names that `layer` has touched."""
        if self.touched_by != layer:
            self.touched_by = layer
            self.touched = set()
        return self.touched


def implicit() -> Node:
    """Return a directory that no layer describes: root's, of the epoch, for all to read."""
    return Node(DIRECTORY, 0o755)


class Tree:
    """The file system that comes of layers."""

    def __init__(self) -> None:
        self.root = implicit()

    def apply(self, entry: Entry, layer: int) -> None:
        """Do what a member of a layer says. Raises DamagedImage, ImageRefused."""
        parent, _, base = entry.path.rpartition(b"/")
        if not base:
            self._change_root(entry, layer)
            return
        parts = self.resolve(parent)
        if base.startswith(WHITEOUT):
            self._remove(parts, base, layer)
            return
        if sum(map(len, parts)) + len(parts) + len(base) >= PATH_MAX:
            raise ImageRefused("by its links, it has a longer name than Linux takes")
        directory = self._directory(parts, layer)
        directory.upper(layer).add(base)
        old = directory.children.get(base)
        if entry.kind == DIRECTORY and old is not None and old.kind == DIRECTORY:
            _describe(old, entry, layer)
            return
        directory.children.pop(base, None)  # first: a link to something in what it replaces leads nowhere
        directory.children[base] = self._linked(entry) if entry.kind == HARD else _described(entry, layer)

    def _change_root(self, entry: Entry, layer: int) -> None:
        if entry.kind != DIRECTORY:
            raise ImageRefused("it would be in the place of the root")
        _describe(self.root, entry, layer)

    def resolve(self, path: bytes) -> list[bytes]:
        """Follow the symbolic links in a path, none of which leads out of the root. Raises ImageRefused."""
        waiting = path.split(b"/")[::-1]
        parts: list[bytes] = []
        nodes = [self.root]
        links = 0
        while waiting:
            part = waiting.pop()
            if part in {b"", b"."}:
                continue
            if part == b"..":
                del parts[-1:], nodes[len(parts) + 1 :]
                continue
            node = nodes[-1].children.get(part) if len(nodes) == len(parts) + 1 else None
            if node is None or node.kind != SYMLINK:
                parts.append(part)
                nodes += [node] if node else []
                continue
            links += 1
            if links > SYMLINKS_MAX:
                raise ImageRefused("the links in its name lead in a circle")
            if node.link.startswith(b"/"):
                parts, nodes = [], [self.root]
            waiting += node.link.split(b"/")[::-1]
        return parts

    def find(self, parts: list[bytes]) -> Node | None:
        """Return what is at a path that has been resolved."""
        node: Node | None = self.root
        for part in parts:
            node = node.children.get(part) if node else None
        return node

    def _directory(self, parts: list[bytes], layer: int) -> Node:
        """Return the directory of this path, made where it is not there. Raises DamagedImage."""
        node = self.root
        for part in parts:
            node.upper(layer).add(part)
            below = node.children.get(part)
            if below is None:
                below = node.children[part] = implicit()
            elif below.kind != DIRECTORY:
                raise DamagedImage(f"{quoted(part)} in its name is no directory")
            node = below
        return node

    def _linked(self, entry: Entry) -> Node:
        """Return what a hard link links to; the last part of its path may be a symbolic link itself."""
        path = _clean(entry.link)
        target = self.resolve(b"/".join(path[:-1])) + path[-1:]
        node = self.find(target)
        if node is None:
            raise DamagedImage(f"it is a link to {quoted(entry.link)}, which is not there")
        if node.kind == DIRECTORY:
            raise ImageRefused(f"it is a hard link to {quoted(entry.link)}, a directory")
        return node

    def _remove(self, parts: list[bytes], base: bytes, layer: int) -> None:
        """Do what a whiteout says: below, nothing that its own layer has touched."""
        directory = self.find(parts)
        if base != OPAQUE:
            name = base.removeprefix(WHITEOUT)
            if name in {b"", b".", b".."}:
                raise ImageRefused("it would remove what is not its own directory's")
            if directory is not None and name in directory.children:
                _prune(directory, [name], layer)
        elif directory is not None:
            _prune(directory, list(directory.children), layer)


def _prune(directory: Node, names: list[bytes], layer: int) -> None:
    waiting = [(directory, names)]
    while waiting:
        parent, doomed = waiting.pop()
        touched = parent.upper(layer)
        for name in doomed:
            if name not in touched:
                del parent.children[name]
            elif parent.children[name].kind == DIRECTORY:
                below = parent.children[name]
                waiting.append((below, list(below.children)))


def _clean(path: bytes) -> list[bytes]:
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in {b"", b"."}:
            parts.append(part)
    return parts


def _described(entry: Entry, layer: int) -> Node:
    node = Node(entry.kind, entry.mode)
    _describe(node, entry, layer)
    if entry.kind == SYMLINK and not entry.link:
        raise DamagedImage("it is a symbolic link to nothing")
    node.link = entry.link
    node.device = entry.device
    node.content = entry.content
    return node


def _describe(node: Node, entry: Entry, layer: int) -> None:
    node.mode = entry.mode
    node.uid = entry.uid
    node.gid = entry.gid
    node.mtime = entry.mtime
    node.xattrs = entry.xattrs
    node.layer = layer
