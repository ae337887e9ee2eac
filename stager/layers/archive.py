"""The tree as one tar that mksquashfs reads: written anew, so that nothing of a stranger's header reaches it.

What mksquashfs 4.5 and 4.5.1 cannot do decides the order and the form. A hard link before its target is a crash; a
sparse file in most of GNU's ways, and a time before 1970, are fatal; the root's own entry is passed over; a directory
without an entry gets the time of day and the caller's identity.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from stager.layers.entry import BLOCK, CHAR, DIRECTORY, FILE, HARD, SYMLINK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stager.layers.tree import Node, Tree

END = b"\0" * 1024
_ZEROS = b"\0" * 512


class Plan(NamedTuple):
    """What is written, in this order: paths and inodes; `files` by layer, in their order there.

    `links` are paths, and to what. `ids` are the identities of everything but the root. No headers: all at once, those
    of a thousand inodes could take a gigabyte, by attributes that a layer says once.
    """

    directories: list[tuple[bytes, Node]]
    others: list[tuple[bytes, Node]]
    files: dict[int, list[tuple[bytes, Node]]]
    links: list[tuple[bytes, bytes]]
    ids: set[int]


def plan(tree: Tree) -> Plan:
    """Return how a tree is written: the same for the same tree, on every node."""
    made = Plan([], [], {}, [], set())
    first: dict[int, bytes] = {}
    for path, node in walk(tree):
        made.ids.update((node.uid, node.gid))
        if node.kind == DIRECTORY:
            made.directories.append((path, node))
        elif id(node) in first:
            made.links.append((path, first[id(node)]))
        else:
            first[id(node)] = path
            if node.content is not None and node.content.size:
                made.files.setdefault(node.layer, []).append((path, node))
            else:
                made.others.append((path, node))
    for files in made.files.values():
        files.sort(key=_offset)
    return made


def _offset(file: tuple[bytes, Node]) -> int:
    return file[1].content.offset if file[1].content else 0


def comparisons(tree: Tree) -> int:
    """Return how many names mksquashfs compares at most, until it has this tree.

    Of a directory it keeps a list, and for every part of every path it goes through that from the front, up to and
    including 4.7.5 (tar.c, add_tarfile).
    """
    total = 0
    waiting = [(0, tree.root)]
    while waiting:
        before, node = waiting.pop()
        each = before + len(node.children)
        total += each * len(node.children)
        waiting += [(each, child) for child in node.children.values() if child.children]
    return total


def same_sized(found: Plan) -> int:
    """Return how many files mksquashfs compares at most, to find those that are the same: all of a size with all."""
    sizes = (node.content.size for files in found.files.values() for _, node in files if node.content)
    return sum(count * count for count in Counter(sizes).values())


def walk(tree: Tree) -> Iterator[tuple[bytes, Node]]:
    """Yield every name but the root's: a directory before what is in it, and all sorted."""
    waiting = [(b"", tree.root)]
    while waiting:
        path, node = waiting.pop()
        if path:
            yield path, node
        prefix = path + b"/" if path else b""
        waiting += [(prefix + name, node.children[name]) for name in sorted(node.children, reverse=True)]


def header(path: bytes, node: Node) -> bytes:
    """Return the header, or headers, of an inode of this name; its content follows."""
    size = node.content.size if node.kind == FILE and node.content else 0
    device = node.device if node.kind in {CHAR, BLOCK} else (0, 0)
    target = node.link if node.kind == SYMLINK else b""
    pax = _pax(node.xattrs) if node.xattrs else b""
    numbers = (node.mode, node.uid, node.gid, size, node.mtime)
    return pax + _named(node.kind, path, target, numbers, device=device)


def link(path: bytes, target: bytes) -> bytes:
    """Return the header of a further name."""
    return _named(HARD, path, target, (0, 0, 0, 0, 0))


def _named(
    kind: bytes, path: bytes, link: bytes, numbers: tuple[int, int, int, int, int], *, device: tuple[int, int] = (0, 0)
) -> bytes:
    """Long names come in GNU's way: mksquashfs takes all bytes as they are there."""
    block = _block(kind, path[:100], link[:100], numbers, device=device)
    if len(path) > 100:
        block = _long(b"L", path) + block
    return _long(b"K", link) + block if len(link) > 100 else block


def _long(kind: bytes, text: bytes) -> bytes:
    return _block(kind, b"././@LongLink", b"", (0, 0, 0, len(text) + 1, 0)) + padded(text + b"\0")


def _block(
    kind: bytes, name: bytes, link: bytes, numbers: tuple[int, int, int, int, int], *, device: tuple[int, int] = (0, 0)
) -> bytes:
    mode, uid, gid, size, mtime = numbers
    front = b"%-100s%s%s%s%s%s" % (
        *(name.ljust(100, b"\0"), _number(mode, 8), _number(uid, 8), _number(gid, 8), _number(size, 12)),
        _number(mtime, 12),
    )
    behind = b"%s%sustar\x0000%s%s%s" % (
        *(kind, link.ljust(100, b"\0"), b"\0" * 64, _number(device[0], 8), _number(device[1], 8)),
    )
    return b"%s%06o\0 %s" % (front, sum(front) + sum(behind) + 256, behind.ljust(356, b"\0"))


def _number(value: int, width: int) -> bytes:
    if value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return b"\x80" + value.to_bytes(width - 1, "big")


def _pax(xattrs: Mapping[bytes, bytes]) -> bytes:
    """Return an extended header. mksquashfs reads it as a string in C: one that fills its last block would not end."""
    records = b"".join(_record(b"SCHILY.xattr." + name, value) for name, value in sorted(xattrs.items()))
    if not len(records) % 512:
        records += b"11 mtime=0\n"
    return _block(b"x", b"PaxHeader", b"", (0, 0, 0, len(records), 0)) + padded(records)


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def padded(data: bytes) -> bytes:
    """Fill the last block up."""
    return data + _ZEROS[: -len(data) % 512]
