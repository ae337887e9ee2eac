"""One server that has a repository: the registry itself or a mirror of it."""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from stager.errors import ConfigError, StageImageError
from stager.sources.failures import host_of
from stager.sources.registry import credentials
from stager.sources.registry.gate import Gate
from stager.sources.registry.question import Question
from stager.sources.registry.refusals import BLOB, Asker
from stager.sources.registry.tokens import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import Response

    from stager.image_names import ImageName
    from stager.sources.registry.auth_files import Credential
    from stager.sources.registry.challenges import Challenge
    from stager.sources.registry.settings import RegistrySettings
    from stager.sources.registry.tokens import Token

PROBE_TIMEOUT = 5.0
"""Seconds in which something on this very machine says whether it speaks TLS."""

_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


class Server:
    """`name`: host and port, for people. Used by several threads at once."""

    def __init__(
        self, base: str, name: ImageName, settings: RegistrySettings, find: Callable[[], Credential | None]
    ) -> None:
        """Take the URL below which `<repository>/manifests/…` is; one without a scheme is to be found out."""
        self.name = host_of(base if "://" in base else f"https://{base}")
        self._base = base
        self._image = name
        self._settings = settings
        self._lock = Lock()
        self._gate = Gate(find, self._fetch)
        self._looked = self._public = False

    @property
    def private(self) -> bool:
        """Whether credentials were sent, and the repository is not known to be there for everybody."""
        return self._gate.credential is not None and not self._public

    def look(self, path: str, headers: dict[str, str]) -> None:
        """Find out, if credentials were sent, whether they were needed: ask by HEAD, once, as nobody.

        Whoever is logged in, for a higher limit of pulls perhaps, sends credentials for what is everybody's, and what
        is private is not passed on to other nodes: each would ask the registry.
        """
        if self._gate.credential is None or self._looked:
            return
        self._looked = True
        stranger = Server(self._url(), self._image, self._settings, lambda: None)
        with suppress(StageImageError), ExitStack() as stack:
            stranger.ask("HEAD", path, headers, stack)
            self._public = True

    def ask(self, method: str, path: str, headers: dict[str, str], stack: ExitStack) -> tuple[Question, Response]:
        """Ask for what is at `path` in the repository; the answer has a status below 400, or 416."""
        url = f"{self._url()}/{self._image.repository}/{path}"
        question, response, sent = self._ask(url, method, headers, stack)
        # At home: a host that we were redirected to has nothing to ask of us.
        if response.status_code == 401 and question.at_home:
            demand = response.headers.get("WWW-Authenticate", "")
            if self._gate.open(demand, sent):
                response.close()
                question, response, _ = self._ask(url, method, headers, stack)
        if response.status_code >= 400 and response.status_code != 416:
            raise question.error(response, self.asker(path))
        return question, response

    def _ask(self, url: str, method: str, headers: dict[str, str], stack: ExitStack) -> tuple[Question, Response, str]:
        sent = self._gate.header()
        question = Question(url, self._settings, stack, sent)
        return question, question.get(headers, method), sent

    def asker(self, path: str) -> Asker:
        """Return who we are here, asking for `path`."""
        credential = self._gate.credential
        kind, _, target = path.partition("/")
        subject = f"{self._image.repository}{'@' if ':' in target else ':'}{target}"
        if kind == "blobs":
            subject = f"{BLOB}{target} of {self._image.repository}"
        return Asker(self.name, subject, credential.user if credential else "", credential.found if credential else "")

    def _fetch(self, challenge: Challenge, credential: Credential | None) -> Token:
        wanted = Wanted(self.name, self._image.repository, self._url().startswith("http:"))
        return wanted.fetch(challenge, credential, self._settings)

    def _url(self) -> str:
        with self._lock:
            if "://" not in self._base:
                host = urlsplit(f"https://{self._base}").netloc
                plain = is_loopback(host) and not speaks_tls(host, PROBE_TIMEOUT)
                self._base = f"{'http' if plain else 'https'}://{self._base}"
            return self._base


def origin(name: ImageName, settings: RegistrySettings) -> Server:
    """Return the server that the name itself names."""
    scheme = "http://" if settings.plain_http else ""
    find = lambda: credentials.find(name.host, name.repository, settings.environ, name.user)  # noqa: E731
    return Server(f"{scheme}{name.server}/v2", name, settings, find)


def mirror(url: str, name: ImageName, settings: RegistrySettings) -> Server:
    """Return a mirror. Raises ConfigError for a URL that cannot be one."""
    base = url.rstrip("/")
    parts = _split(base, name.host)
    if not f"{parts.path}/".startswith("/v2/"):
        base += "/v2"
    place = "/".join([*parts.path.removeprefix("/v2").strip("/").split("/"), name.repository]).lstrip("/")
    find = lambda: credentials.find_for_mirror(parts.netloc, place, settings.environ)  # noqa: E731
    return Server(base, name, settings, find)


def _split(base: str, host: str) -> SplitResult:
    try:
        parts = urlsplit(base if "://" in base else f"https://{base}")
        sound = parts.hostname and parts.scheme in ("http", "https") and parts.port != 0 and "@" not in parts.netloc
        if not sound or parts.query or parts.fragment or not _PATH.fullmatch(parts.path):
            raise ValueError
    except ValueError:
        # Not shown: whoever writes user:password@ into it would read it in logs.
        raise ConfigError(
            f"a mirror of {host} is no URL", hint="write https://host or https://host:port/path"
        ) from None
    return parts


def is_loopback(host: str) -> bool:
    """Whether a host, with a port perhaps, is this very machine."""
    name = urlsplit(f"https://{host}").hostname or ""
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def speaks_tls(host: str, timeout: float) -> bool:
    """Whether whatever listens at a host answers in TLS; no certificate is believed, and nothing sent, here."""
    parts = urlsplit(f"https://{host}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 443), timeout) as connection:
            context.wrap_socket(connection, server_hostname=parts.hostname).close()
    except ssl.SSLError as error:
        # A server that wants a certificate of ours, or another version, says so in TLS.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    return True
