"""Laws of layers: what they come to together, and that no bytes at all lead to anything but a StageImageError."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from stager.errors import StageImageError
from stager.layers import Limits
from stager.layers.tree import Tree
from stager.layers.writing import merged
from tests.support.converting import indexed
from tests.support.layer_strategies import layer_lists
from tests.support.layered_images import SPARSE_FORMS, Layer, file, hardlink, layer, sparse, symlink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.layers.entry import Entry
    from stager.layers.tree import Node

Path = tuple[bytes, ...]


@dataclass
class Model:
    """The same, written as a table of paths: slow, and without anything that could go wrong in a tree."""

    files: dict[Path, object] = field(default_factory=dict)
    directories: set[Path] = field(default_factory=lambda: {()})
    links: dict[Path, bytes] = field(default_factory=dict)
    touched: set[Path] = field(default_factory=set)

    def remove(self, path: Path) -> None:
        for table in (self.files, self.links):
            for name in [name for name in table if name[: len(path)] == path]:
                del table[name]
        self.directories -= {name for name in self.directories if name[: len(path)] == path}

    def everything(self) -> set[Path]:
        return {*self.files, *self.links, *self.directories}

    def resolve(self, text: bytes) -> Path:
        path: Path = ()
        rest = text.split(b"/")
        while rest:
            part, *rest = rest
            if part in {b"", b"."}:
                continue
            if part == b"..":
                path = path[:-1]
            elif (target := self.links.get((*path, part))) is not None:
                path = () if target.startswith(b"/") else path
                rest = [*target.split(b"/"), *rest]
            else:
                path = (*path, part)
        return path

    def apply(self, entry: Entry, inode: object) -> None:
        if not entry.path:
            return
        parent, _, base = entry.path.rpartition(b"/")
        folder = self.resolve(parent)
        if base.startswith(b".wh."):
            opaque = base == b".wh..wh..opq"
            doomed = folder if opaque else (*folder, base[4:])
            for path in self.everything() - self.touched:
                if path[: len(doomed)] == doomed and (path != doomed or not opaque):
                    self.remove(path)
            return
        path = (*folder, base)
        ancestors = {path[:length] for length in range(len(path))}
        self.directories |= ancestors
        self.touched |= {*ancestors, path}
        if entry.kind == b"5" and path in self.directories:
            return
        self.remove(path)
        if entry.kind == b"1":
            up, _, last = b"/".join(normal(entry.link)).rpartition(b"/")
            target = (*self.resolve(up), last)
            inode = self.files.get(target, inode)
            if target in self.links:
                self.links[path] = self.links[target]
            else:
                self.files[path] = inode
        elif entry.kind == b"5":
            self.directories.add(path)
        elif entry.kind == b"2":
            self.links[path] = entry.link
        else:
            self.files[path] = inode


def normal(path: bytes) -> Path:
    parts: Path = ()
    for part in path.split(b"/"):
        parts = parts[:-1] if part == b".." else (*parts, part) if part not in {b"", b"."} else parts
    return parts


def told(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    yield path, node
    for name, child in node.children.items():
        yield from told(child, (*path, name))


@settings(max_examples=60)
@given(layer_lists)
def test_layers_come_to_what_the_table_says(described: list[list[object]]) -> None:
    tree, model = Tree(), Model()
    numbers: dict[int, object] = {}
    for number, entries in enumerate(described):
        model.touched = set()
        for entry in indexed(layer(entries, "plain")).entries:  # type: ignore[arg-type]
            before = {path: id(node) for path, node in told(tree.root)}
            try:
                tree.apply(entry, number)
            except StageImageError:
                return  # half applied, as it may be: nothing is made of it
            model.apply(entry, entry)
            new = {id(node): entry for path, node in told(tree.root) if id(node) not in before.values()}
            numbers |= new
    nodes = dict(told(tree.root))
    assert {path for path, node in nodes.items() if node.kind == b"5"} == model.directories
    assert {path: node.link for path, node in nodes.items() if node.kind == b"2"} == model.links
    rest = {path: numbers[id(node)] for path, node in nodes.items() if node.kind not in {b"5", b"2"}}
    assert rest.keys() == model.files.keys()
    assert all(rest[path] is model.files[path] for path in rest)


SEED = layer(
    [
        file("a" * 120, b"1" * 700, xattrs={"user.x": b"\0"}),
        symlink("l", "b" * 120, gnu=True),
        *(sparse(form, 9000, [(512, b"2" * 512), (4096, b"3" * 100)], form) for form in SPARSE_FORMS),
        hardlink("h", "l"),
    ],
    "plain",
)
LIMITS = Limits(entries=100, names=1 << 20, expanded=1 << 24, floor=1 << 24)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, len(SEED.tar) - 1), st.binary(min_size=1, max_size=12)), max_size=4),
    st.sampled_from(("gzip", "zstd", "plain")),
    st.booleans(),
    st.integers(0, len(SEED.tar)),
)
def test_damage_is_an_error_of_ours(damage: list[tuple[int, bytes]], compression: str, inside: bool, end: int) -> None:
    whole = SEED if inside else layer(SEED.tar, compression)
    data = bytearray(whole.blob)
    for place, new in damage:
        at = place % len(data)
        data[at : at + len(new)] = new
        if inside and at // 512 * 512 + 512 <= len(data):
            _sum_right(data, at // 512 * 512)
    blob = bytes(data[: end or None]) if end < len(data) else bytes(data)
    built = layer(blob, compression) if inside else Layer(blob, b"", whole.media_type)
    with contextlib.suppress(StageImageError):
        merged([indexed(built, LIMITS, diff_id="")], lambda: None)


def _sum_right(data: bytearray, at: int) -> None:
    """Damage behind a wrong checksum would never be looked at."""
    block = bytes(data[at : at + 148]) + b" " * 8 + bytes(data[at + 156 : at + 512])
    if block[257:262] == b"ustar":
        data[at + 148 : at + 156] = b"%06o\0 " % sum(block)
