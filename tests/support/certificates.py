"""A certificate authority of the moment, for loopback servers."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path


class Certificate(NamedTuple):
    """A certificate that vouches for itself: `file` (PEM) is for clients to trust, `server` for a server to show."""

    file: str
    server: ssl.SSLContext


def self_signed(folder: Path, name: str = "IP:127.0.0.1", days: int = 2) -> Certificate:
    """Make a certificate in `folder` for `name` (as in subjectAltName); a negative number of days makes it expired."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=test", "-addext", f"subjectAltName={name}"]
    files = ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run([*command, *names, *files, "-days", str(days)], check=True, capture_output=True, timeout=20)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return Certificate(str(certificate), context)
