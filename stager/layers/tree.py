"""What layers mean together: one tree, from the lowest layer up. OCI layer.md, as `umoci unpack` 0.4.7 reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.errors import DamagedImage, ImageRefused
from stager.layers.entry import DIRECTORY, HARD, PATH_MAX, SYMLINK, quoted
from stager.layers.options import Limits

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
    """The file system that comes of layers, held to `limits`: short layers can ask for great trees, and for long work.

    One name may stand for 2,000 directories, and a name of three letters, by its links, for half a million steps.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.root = implicit()
        self._limits = limits or Limits()
        self._nodes = self._names = self._steps = 0

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
        length = sum(map(len, parts)) + len(parts) + len(base)
        if length >= PATH_MAX:
            raise ImageRefused("by its links, it has a longer name than Linux takes")
        self._grow(length)
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
        self._work(len(waiting))
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
            target = node.link.split(b"/")[::-1]
            self._work(len(target))
            waiting += target
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
        self._work(len(parts))
        length = 0
        for part in parts:
            node.upper(layer).add(part)
            below = node.children.get(part)
            length += len(part) + 1
            if below is None:
                self._grow(length)
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
                self._prune(directory, [name], layer)
        elif directory is not None:
            self._prune(directory, list(directory.children), layer)

    def _prune(self, directory: Node, names: list[bytes], layer: int) -> None:
        waiting = [(directory, names)]
        while waiting:
            parent, doomed = waiting.pop()
            self._work(len(doomed))
            touched = parent.upper(layer)
            for name in doomed:
                if name not in touched:
                    del parent.children[name]
                elif parent.children[name].kind == DIRECTORY:
                    below = parent.children[name]
                    waiting.append((below, list(below.children)))

    def _grow(self, length: int) -> None:
        """Count a name whose path has so many bytes. Raises ImageRefused."""
        self._nodes += 1
        self._names += length
        if self._nodes > self._limits.entries:
            raise ImageRefused(f"the image would have more than {self._limits.entries} files and directories")
        if self._names > self._limits.names:
            raise ImageRefused(f"the paths in the image would take more than {self._limits.names} bytes")

    def _work(self, steps: int) -> None:
        """Count what takes time. Raises ImageRefused."""
        self._steps += steps
        if self._steps > self._limits.steps:
            raise ImageRefused("so many links and directories have to be gone through as in no honest image")


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
