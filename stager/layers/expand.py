"""A layer's bytes, expanded: gzip, zstd, or as they are, by what they begin with: media types are often wrong."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Protocol, cast

from stager.errors import ConverterMissing, DamagedImage, NotAnImage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    Read = Callable[[int], bytes]

inflate: Any = zlib
try:
    from isal import isal_zlib

    inflate = isal_zlib
except ImportError:  # no wheel for this machine; it inflates three times as fast
    pass

INPUT = 256 << 10
PIECE = 1 << 20
"""Bytes that are read, and expanded, at once: bombs come in pieces, too."""

WINDOW_MAX = 128 << 20
"""Bytes that zstd may look back: what zstd itself takes unless it is told otherwise (zstd.h, ZSTD_WINDOWLOG_LIMIT)."""

_GZIP_WBITS = 31
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x04\x22\x4d\x18": "lz4", b"PK\x03\x04": "zip"}


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Begun:
    """What is read, counted, with its first bytes known beforehand."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._held = b""
        self.count = 0
        while len(self._held) < 6 and (piece := read(INPUT)):
            self._held += piece
        self.magic = self._held[:6]

    def read(self, size: int = INPUT) -> bytes:
        """Return at most `size` bytes; none at the end."""
        piece = self._held or self._read(max(size, 1))
        piece, self._held = piece[:size], piece[size:]
        self.count += len(piece)
        return piece


def pieces(begun: Begun) -> Iterator[bytes]:
    """Yield what a layer expands to, in pieces of at most 1 MiB. Raises DamagedImage, NotAnImage, ConverterMissing."""
    magic = begun.magic
    if magic[:2] == b"\x1f\x8b":
        return _gunzipped(begun)
    if magic[:4] == b"\x28\xb5\x2f\xfd" or (magic[:1] and magic[0] & 0xF0 == 0x50 and magic[1:4] == b"\x2a\x4d\x18"):
        return _unzstd(begun)
    for other, name in _OTHERS.items():
        if magic.startswith(other):
            raise NotAnImage(f"it is compressed by {name}, and layers are by gzip or zstd")
    return iter(lambda: begun.read(PIECE), b"")


def _gunzipped(begun: Begun) -> Iterator[bytes]:
    """RFC 1952: members one after another; zeros may follow, because tapes and block devices leave them."""
    data = begun.read()
    while data:
        member = inflate.decompressobj(wbits=_GZIP_WBITS)
        while not member.eof:
            if not data and not (data := begun.read()):
                raise DamagedImage("its gzip stream is cut off")
            try:
                piece = member.decompress(data, PIECE)
            except (zlib.error, inflate.error) as error:
                raise DamagedImage(f"its gzip stream is broken: {error}") from error
            data = member.unconsumed_tail
            if piece:
                yield piece
        data = _after(member.unused_data, begun)


def _after(data: bytes, begun: Begun) -> bytes:
    data = data.lstrip(b"\0") or data[:0]
    while not data and (more := begun.read()):
        data = more.lstrip(b"\0")
    if data and not data.startswith(b"\x1f\x8b"[: len(data)]):
        raise DamagedImage("something follows its gzip stream")
    return data


def _unzstd(begun: Begun) -> Iterator[bytes]:
    """RFC 8878: frames one after another, some of them to be skipped."""
    reader, broken = _zstd_reader(begun)
    while True:
        try:
            piece = reader.read(PIECE)
        except broken as error:
            raise DamagedImage(f"its zstd stream is broken: {error}") from error
        if not piece:
            return
        yield piece


def _zstd_reader(begun: Begun) -> tuple[_Readable, tuple[type[Exception], ...]]:
    try:
        import zstandard
    except ImportError:
        return _own_zstd_reader(begun)
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX)
    source = cast("BinaryIO", begun)
    return decompressor.stream_reader(source, read_size=INPUT, read_across_frames=True), (zstandard.ZstdError,)


def _own_zstd_reader(begun: Begun) -> tuple[_Readable, tuple[type[Exception], ...]]:
    """Python's own, from 3.14 on."""
    import importlib

    try:
        zstd = importlib.import_module("compression.zstd")
    except ImportError:
        raise ConverterMissing(
            "it is compressed by zstd, and neither the Python package zstandard nor Python 3.14 is there",
            hint="install zstandard",
        ) from None
    return zstd.ZstdFile(begun), (zstd.ZstdError, EOFError)
