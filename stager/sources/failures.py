"""What goes wrong with HTTP, in words: which of our errors, and why, never with a URL's query or credentials in it."""

from __future__ import annotations

import re
import socket
import ssl
from http.client import HTTPException, IncompleteRead, RemoteDisconnected, responses
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from stager.errors import AccessDenied, ConfigError, NotFound, OriginStalled, OriginUnavailable, StageImageError
from stager.sources.headers import retry_after

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stager.sources.settings import HttpSettings

PASSING = frozenset({408, 425, 429})
"""Client errors that may go away by themselves: timeout, too early, too many requests."""

_INTERRUPTED = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""TLS failures that are the network's."""

_TUNNEL = re.compile(r"Tunnel connection failed: ([0-9]{3})")
_PROXY_HINT = "check http_proxy, https_proxy and no_proxy in the environment"
_HTTPS_HINT = "check whether that port serves https; for a registry without, there is the plain_http setting"
_TLS_HINT = "if the site has a certificate authority of its own, name its file in the ca_file setting"


def host_of(url: str) -> str:
    """Return host and port as written in a URL, for people."""
    return _printable(urlsplit(url).netloc.rpartition("@")[2])


def location_of(url: str) -> str:
    """Return a URL for people: what follows `?` may be a signature that is as good as a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{host_of(url)}{_printable(parts.path)}"


def _printable(text: str) -> str:
    quoted = ascii(text)[1:-1]
    return quoted if len(quoted) <= 200 else f"{quoted[:197]}..."


def refusal(url: str, status: int, headers: Mapping[str, str], now: float) -> StageImageError:
    """Return the error that an HTTP status means; `now` as for headers.retry_after."""
    message = f"{location_of(url)} answered {status} {responses.get(status, '')}".rstrip()
    if status in (404, 410):
        return NotFound(message)
    if status in (401, 403, 407):
        return AccessDenied(message)
    error = OriginUnavailable(message, retry_after=retry_after(headers, now))
    error.retryable = status >= 500 or status in PASSING
    return error


def final(message: str, hint: str = "") -> OriginUnavailable:
    """Return an error that trying again would not help."""
    error = OriginUnavailable(message, hint=hint)
    error.retryable = False
    return error


def no_answer(url: str, error: Exception, settings: HttpSettings) -> StageImageError:
    """Return our error for one that ended a request before its answer."""
    host, causes = host_of(url), list(_causes(error))
    if isinstance(error, requests.ConnectTimeout):
        return OriginUnavailable(f"{host} did not accept a connection within {settings.connect_timeout:g} s")
    if isinstance(error, requests.ReadTimeout):
        return OriginStalled(f"{host} did not answer within {settings.stall_timeout:g} s")
    if isinstance(error, requests.exceptions.ProxyError):
        return _proxy_failure(host, causes)
    return _hopeless(host, error, causes) or OriginUnavailable(f"cannot reach {host}: {_reason(causes)}")


def _hopeless(host: str, error: Exception, causes: list[BaseException]) -> StageImageError | None:
    """Return our error if trying again would not help, or None."""
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return final(f"cannot trust {host}: {_reason(causes)}", _TLS_HINT)
    if any(isinstance(cause, ssl.SSLError) and not isinstance(cause, _INTERRUPTED) for cause in causes):
        return final(f"cannot talk to {host}: {_reason(causes)}", _HTTPS_HINT)
    if isinstance(error, ValueError):
        return final(f"{host} has an address or sends headers that are not valid ({type(error).__name__})")
    if not isinstance(error, (requests.RequestException, HTTPError)):
        # requests' own check of the file that REQUESTS_CA_BUNDLE names: a bare OSError, without an errno.
        return ConfigError(f"cannot prepare a request to {host}: {error}")
    return None


def broken_off(name: str, position: int, error: Exception, settings: HttpSettings) -> StageImageError:
    """Return our error for one that ended a body at byte `position` of the image."""
    if isinstance(error, ReadTimeoutError):
        return OriginStalled(f"{name} sent nothing for {settings.stall_timeout:g} s, at byte {position}")
    return OriginUnavailable(f"{name} broke off at byte {position}: {_reason(list(_causes(error)))}")


def _proxy_failure(host: str, causes: list[BaseException]) -> StageImageError:
    refused = next((match for cause in causes if (match := _TUNNEL.search(str(cause)))), None)
    if refused and refused[1] in ("401", "403", "407"):
        return AccessDenied(f"the proxy refuses to connect to {host} ({refused[1]})", hint=_PROXY_HINT)
    reason = f"it answered {refused[1]}" if refused else _reason(causes)
    return OriginUnavailable(f"cannot reach {host} through the proxy: {reason}", hint=_PROXY_HINT)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what is wrapped inside it, outermost first, however requests and urllib3 wrapped it."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting and len(seen) < 20:
        current = waiting.pop(0)
        if any(current is known for known in seen):
            continue
        seen.append(current)
        yield current
        inner = [getattr(current, "reason", None), *current.args, current.__cause__, current.__context__]
        waiting += [cause for cause in inner if isinstance(cause, BaseException)]


def _reason(causes: list[BaseException]) -> str:
    """Return the most telling reason among `causes`. Their own texts are avoided: they hold whole URLs."""
    for cause in reversed(causes):
        if reason := _reason_of(cause):
            return reason
    return type(causes[-1]).__name__


def _reason_of(cause: BaseException) -> str:
    reason = ""
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = _printable(cause.verify_message)
    elif isinstance(cause, ssl.SSLError):
        reason = f"TLS failed ({_printable(cause.reason or type(cause).__name__)})"
    elif isinstance(cause, RemoteDisconnected):
        reason = "it closed the connection without an answer"
    elif isinstance(cause, IncompleteRead):
        reason = "it closed the connection too early"
    elif isinstance(cause, HTTPException):
        reason = "its answer is not valid HTTP"
    elif isinstance(cause, socket.gaierror):
        reason = f"its name cannot be resolved ({cause.strerror})"
    elif isinstance(cause, OSError) and cause.errno and cause.strerror:
        reason = cause.strerror
    return reason
