"""Undoing a Content-Encoding that nobody asked for; pure."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LARGEST = 1 << 20
"""Bytes of a piece: a few hostile kilobytes unpack to gigabytes."""


def gunzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what gzip members unpack to, in pieces of at most LARGEST bytes.

    Raises EOFError if the stream is cut off, which urllib3's decoder passes over in silence, and zlib.error if it is
    no gzip, or more than LARGEST bytes of it come to nothing: empty members, and blocks, could follow for ever.
    """
    decoder, whole, idle = _decoder(), False, 0
    for piece in pieces:
        packed = piece
        while packed:
            plain = decoder.decompress(packed, LARGEST)
            idle = 0 if plain else idle + len(packed) - len(decoder.unconsumed_tail or decoder.unused_data)
            if plain:
                yield plain
            if idle > LARGEST:
                raise zlib.error("nothing comes of it")
            # Output that is held back needs no input to come out, but some input always follows: a member ends in
            # its checksum.
            packed, whole = decoder.unconsumed_tail, decoder.eof
            if whole:
                packed, decoder = decoder.unused_data, _decoder()
    if not whole:
        raise EOFError


def _decoder() -> zlib._Decompress:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)
