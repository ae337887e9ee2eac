"""Archives for tests, member by member, with everything odd that tars of layers may hold.

The headers are written here, field by field, and not by tarfile: half of what real layers hold it cannot write.
Formats: tar(5) of libarchive; "Basic Tar Format" and "Storing Sparse Files" of GNU tar's manual.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Unpack


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a tar. `kind` is its type flag; `content` what is stored, `size` what the header claims of it.

    `xattrs` are written as SCHILY.xattr records; `pax` are further records, before all others; `gnu` writes long names
    in GNU's way; `head` is put in front as it is.
    """

    name: bytes
    kind: bytes = b"0"
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_600_000_000
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    pax: Mapping[str, bytes] = field(default_factory=dict)
    size: int | None = None
    gnu: bool = False
    head: bytes = b""


class Odd(TypedDict, total=False):
    """Fields of an Entry that may be said besides what its kind needs."""

    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: Mapping[str, bytes]
    pax: Mapping[str, bytes]
    size: int
    gnu: bool
    head: bytes


def file(name: str | bytes, content: bytes = b"", **of: Unpack[Odd]) -> Entry:
    """Describe a regular file."""
    return Entry(_bytes(name), b"0", content, **of)


def directory(name: str | bytes, **of: Unpack[Odd]) -> Entry:
    """Describe a directory; the slash that tars have at its end is added."""
    of.setdefault("mode", 0o755)
    return Entry(_bytes(name).rstrip(b"/") + b"/", b"5", **of)


def symlink(name: str | bytes, target: str | bytes, **of: Unpack[Odd]) -> Entry:
    """Describe a symbolic link."""
    of.setdefault("mode", 0o777)
    return Entry(_bytes(name), b"2", link=_bytes(target), **of)


def hardlink(name: str | bytes, target: str | bytes, **of: Unpack[Odd]) -> Entry:
    """Describe a further name of what `target`, a path from the root, is at that moment."""
    return Entry(_bytes(name), b"1", link=_bytes(target), **of)


def device(name: str | bytes, kind: str, major: int, minor: int, **of: Unpack[Odd]) -> Entry:
    """Describe a device node; `kind` is `c` or `b`."""
    return Entry(_bytes(name), {"c": b"3", "b": b"4"}[kind], device=(major, minor), **of)


def fifo(name: str | bytes, **of: Unpack[Odd]) -> Entry:
    """Describe a named pipe."""
    return Entry(_bytes(name), b"6", **of)


def whiteout(name: str | bytes) -> Entry:
    """Describe the removal of `name` as the layers below have it."""
    parent, slash, base = _bytes(name).rpartition(b"/")
    return Entry(parent + slash + b".wh." + base)


def opaque(name: str | bytes) -> Entry:
    """Describe the removal of all that the layers below have in the directory `name` (`.` for the root)."""
    return Entry(_bytes(name).rstrip(b"/") + b"/.wh..wh..opq")


SPARSE_FORMS = ("gnu", "0.0", "0.1", "1.0")


def sparse(name: str, length: int, pieces: Sequence[tuple[int, bytes]], form: str) -> Entry:
    """Describe a file of `length` bytes that is zero but for `pieces` (offset, bytes), in one of SPARSE_FORMS.

    GNU tar's manual, "Storing Sparse Files"; with `gnu`, four pieces are told in the header itself and the others
    in extension headers.
    """
    data = b"".join(content for _, content in pieces)
    extents = [(offset, len(content)) for offset, content in pieces]
    if form == "gnu":
        inside, further = _gnu_map(extents)
        return Entry(_bytes(name), b"S", further + data, size=len(data), head=inside + _number(length, 12))
    numbers = [str(number).encode() for extent in extents for number in extent]
    return _pax_sparse(_bytes(name), str(length).encode(), numbers, data, form=form)


