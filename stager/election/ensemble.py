"""Which ZooKeeper, and as whom; and what may come of asking it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from stager.election.credentials import Credentials
from stager.errors import ClusterUnavailable, ConfigError


class Absent(Exception):
    """The znode, or its parent, is not there."""


class Present(Exception):
    """The znode, or a child of it, is there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """How to reach the servers. `hosts` is `host:port,host:port…/path`; times are in seconds.

    `session_timeout` is what we ask for: the server has limits of its own, 2 and 20 of its ticks. Every question is
    answered or given up within the same time. With `ca_file` the connection is TLS: the server's certificate must be
    from there and for the name in `hosts`.
    """

    hosts: str
    session_timeout: float = 6.0
    connect_timeout: float = 5.0
    credentials: Credentials | None = None
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""

    def tls(self) -> ssl.SSLContext | None:
        """Return what TLS needs, None without it. Raises ConfigError."""
        if not self.ca_file:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(self.ca_file)
        except OSError as error:
            raise ConfigError(f"the certificates to trust for ZooKeeper, {self.ca_file}: {_reason(error)}") from error
        if self.certificate_file:
            self._show(context)
        return context

    def _show(self, context: ssl.SSLContext) -> None:
        try:
            # An empty password: OpenSSL would ask for that of an encrypted key on the terminal.
            context.load_cert_chain(self.certificate_file, self.key_file or None, password="")
        except OSError as error:
            raise ConfigError(
                f"our certificate for ZooKeeper, {self.certificate_file} with key "
                f"{self.key_file or self.certificate_file}: {_reason(error)}"
            ) from error

    def unavailable(self, what: str, cause: str, hint: str = "") -> ClusterUnavailable:
        """Return the error that says that `what` failed at these servers; with a `hint`, it does not pass by itself."""
        error = ClusterUnavailable(f"ZooKeeper at {self.hosts}: {what}: {cause}", hint=hint)
        error.retryable = not hint
        return error


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
