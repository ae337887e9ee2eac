"""Images from HTTP and HTTPS origins."""

from __future__ import annotations

import ssl
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urldefrag, urljoin, urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError

from stager.errors import ConfigError, OriginUnavailable
from stager.sources.answers import Asked, Outcome, judge
from stager.sources.failures import final, host_of, location_of, no_answer, refusal
from stager.sources.http_stream import HttpStream
from stager.sources.settings import HttpSettings
from stager.sources.token import read_token

if TYPE_CHECKING:
    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter

    from stager.interfaces import Validators

__all__ = ["HttpSettings", "HttpSource", "HttpStream"]

MAX_REDIRECTS = 10


class HttpSource:
    """One URL. Holds no connection, so that several threads may `open` it at a time.

    Credentials come from ~/.netrc by host, or from settings.token_file for this URL's own origin; proxies and
    REQUESTS_CA_BUNDLE from the environment.
    """

    def __init__(self, url: str, *, settings: HttpSettings) -> None:
        self._url = url
        self._settings = settings
        self.name = host_of(url)

    def open(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        if_range: Validators | None = None,
        unless: Validators | None = None,
    ) -> HttpStream | None:
        """As Source.open; also raises ConfigError for an unusable token_file or ca_file."""
        asked = Asked(start, end, if_range, unless)
        stream = self._ask(asked)
        if stream is Outcome.START_OVER:
            # Its second question names no range, so it cannot end here again.
            stream = self._ask(asked.anew())
        return stream if isinstance(stream, HttpStream) else None

    def _ask(self, asked: Asked) -> HttpStream | Outcome:
        with ExitStack() as stack:
            exchange = Exchange(self._url, self._settings, stack)
            response = exchange.get(asked.headers())
            if response.status_code >= 300 and response.status_code not in (304, 416):
                raise refusal(exchange.url, response.status_code, response.headers, time.time())
            try:
                delivery = judge(asked, response.status_code, response.headers)
            except OriginUnavailable as error:
                raise final(f"{location_of(exchange.url)} {error.message}", error.hint) from None
            if isinstance(delivery, Outcome):
                return delivery
            return HttpStream(response, delivery, self._settings, private=exchange.private, ending=stack.pop_all())


class _Session(requests.Session):
    """Leaves redirects to us: requests would keep credentials from http to https, and follow from https to http."""

    def get_redirect_target(self, resp: Response) -> None:
        # Even without following, requests 2.34 reads the whole body of a redirect, however long, and loses the
        # connection if its Location is no URL.
        return


class Exchange:
    """A question and the redirects on the way to its answer.

    `credentials` go where the question goes first, and to no other host that it is redirected to; without them,
    settings.token_file and ~/.netrc count.
    """

    def __init__(
        self, url: str, settings: HttpSettings, stack: ExitStack, credentials: Authorization | None = None
    ) -> None:
        self.url = url
        self.private = False
        self._settings = settings
        self._stack = stack
        self._session = stack.enter_context(_Session())
        self._session.headers["User-Agent"] = settings.user_agent
        self._own = _origin(url)
        self._elsewhere = None if credentials is None else Authorization("")
        if credentials is None and settings.token_file:
            credentials = Authorization(f"Bearer {read_token(settings.token_file)}")
        self._credentials = credentials
        if settings.ca_file:
            _check_authorities(settings.ca_file)

    @property
    def at_home(self) -> bool:
        """Whether it is still, or again, where credentials may go."""
        return _origin(self.url) == self._own

    def trust(self, folder: str, adapter: HTTPAdapter) -> None:
        """Let `adapter` open the connections for what lies below the URL `folder`."""
        self._session.mount(folder, adapter)

    def get(self, headers: dict[str, str], method: str = "GET") -> Response:
        """Ask, and follow redirects, for at most the answer's headers."""
        for _ in range(MAX_REDIRECTS + 1):
            try:
                response = self._ask_here(method, headers)
            except (OSError, HTTPError, ValueError) as error:
                raise no_answer(self.url, error, self._settings) from error
            if not response.is_redirect:
                return response
            response.close()
            self.url = self._followed(response.headers["Location"])
        raise final(f"{host_of(self.url)} redirects more than {MAX_REDIRECTS} times")

    def post(self, form: dict[str, str]) -> Response:
        """Send a form, to this place and to no other: it may hold a secret."""
        try:
            return self._ask_here("POST", {"Accept-Encoding": "identity"}, form)
        except (OSError, HTTPError, ValueError) as error:
            raise no_answer(self.url, error, self._settings) from error

    def _ask_here(self, method: str, headers: dict[str, str], form: dict[str, str] | None = None) -> Response:
        response = self._session.request(
            method,
            self.url,
            headers=headers,
            data=form,
            auth=self._credentials if self.at_home else self._elsewhere,
            timeout=(self._settings.connect_timeout, self._settings.stall_timeout),
            verify=self._settings.ca_file or True,
            stream=True,
            allow_redirects=False,
        )
        self._stack.callback(response.close)
        self.private |= "Authorization" in response.request.headers
        return response

    def _followed(self, target: str) -> str:
        try:
            # http.client reads headers as Latin-1; those that are not ASCII are UTF-8 in practice.
            url = urldefrag(urljoin(self.url, target.encode("latin-1").decode())).url
            there = _origin(url)
        except ValueError:
            raise final(f"{location_of(self.url)} redirects to something that is no URL") from None
        if there[0] not in ("http", "https"):
            raise final(f"{location_of(self.url)} redirects to a {there[0][:20]!a} URL")
        if there[0] == "http" and self.url.startswith("https:"):
            raise final(
                f"{location_of(self.url)} redirects from https to http, to {host_of(url)}",
                "anybody on the way could exchange the image; if http is meant, ask for that URL, with a @sha256 pin",
            )
        return url


def _check_authorities(path: str) -> None:
    # Before the request: in the middle of it, a bad file looks like a TLS failure at the origin.
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(f"the ca_file {path} holds no PEM certificate") from error
    except OSError as error:
        raise ConfigError(f"the ca_file {path} cannot be read: {error.strerror}") from error


class Authorization(AuthBase):
    """Sends the header of that name, or, of an empty value, none.

    As `auth` of a request it also keeps requests from looking into ~/.netrc for that request.
    """

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        if self._value:
            request.headers["Authorization"] = self._value
        return request


def _origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port: what must be the same for credentials to be sent (RFC 6454). Raises ValueError."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname or "", port