def _pax_sparse(name: bytes, length: bytes, numbers: list[bytes], data: bytes, *, form: str) -> Entry:
    count = str(len(numbers) // 2).encode()
    hidden = b"GNUSparseFile.0/" + name
    pax = {"GNU.sparse.size": length, "GNU.sparse.numblocks": count}
    if form == "1.0":
        table = b"\n".join([count, *numbers]) + b"\n"
        pax = {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": length}
        return Entry(hidden, content=_padded(table) + data, pax={**pax, "GNU.sparse.name": name})
    if form == "0.1":
        return Entry(hidden, content=data, pax={**pax, "GNU.sparse.map": b",".join(numbers), "GNU.sparse.name": name})
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    records = (pax_record("GNU.sparse.offset", o) + pax_record("GNU.sparse.numbytes", n) for o, n in pairs)
    return Entry(name, content=data, pax={**pax, "": b"".join(records)})


def _gnu_map(extents: Sequence[tuple[int, int]]) -> tuple[bytes, bytes]:
    pairs = [_number(o, 12) + _number(n, 12) for o, n in extents]
    inside, further = pairs[:4], pairs[4:]
    blocks = [further[i : i + 21] for i in range(0, len(further), 21)]
    extension = b"".join(
        b"".join(block).ljust(504, b"\0") + (b"\1" if block is not blocks[-1] else b"\0") + b"\0" * 7
        for block in blocks
    )
    return b"".join(inside).ljust(96, b"\0") + (b"\1" if further else b"\0"), extension


def pax_record(key: str, value: bytes) -> bytes:
    """Return one record of an extended header: its length counts its own digits."""
    rest = len(key.encode()) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return str(length).encode() + b" " + key.encode() + b"=" + value + b"\n"


def tar(entries: Iterable[Entry], end: bytes = b"\0" * 1024) -> bytes:
    """Return the archive of these entries, in their order."""
    return b"".join(map(_member, entries)) + end


def _member(entry: Entry) -> bytes:
    claimed = len(entry.content) if entry.size is None else entry.size
    if entry.kind == b"S":
        return _header(entry, claimed, sparse=entry.head) + _padded(entry.content)
    front, name, link = entry.head, entry.name, entry.link
    pax = dict(entry.pax)
    if entry.gnu:
        front += b"".join(_gnu_long(kind, text) for kind, text in ((b"K", link), (b"L", name)) if len(text) > 100)
    else:
        pax |= {key: text for key, text in (("path", name), ("linkpath", link)) if len(text) > 100}
    pax |= {f"SCHILY.xattr.{key}": value for key, value in entry.xattrs.items()}
    records = b"".join(value if not key else pax_record(key, value) for key, value in pax.items())
    if records:
        front += _header(Entry(b"PaxHeaders/x", b"x"), len(records)) + _padded(records)
    short = replace(entry, name=name[:100], link=link[:100])
    return front + _header(short, claimed) + _padded(entry.content)


def _gnu_long(kind: bytes, text: bytes) -> bytes:
    return _header(Entry(b"././@LongLink", kind), len(text) + 1, gnu=True) + _padded(text + b"\0")


def _header(entry: Entry, size: int, *, gnu: bool = False, sparse: bytes = b"") -> bytes:
    gnu = gnu or entry.gnu or bool(sparse)
    fields = (
        entry.name.ljust(100, b"\0"),
        *(_number(n, 8) for n in (entry.mode, entry.uid, entry.gid)),
        *(_number(n, 12) for n in (size, entry.mtime)),
        b" " * 8 + entry.kind + entry.link.ljust(100, b"\0") + (b"ustar  \0" if gnu else b"ustar\x0000") + b"\0" * 64,
        *(_number(n, 8) for n in entry.device),
        (b"\0" * 41 + sparse) if sparse else b"",
    )
    block = b"".join(fields).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _number(value: int, width: int) -> bytes:
    """Octal, or base-256 where that is too short or the number negative."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return (value + ((1 << 8 * width - 1) if value >= 0 else 1 << 8 * width)).to_bytes(width, "big")


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 512)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
