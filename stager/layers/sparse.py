"""Sparse files in tars: GNU's old way, and its three ways in pax headers (GNU tar's manual, "Storing Sparse Files")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.errors import DamagedImage
from stager.layers.entry import Content
from stager.layers.headers import decimal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stager.layers.stream import Expanded

    Count = Callable[[int], None]
    """To be told how many extents come, so that they can be limited."""

LINE_MAX = 21
"""Bytes of a number in a map, with what ends it: those of 64 bits have 20 digits."""

_PAIR = 24
_INSIDE, _REST = slice(386, 482), slice(0, 504)


def old_gnu(block: bytes, stored: int, stream: Expanded, *, number: Callable[[bytes], int], count: Count) -> Content:
    """Return the content of a member of the type `S`, whose header is `block`. Raises DamagedImage."""
    numbers = _numbers(block[_INSIDE], number)
    size = number(block[483:495])
    more = block[482:483]
    while more not in {b"\0", b""}:
        count(1)
        block = stream.need(512)
        numbers += _numbers(block[_REST], number)
        more = block[504:505]
    return _checked(stream.position, stored, size, numbers)


def _numbers(field: bytes, number: Callable[[bytes], int]) -> list[int]:
    found: list[int] = []
    for at in range(0, len(field), _PAIR):
        if not field[at]:
            break
        found += (number(field[at : at + 12]), number(field[at + 12 : at + 24]))
    return found


def pax(
    found: Mapping[bytes, bytes], pairs: Sequence[bytes], stored: int, stream: Expanded, *, count: Count
) -> Content:
    """Return the content of a member whose pax header says that it is sparse. Raises DamagedImage.

    `pairs` are the values of GNU.sparse.offset and GNU.sparse.numbytes, in their order.
    """
    size = decimal(found.get(b"GNU.sparse.realsize", found.get(b"GNU.sparse.size", b"")), "a size")
    if b"GNU.sparse.major" in found:
        numbers, table = _table(stream, stored, count)
        return _checked(stream.position, stored - table, size, numbers)
    if b"GNU.sparse.map" in found:
        pairs = found[b"GNU.sparse.map"].split(b",") if found[b"GNU.sparse.map"] else []
    count(len(pairs) // 2)
    return _checked(stream.position, stored, size, [decimal(number, "a sparse file's map") for number in pairs])


def _table(stream: Expanded, stored: int, count: Count) -> tuple[list[int], int]:
    """Read the map before the content, and how many bytes it takes: numbers in lines, padded to a block."""
    data = bytearray()
    lines = wanted = 0
    while lines < (wanted or 1):
        if len(data) >= min(stored, LINE_MAX * (wanted or 1) + 512):
            raise DamagedImage("a sparse file's map is longer than its content, or than its numbers can be")
        block = stream.need(512)
        data += block
        lines += block.count(b"\n")
        if not wanted and lines:
            extents = decimal(bytes(data).partition(b"\n")[0], "a sparse file's map")
            count(extents)
            wanted = 1 + 2 * extents
    texts = bytes(data).split(b"\n")[1:wanted]
    return [decimal(text, "a sparse file's map") for text in texts], len(data)


def _checked(offset: int, stored: int, size: int, numbers: Sequence[int]) -> Content:
    extents = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    end = 0
    for start, length in extents:
        if start < end or length < 0:
            raise DamagedImage("a sparse file's pieces overlap")
        end = start + length
    if len(numbers) % 2 or end > size or sum(length for _, length in extents) != stored:
        raise DamagedImage("a sparse file's map does not fit its size")
    return Content(offset, stored, size, tuple(extent for extent in extents if extent[1]))
