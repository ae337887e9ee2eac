"""A service that issues tokens for a docker-registry (distribution's "Token Authentication Specification").

RS256 JSON web tokens (RFC 7519) with the signer's certificate in x5c; openssl does the arithmetic.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence
    from pathlib import Path

ISSUER, SERVICE = "test-issuer", "test-registry"


@dataclass
class Asked:
    """What came in: `fields` of the query or the form, `user` of basic authentication."""

    method: str
    fields: dict[str, str]
    user: str = ""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class TokenService:
    """The service, as a context manager. `asked` is the record.

    `public`: repositories that anybody may pull from. `lifetime`: seconds that tokens are good for. `refresh`: refresh
    tokens to the user they stand for.
    """

    def __init__(
        self,
        folder: Path,
        users: dict[str, str],
        *,
        public: Sequence[str] = (),
        lifetime: int = 300,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.folder = folder
        self.users = users
        self.public = set(public)
        self.lifetime = lifetime
        self.refresh: dict[str, str] = {}
        self.asked: list[Asked] = []
        self._tls = tls
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def pusher(self) -> tuple[str, str]:
        return next(iter(self.users.items()))

    @property
    def realm(self) -> str:
        assert self._server
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._server.server_port}/token"

    def registry_config(self) -> dict[str, str]:
        """Return what the registry has to know."""
        bundle = f"{self.folder}/token.pem"
        return {"realm": self.realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": bundle}

    def issue(self, repository: str, actions: Sequence[str], lifetime: int | None = None) -> str:
        """Return a token."""
        now = int(time.time())
        access = [{"type": "repository", "name": repository, "actions": list(actions)}] if actions else []
        claims = {
            "iss": ISSUER,
            "aud": SERVICE,
            "sub": "",
            "jti": str(now),
            "access": access,
            "iat": now - 60,
            "nbf": now - 60,
            "exp": now + (self.lifetime if lifetime is None else lifetime),
        }
        head = {"typ": "JWT", "alg": "RS256", "x5c": [self._certificate()]}
        signed = b".".join(_url64(json.dumps(part).encode()) for part in (head, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", f"{self.folder}/token.key"]
        signature = subprocess.run(command, input=signed, check=True, capture_output=True, timeout=20).stdout
        return b".".join((signed, _url64(signature))).decode()

    def answer(self, asked: Asked, password: str) -> tuple[int, dict[str, Any]]:
        """Return status and content for a question."""
        if asked.fields.get("grant_type") == "refresh_token":
            asked.user = self.refresh.get(asked.fields.get("refresh_token", ""), "")
            if not asked.user:
                return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "unknown refresh token"}]}
        elif asked.user and self.users.get(asked.user) != password:
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
        repository = asked.fields.get("scope", "").partition(":")[2].rpartition(":")[0]
        actions = ["pull"] if asked.user or repository in self.public else []
        key = "access_token" if asked.method == "POST" else "token"
        return 200, {key: self.issue(repository, actions), "expires_in": self.lifetime}

    def __enter__(self) -> Self:
        names = ["-subj", "/CN=tokens", "-days", "2"]
        files = ["-out", f"{self.folder}/token.pem", "-keyout", f"{self.folder}/token.key"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, *files]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _answering(self))
        if self._tls:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server and self._thread:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def _certificate(self) -> str:
        text = (self.folder / "token.pem").read_text()
        return "".join(line for line in text.splitlines() if not line.startswith("-"))


def _answering(service: TokenService) -> type[BaseHTTPRequestHandler]:
    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply("GET", urlsplit(self.path).query)

        def do_POST(self) -> None:
            self._reply("POST", self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode())

        def _reply(self, method: str, text: str) -> None:
            fields = {key: values[0] for key, values in parse_qs(text).items()}
            kind, _, encoded = self.headers.get("Authorization", "").partition(" ")
            login = base64.b64decode(encoded).decode() if kind == "Basic" else ":"
            user, _, password = login.partition(":")
            asked = Asked(method, fields, user, headers={k.lower(): v for k, v in self.headers.items()})
            asked.status, content = service.answer(asked, password)
            service.asked.append(asked)
            data = json.dumps(content).encode()
            self.send_response(asked.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            """Be silent."""

    return Answering


def _url64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
