"""An origin in memory: fulfils Source and Stream without a network, and fails as told."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from stager.errors import OriginUnavailable, StageImageError
from stager.interfaces import Validators

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeSource:
    """Serves `body`, whose ETag follows from it.

    `fails` is raised instead; `breaks` ends streams after so many bytes. `asked` records the arguments of each open.
    """

    def __init__(self, name: str, body: bytes = b"", *, fails: StageImageError | None = None) -> None:
        self.name = name
        self.body = body
        self.fails = fails
        self.breaks: int | None = None
        self.piece = 4
        self.asked: list[tuple[int, int | None, Validators | None, Validators | None]] = []

    @property
    def version(self) -> Validators:
        return Validators(f'"{sha256(self.body).hexdigest()[:8]}"', "", len(self.body))

    def open(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        if_range: Validators | None = None,
        unless: Validators | None = None,
    ) -> FakeStream | None:
        self.asked.append((start, end, if_range, unless))
        if self.fails is not None:
            raise self.fails
        if unless and unless == self.version:
            return None
        offset = start if not if_range or if_range == self.version else 0
        return FakeStream(self, offset, end)


class FakeStream:
    ranges = True
    private = False

    def __init__(self, source: FakeSource, offset: int, end: int | None) -> None:
        self._source = source
        self._bytes = source.body[offset:end]
        self.offset = offset
        self.size = len(source.body)
        self.validators = source.version
        self.closed = False

    def chunks(self) -> Iterator[bytes]:
        breaks = len(self._bytes) if self._source.breaks is None else self._source.breaks
        for i in range(0, min(breaks, len(self._bytes)), self._source.piece):
            yield self._bytes[i : min(i + self._source.piece, breaks)]
        if breaks < len(self._bytes) or self.closed:
            raise OriginUnavailable(f"{self._source.name} broke off")

    def close(self) -> None:
        self.closed = True
