"""Tar headers, field by field: old, POSIX (ustar, pax), GNU and star, as Go's archive/tar reads them.

The standard library's tarfile takes 50 to 100 µs for a member, most of it under the interpreter's lock, and knows
neither base-256 identities beyond its own nor where an error is; this takes about 10 µs.
Sources: POSIX, pax, "ustar Interchange Format"; tar(5) of libarchive; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from stager.errors import DamagedImage, ImageRefused
from stager.layers.entry import ID_MAX, TIME_MAX, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

ZERO = b"\0" * 512
SIGNED_EXTRA = 256
"""What a byte above 127 adds to a checksum of unsigned bytes, compared with the old sum of signed ones."""


class Header(NamedTuple):
    """One header block's fields, before any extended header has its say."""

    kind: bytes
    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    device: tuple[int, int]


def read(block: bytes) -> Header:
    """Return what a block of 512 bytes says. Raises DamagedImage."""
    _verify(block)
    kind = block[156:157]
    ustar = block[257:263]
    name = _text(block[0:100])
    device = (0, 0)
    if ustar == b"ustar\0":
        prefix = _text(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
        name = prefix + b"/" + name if prefix else name
    if ustar[:5] == b"ustar" and kind in b"34":
        device = (number(block[329:337]), number(block[337:345]))
    return Header(
        kind,
        name,
        number(block[100:108]),
        number(block[108:116]),
        number(block[116:124]),
        number(block[124:136]),
        number(block[136:148]),
        _text(block[157:257]),
        device,
    )


def _verify(block: bytes) -> None:
    total = sum(block) - sum(block[148:156]) + 8 * 32
    said = number(block[148:156])
    if said != total:
        high = sum(byte > 127 for byte in block[:148] + block[156:])
        if said != total - SIGNED_EXTRA * high:
            raise DamagedImage("a header's checksum is wrong")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def number(field: bytes) -> int:
    """Octal digits among blanks and NULs; or two's complement when the first bit is set ("base-256")."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if field[0] & 0x40 else value
    digits = field.strip(b" \0").partition(b"\0")[0]
    if not digits:
        return 0
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass
    raise DamagedImage(f"a header has {quoted(digits)} for a number")


def records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the records of a pax header, in their order. Raises DamagedImage."""
    found = []
    at = 0
    while at < len(data):
        blank = data.find(b" ", at, at + 12)
        digits = data[at:blank] if blank > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        key, equals, value = data[blank + 1 : end - 1].partition(b"=")
        if not blank < end <= len(data) or data[end - 1 : end] != b"\n" or not equals or not key:
            raise DamagedImage("an extended header is broken")
        found.append((key, value))
        at = end
    return found


def decimal(value: bytes, what: str) -> int:
    """Return a pax header's number. Raises DamagedImage."""
    if not value.isdigit() or len(value) > 20:
        raise DamagedImage(f"an extended header has {quoted(value)} for {what}")
    return int(value)


def seconds(value: bytes) -> int:
    """Return a pax header's time, whole seconds, rounded down. Raises DamagedImage."""
    whole, _, fraction = value.removeprefix(b"-").partition(b".")
    if not whole.isdigit() or len(whole) > 20 or not (fraction.isdigit() or not fraction):
        raise DamagedImage(f"an extended header has {quoted(value)} for a time")
    return -int(whole) - bool(fraction.strip(b"0")) if value.startswith(b"-") else int(whole)


def clamped(mtime: int) -> int:
    """Return a time that squashfs can hold."""
    return min(max(mtime, 0), TIME_MAX)


def identity(number: int) -> int:
    """Return a uid or gid. Raises ImageRefused for what no kernel has."""
    if not 0 <= number <= ID_MAX:
        raise ImageRefused(f"{number} is no user or group")
    return number


XATTR_VALUE_MAX = 64 << 10
"""linux/limits.h, XATTR_SIZE_MAX"""
XATTR_SPACES = (b"user.", b"trusted.", b"security.")
"""What squashfs can hold (squashfs_fs.h); access control lists (system.) it cannot."""


def xattrs(found: Mapping[bytes, bytes]) -> dict[bytes, bytes] | None:
    """Return the extended attributes among a pax header's records, sorted by name. Raises ImageRefused.

    SELinux labels are left out: they are the policy of the machine on which the image was built.
    """
    kept = {}
    for key, value in sorted(found.items()):
        name = key.removeprefix(b"SCHILY.xattr.")
        if name is key or name == b"security.selinux" or not name.startswith(XATTR_SPACES):
            continue
        if b"\0" in name or not len(name.partition(b".")[2]) > 0 or len(name) > 255 or len(value) > XATTR_VALUE_MAX:
            raise ImageRefused(f"Linux knows no extended attribute like {quoted(name)} with {len(value)} bytes")
        kept[name] = value
    return kept or None
