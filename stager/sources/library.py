"""Images from Singularity libraries, as scs-library-client asks for them.

`GET /v1/images/<name>?arch=` says which image a tag means and its hash, `GET /v1/imagefile/<name>?arch=` sends it or
redirects to a store. The file is asked for by that hash, so that a tag that moves in between does no harm.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from stager.errors import AccessDenied, NotFound, OriginUnavailable
from stager.interfaces import Validators
from stager.sources import library_metadata as metadata
from stager.sources.answers import Asked, Delivery, judge
from stager.sources.failures import final, host_of, location_of, refusal
from stager.sources.http import Authorization, Exchange
from stager.sources.http_stream import HttpStream
from stager.sources.library_remotes import is_here, token_for
from stager.sources.library_settings import digest_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from requests import Response

    from stager.errors import StageImageError
    from stager.interfaces import Stream
    from stager.oci import Platform
    from stager.sources.library_settings import LibraryName, LibrarySettings

_LOGIN = "`apptainer remote login` (or singularity's) gets a token for the library; or ask the image's owner"

_WHOLE = Delivery(0, None, None, Validators())


class LibrarySource:
    """One image of a library, for one platform's architecture: a Source. Holds no connection.

    The first question is asked without a token, so that an image that everybody may have is not taken for private.
    """

    def __init__(self, name: LibraryName, platform: Platform, settings: LibrarySettings) -> None:
        self._image = name
        self._arch = platform.architecture
        # A token for web servers is none for libraries.
        self._http = replace(settings.http, token_file="")
        self._base = _base(name.host, settings.library)
        self._environ = settings.environ
        self.name = host_of(self._base)

    def open(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        if_range: Validators | None = None,
        unless: Validators | None = None,
    ) -> Stream | None:
        """As Source.open; also raises ConfigError for a remote.yaml that others may read."""
        said, credentials = self._asked()
        version = said.version
        if unless and unless.etag == version.etag:
            return None
        start = start if not if_range or if_range.etag == version.etag else 0
        if said.size is not None and start == said.size:
            return _Nothing(version, private=bool(credentials))
        if digest_in(said.hash) is not None:
            try:
                return self._file(said.hash, said, Asked(start, end), credentials)
            except NotFound:
                # Libraries of other makers know tags only. Then bytes of two answers may be of two images.
                pass
        return self._file(self._image.tag, said, Asked(0, end, partly=False), credentials)

    def _asked(self) -> tuple[metadata.Metadata, str]:
        """Return what the library says of the image, and the token that was needed."""
        try:
            return self._metadata(""), ""
        except (AccessDenied, NotFound):
            token = token_for(self._base, self._environ)
            if not token:
                raise
        return self._metadata(token), token

    def _metadata(self, token: str) -> metadata.Metadata:
        with ExitStack() as stack:
            exchange, response = self._get(self._url("images", self._image.tag), Asked().headers(), token, stack)
            data = _bounded(self._stream(exchange, response, _judged(exchange, response, Asked()), stack))
        said = metadata.read(data, self.name)
        if said.arch and said.arch != self._arch:
            there = ascii(said.arch[:40])[1:-1]
            raise NotFound(f"{self._image} is there for {there} only", hint="choose that with --platform")
        if not said.uploaded:
            raise NotFound(f"{self._image} has not been uploaded to the end", hint="upload it again")
        return said

    def _file(self, tag: str, said: metadata.Metadata, asked: Asked, token: str) -> HttpStream:
        with ExitStack() as stack:
            exchange, response = self._get(self._url("imagefile", tag), asked.headers(), token, stack)
            delivery = _judged(exchange, response, asked)
            if delivery is _WHOLE:
                return self._file(tag, said, asked.anew(), token)
            if said.size is not None and delivery.size not in (None, said.size):
                raise OriginUnavailable(f"{self.name} says {said.size} bytes, and sends {delivery.size}")
            parts = response.status_code != 200 or response.headers.get("Accept-Ranges", "").strip().lower() == "bytes"
            sure = parts and tag == said.hash and not delivery.gzipped
            ours = replace(delivery, validators=said.version, size=delivery.size or said.size, ranges=sure)
            return self._stream(exchange, response, ours, stack)

    def _stream(self, exchange: Exchange, response: Response, delivery: Delivery, stack: ExitStack) -> HttpStream:
        return HttpStream(response, delivery, self._http, private=exchange.private, ending=stack.pop_all())

    def _get(self, url: str, headers: dict[str, str], token: str, stack: ExitStack) -> tuple[Exchange, Response]:
        exchange = Exchange(url, self._http, stack, Authorization(f"Bearer {token}" if token else ""))
        response = exchange.get(headers)
        if response.status_code >= 300 and response.status_code != 416:
            raise self._refusal(exchange, response, token, stack)
        return exchange, response

    def _url(self, what: str, tag: str) -> str:
        return f"{self._base}/v1/{what}/{self._image.path}:{tag}?arch={quote(self._arch)}"

    def _refusal(self, exchange: Exchange, response: Response, token: str, stack: ExitStack) -> StageImageError:
        error = refusal(exchange.url, response.status_code, response.headers, time.time())
        if not exchange.at_home:
            return error
        body = self._stream(exchange, response, Delivery(0, None, None, Validators()), stack)
        words = _reason(body)
        if isinstance(error, NotFound):
            return NotFound(f"{self.name} has no {self._image} for {self._arch}{words}")
        if isinstance(error, AccessDenied):
            who = "the token of remote.yaml" if token else "anonymous users"
            return AccessDenied(f"{self.name} does not give {self._image} to {who}{words}", hint=_LOGIN)
        error.message += words
        error.args = (error.message,)
        return error


class _Nothing:
    """The stream of somebody who has everything."""

    ranges = True

    def __init__(self, version: Validators, *, private: bool) -> None:
        self.offset = version.size or 0
        self.size = version.size
        self.validators = version
        self.private = private

    def chunks(self) -> Iterator[bytes]:
        return iter(())

    def close(self) -> None:
        """Nothing is open."""


def _base(host: str, library: str) -> str:
    """Return the URL of the library at `host`, or of the one that is set."""
    base = library.rstrip("/")
    if not host or host == urlsplit(base).netloc.lower():
        return base
    # As Docker does: nobody has a certificate for these.
    plain = is_here(urlsplit(f"//{host}").hostname or "")
    return f"{'http' if plain else 'https'}://{host}"


def _judged(exchange: Exchange, response: Response, asked: Asked) -> Delivery:
    """Return what an answer holds; `_WHOLE` if everything is to be asked for instead."""
    try:
        outcome = judge(asked, response.status_code, response.headers)
    except OriginUnavailable as error:
        raise final(f"{location_of(exchange.url)} {error.message}", error.hint) from None
    # Nothing that is asked here can be answered by "unchanged".
    return outcome if isinstance(outcome, Delivery) else _WHOLE


def _bounded(stream: HttpStream) -> bytes:
    """Return a body, or as much of it as any document may have."""
    found = b""
    try:
        for piece in stream.chunks():
            found += piece
            if len(found) > metadata.LONGEST:
                break
    finally:
        stream.close()
    return found


def _reason(stream: HttpStream) -> str:
    try:
        words = metadata.reason(_bounded(stream))
    except OriginUnavailable:
        words = ""
    return f": {words}" if words else ""
