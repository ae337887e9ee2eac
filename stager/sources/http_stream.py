"""The body of an HTTP answer, on its way."""

from __future__ import annotations

import zlib
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from urllib3.exceptions import HTTPError

from stager.errors import OriginUnavailable
from stager.sources.closing import Closing
from stager.sources.failures import broken_off, host_of
from stager.sources.gzipped import gunzip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from requests import Response

    from stager.sources.answers import Delivery
    from stager.sources.settings import HttpSettings

PIECE = 256 * 1024
"""Bytes asked of the socket at a time; what has arrived by then is passed on at once."""


class HttpStream:
    """The bytes that `delivery` describes. `ending` lets go of the connection."""

    def __init__(
        self, response: Response, delivery: Delivery, settings: HttpSettings, *, private: bool, ending: ExitStack
    ) -> None:
        self.offset = delivery.offset
        self.size = delivery.size
        self.validators = delivery.validators
        self.ranges = delivery.ranges
        self.private = private
        self._name = host_of(response.url)
        self._raw = response.raw
        self._position, self._stop = delivery.offset, delivery.stop
        self._gzipped = delivery.gzipped
        self._settings = settings
        self._closing = Closing(ending.close)

    def chunks(self) -> Iterator[bytes]:
        """As Stream.chunks; `close` makes it raise OriginUnavailable, so that nobody takes a part for the whole."""
        return self._unpacked() if self._gzipped else self._plain()

    def close(self) -> None:
        if self._closing.close():
            # The reader sits in recv(2) and only a shutdown wakes it, unless it has just ended by itself.
            with suppress(HTTPError, OSError, ValueError, RuntimeError):
                self._raw.shutdown()

    def _plain(self) -> Iterator[bytes]:
        stop = self._stop
        while stop is None or self._position < stop:
            piece = self._read(PIECE if stop is None else min(PIECE, stop - self._position))
            if piece:
                self._position += len(piece)
                yield piece
            elif stop is None:
                return
            else:
                raise OriginUnavailable(f"{self._name} broke off {stop - self._position} bytes before the end")

    def _unpacked(self) -> Iterator[bytes]:
        try:
            for piece in gunzip(iter(lambda: self._read(PIECE), b"")):
                yield piece if self._stop is None else piece[: self._stop - self._position]
                self._position += len(piece)
                if self._stop is not None and self._position >= self._stop:
                    return
        except (EOFError, zlib.error) as error:
            raise OriginUnavailable(f"{self._name} broke off or damaged a compressed stream") from error

    def _read(self, limit: int) -> bytes:
        """Return 1 to `limit` bytes, or none at the end of the body."""
        with self._closing.reading() as is_open:
            try:
                piece: bytes = self._raw.read1(limit, decode_content=False) if is_open else b""
            except (HTTPError, OSError, ValueError) as error:
                if self._closing.closed:
                    raise self._given_up() from None
                raise broken_off(self._name, self._position, error, self._settings) from error
        if self._closing.closed:
            raise self._given_up()
        return piece

    def _given_up(self) -> OriginUnavailable:
        return OriginUnavailable(f"the transfer from {self._name} was given up")
