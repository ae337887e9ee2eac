"""Where the members of a tar archive lie in it; nothing is unpacked, and nothing of it is believed.

Formats: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar's long names (tar(5) of
libarchive).
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stager.errors import DamagedImage, ImageRefused, NotAnImage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

BLOCK = 512
MEMBERS_MAX = 20_000
"""Docker writes four members a layer, and hundreds of images into one archive at most."""

NAME_MAX = 4096
"""Bytes of a member's name (linux/limits.h), so that those of all members do not fill the memory."""

RECORDS_MAX = 1 << 20
"""Bytes of a long name or of extended headers, which are read into memory."""

RECORDS_ALL_MAX = 32 << 20
"""Bytes of all of them in an archive: 1.6 KiB for each member."""

LINKS_MAX = 8
"""Links behind one another: Docker up to 1.13 wrote one for a layer that several images share."""

_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}


@dataclass(frozen=True, slots=True)
class Member:
    """Bytes [offset, offset + size) of the archive; `kind` is the type flag, `link` what a link leads to."""

    offset: int
    size: int
    kind: str = "0"
    link: str = ""


@dataclass(frozen=True, slots=True)
class _Said:
    """What the headers before a member say of it."""

    name: str = ""
    link: str = ""
    size: int | None = None


def members(read: Callable[[int, int], bytes], size: int, path: str) -> dict[str, Member]:
    """Return the members of an archive of `size` bytes by name; the last of a name counts, as if it were unpacked.

    `read(position, length)` may return less at the end. `path` is for people. Raises NotAnImage, DamagedImage,
    ImageRefused.
    """
    found: dict[str, Member] = {}
    for count, (name, member) in enumerate(_walk(read, size, path)):
        if count >= MEMBERS_MAX:
            raise ImageRefused(f"{path} holds more than {MEMBERS_MAX} files")
        if max(len(name), len(member.link)) >= NAME_MAX:
            raise ImageRefused(f"{path} holds a name of {max(len(name), len(member.link))} bytes")
        found[posixpath.normpath(name.lstrip("/"))] = member
    return found


def follow(found: Mapping[str, Member], name: str, path: str) -> Member | None:
    """Return the regular file that a name means, through links inside the archive. Raises ImageRefused."""
    current = posixpath.normpath(name)
    for _ in range(LINKS_MAX):
        member = found.get(current)
        if member is None or member.kind in "07\0":
            return member
        if member.kind not in "12":
            break
        # A hard link names its target from the archive's root, a symbolic one from where it lies.
        above = posixpath.dirname(current) if member.kind == "2" else ""
        current = posixpath.normpath(posixpath.join(above, member.link))
    raise ImageRefused(f"{path} has something else than a file, or too many links, at {name[:120]!a}")


def _walk(read: Callable[[int, int], bytes], size: int, path: str) -> Iterator[tuple[str, Member]]:
    position, said, extended = 0, _Said(), 0
    while position + BLOCK <= size:
        block = read(position, BLOCK)
        if not block.strip(b"\0"):
            break
        if not _is_header(block):
            raise _no_archive(block, path) if position == 0 else DamagedImage(f"{path} is damaged at byte {position}")
        position += BLOCK
        kind, length = chr(block[156]), _number(block[124:136])
        if kind not in "xgLK":
            length = length if said.size is None else said.size
        if length is None or length > size - position:
            raise DamagedImage(f"{path} ends in the middle of a file")
        if kind in "xgLK":
            if length > RECORDS_MAX:
                raise ImageRefused(f"{path} has a name of {length} bytes")
            extended += BLOCK + length
            if extended > RECORDS_ALL_MAX:
                raise ImageRefused(f"{path} has more than {RECORDS_ALL_MAX} bytes of extended headers")
            said = _told(said, kind, read(position, length))
        else:
            yield said.name or _name(block), Member(position, length, kind, said.link or _text(block[157:257]))
            said = _Said()
        position += -(-length // BLOCK) * BLOCK
    else:
        if position == 0:
            raise _no_archive(read(0, size), path)
        # Some writers leave the two blocks of zeros out at the end; whoever was cut off mostly not at a header.


def _told(said: _Said, kind: str, data: bytes) -> _Said:
    if kind == "L":
        return replace(said, name=_text(data))
    if kind == "K":
        return replace(said, link=_text(data))
    if kind == "g":
        return said
    records = dict(_records(data))
    return _Said(
        records.get("path", said.name),
        records.get("linkpath", said.link),
        _decimal(records["size"]) if "size" in records else said.size,
    )


def _records(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield keys and values of `<length> <key>=<value>` and a line's end, up to the first that is none."""
    at = 0
    while at < len(data):
        digits = data[at : at + 20].partition(b" ")[0]
        length = _decimal(digits.decode("ascii", "replace"))
        if length is None or not len(digits) < length <= len(data) - at:
            return
        key, _, value = data[at + len(digits) + 1 : at + length - 1].partition(b"=")
        yield _text(key), _text(value)
        at += length


def _is_header(block: bytes) -> bool:
    claimed = _number(block[148:156])
    return claimed == sum(block) - sum(block[148:156]) + 8 * 32


def _number(field: bytes) -> int | None:
    """Return an octal number, or one in base 256 (GNU), that is not negative."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits:
        return 0
    return int(digits, 8) if all(digit in b"01234567" for digit in digits) else None


def _decimal(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _name(block: bytes) -> str:
    name, prefix = _text(block[:100]), _text(block[345:500])
    # GNU's own format has times where ustar has the prefix.
    return f"{prefix}/{name}" if prefix and block[257:263] == b"ustar\0" else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _no_archive(beginning: bytes, path: str) -> NotAnImage:
    for magic, name in _COMPRESSED.items():
        if beginning.startswith(magic):
            return NotAnImage(
                f"{path} is compressed ({name}), and nothing in it can be found without expanding all of it",
                hint="expand it first, with gunzip, unzstd, unxz or bunzip2",
            )
    return NotAnImage(f"{path} is no tar archive", hint="a SIF or squashfs file is staged by its path alone")
