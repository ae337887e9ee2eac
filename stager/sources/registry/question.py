"""One question to a server and the redirects on the way to its answer; short answers are read here, with a bound."""

from __future__ import annotations

import os
import ssl
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from urllib3.util.ssl_ import create_urllib3_context

from stager.errors import ConfigError, OriginStalled, OriginUnavailable, StageImageError
from stager.sources.answers import Asked, Delivery, Outcome, judge
from stager.sources.failures import final, host_of, location_of
from stager.sources.http import Authorization, Exchange
from stager.sources.http_stream import HttpStream
from stager.sources.registry.refusals import ERROR_MAX, refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from requests import Response

    from stager.sources.registry.refusals import Asker
    from stager.sources.registry.settings import RegistrySettings


PATIENCE = 5
"""Times stall_timeout, in which a short answer has to be there: others wait for a token, and drops never stall."""


class AskAgain(Exception):
    """The answer does not fit: ask for everything. Only who asks for a part meets it."""


class Question(Exchange):
    """An Exchange that trusts a registry's own certificates, for what it is asked first."""

    def __init__(self, url: str, settings: RegistrySettings, stack: ExitStack, authorization: str = "") -> None:
        super().__init__(url, settings.http, stack, Authorization(authorization))
        self._patience = settings.http
        host = urlsplit(url).netloc
        if url.startswith("https:") and (files := authorities(host, settings.certificates)):
            self.trust(f"https://{host}/", _Trusting(files))

    def error(self, response: Response, asker: Asker) -> StageImageError:
        """Return what an answer of a status from 400 on means."""
        return refused(asker, response.status_code, response.headers, self._body(response), now=time.time())

    def read(self, response: Response, limit: int, what: str) -> bytes:
        """Return the whole body of an answer. Raises OriginUnavailable if it is longer than `limit`."""
        delivery = self.delivery(response, Asked(0, limit + 1, partly=False))
        with ExitStack() as stack:
            stream = HttpStream(response, delivery, self._patience, private=False, ending=stack.pop_all())
            body = b"".join(self._in_time(stream.chunks(), what))
        if len(body) > limit:
            raise final(f"{host_of(self.url)} sends more than {limit} bytes as {what}")
        return body

    def _in_time(self, pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
        end = time.monotonic() + PATIENCE * self._patience.stall_timeout
        for piece in pieces:
            if time.monotonic() > end:
                raise OriginStalled(f"{host_of(self.url)} takes too long to send {what}")
            yield piece

    def stream(self, response: Response, delivery: Delivery, stack: ExitStack, *, private: bool) -> HttpStream:
        """Return the bytes of an answer; `stack`, which holds the connection, is emptied into it."""
        return HttpStream(response, delivery, self._patience, private=private, ending=stack.pop_all())

    def delivery(self, response: Response, asked: Asked) -> Delivery:
        """Return what the answer holds. Raises AskAgain, where a part was asked for, if that is not to be had."""
        try:
            delivery = judge(asked, response.status_code, response.headers)
        except OriginUnavailable as error:
            raise final(f"{location_of(self.url)} {error.message}", error.hint) from None
        if isinstance(delivery, Outcome):  # UNCHANGED needs a condition, of which we send none
            if "Range" in asked.headers():
                raise AskAgain
            raise final(f"{location_of(self.url)} sends something else than it was asked for")
        return delivery

    def _body(self, response: Response) -> bytes:
        if response.request.method == "HEAD":
            return b""
        stall = self._patience.stall_timeout
        end, body = time.monotonic() + stall, b""
        try:
            while len(body) < ERROR_MAX and time.monotonic() < end:
                piece = response.raw.read1(ERROR_MAX - len(body), decode_content=False)
                if not piece:
                    break
                body += piece
        except Exception:  # noqa: BLE001 # an explanation that does not arrive is none; the status counts
            return b""
        return body


class _Trusting(HTTPAdapter):
    """Trusts a registry's certificate authorities besides the usual ones."""

    def __init__(self, files: list[str]) -> None:
        self._context = create_urllib3_context()
        for path in files:
            try:
                self._context.load_verify_locations(path)
            except ssl.SSLError as error:
                raise ConfigError(f"{path} holds no PEM certificate") from error
            except OSError as error:
                raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 # the signature of requests
        super().init_poolmanager(*arguments, **options, ssl_context=self._context)

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:  # noqa: ANN401
        return super().proxy_manager_for(proxy, **options, ssl_context=self._context)


def authorities(host: str, folders: tuple[str, ...]) -> list[str]:
    """Return the files of certificates that are to be trusted for a host (containers-certs.d(5))."""
    found = []
    for folder in folders:
        try:
            names = sorted(os.listdir(f"{folder}/{host}")) if os.sep not in host else []
        except OSError:
            continue
        found += [f"{folder}/{host}/{name}" for name in names if name.endswith(".crt")]
    return found
