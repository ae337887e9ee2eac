"""An expanded layer, read forward: hashed, measured, and never more of it than is allowed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from stager.errors import DamagedImage, ImageRefused
from stager.layers.expand import Begun, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.layers.expand import Read

BLOCK = 512
"""What everything in a tar is a multiple of (POSIX, pax)."""


class Expanded:
    """What comes of a layer's compressed bytes. `allowed` bounds the bytes; `digest` says whether they are hashed."""

    def __init__(self, read: Read, *, allowed: int, digest: bool) -> None:
        self._begun = Begun(read)
        self._pieces = pieces(self._begun)
        self._piece = b""
        self._at = 0
        self._before = 0
        self._allowed = allowed
        self._hash = hashlib.sha256() if digest else None

    @property
    def position(self) -> int:
        """Where in the expanded bytes this is."""
        return self._before + self._at

    @property
    def compressed(self) -> int:
        """How many compressed bytes have been read."""
        return self._begun.count

    @property
    def diff_id(self) -> str:
        """What all the bytes up to here hash to."""
        return "" if self._hash is None else f"sha256:{self._hash.hexdigest()}"

    def _next(self) -> bool:
        self._before += len(self._piece)
        self._at = 0
        self._piece = next(self._pieces, b"")
        if self._hash is not None:
            self._hash.update(self._piece)
        if self._before + len(self._piece) > self._allowed:
            raise ImageRefused(f"it expands to more than {self._allowed} bytes, which no honest layer of its size does")
        return bool(self._piece)

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        taken = self._piece[self._at : self._at + size]
        self._at += len(taken)
        while len(taken) < size and self._next():
            more = self._piece[: size - len(taken)]
            self._at = len(more)
            taken += more
        return taken

    def need(self, size: int) -> bytes:
        """Return the next `size` bytes. Raises DamagedImage if there are fewer."""
        taken = self.take(size)
        if len(taken) < size:
            raise cut_off()
        return taken

    def skip(self, size: int) -> None:
        """Pass over `size` bytes. Raises DamagedImage if there are fewer."""
        for _ in self.run(size):
            pass

    def run(self, size: int) -> Iterator[memoryview]:
        """Yield the next `size` bytes in pieces. Raises DamagedImage if there are fewer."""
        while size > 0:
            left = len(self._piece) - self._at
            if not left:
                if not self._next():
                    raise cut_off()
                continue
            count = min(left, size)
            start, self._at = self._at, self._at + count
            size -= count
            yield memoryview(self._piece)[start : start + count]

    def finish(self) -> None:
        """Read to the end of everything, for the sizes and the hash."""
        while self._next():
            pass
        while self._begun.read():
            pass


def cut_off() -> DamagedImage:
    """Say that there should be more."""
    return DamagedImage("it is cut off in the middle of a file or header")
