"""A Singularity library on loopback, with a store of its own that hands files out by signed URLs.

Written after the API as scs-library-client speaks it (client/pull.go, models.go, response.go): images by tag or hash
and architecture, answers and refusals in JSON, bearer tokens, and a redirect (303) to a store that, like S3 with a
signature in the query, refuses requests with an Authorization header.
"""

from __future__ import annotations

import json
import secrets
import threading
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.origin import Fault, Origin, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass
class Asked:
    """A request that came in: `path` without its query, `fields` of the query."""

    path: str
    fields: Mapping[str, str]
    headers: Mapping[str, str]
    status: int = 0


@dataclass
class Image:
    """One image: `hash` as the library says it."""

    content: bytes
    arch: str = "amd64"
    private: bool = False
    uploaded: bool = True
    hash: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hash = self.hash or f"sha256.{sha256(self.content).hexdigest()}"


class Library:
    """The service, as a context manager. `asked` is the record; `store` the Origin behind it.

    `by_hash`: whether files are found by hash, as in the library of Sylabs. `redirects`: whether the store sends them,
    or the service itself. `moved`: called between the answer about an image and the one with its file. `refusals`: the
    next answers, as status and headers. `faults`: of the store, as in Origin.put.
    """

    def __init__(self, token: str = "", *, by_hash: bool = True, redirects: bool = True) -> None:
        self.token = token
        self.by_hash = by_hash
        self.redirects = redirects
        self.asked: list[Asked] = []
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.moved: Callable[[], object] = lambda: None
        self.faults: tuple[Fault, ...] = ()
        self.store = Origin()
        self.store.hook = self._refuse_authorization
        self._tags: dict[tuple[str, str, str], Image] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def put(self, path: str, tag: str, image: Image) -> Image:
        """Make a tag mean an image, for its architecture."""
        self._tags[path, tag, image.arch] = image
        return image

    def seen(self, kind: str) -> list[Asked]:
        """Return the requests for `images` or `imagefile`."""
        return [one for one in self.asked if one.path.startswith(f"/v1/{kind}/")]

    def __enter__(self) -> Self:
        self.store.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.store.__exit__(None, None, None)

    def answer(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        if self.refusals:
            status, headers = self.refusals.pop(0)
            return _refusal(status, "not now", **headers)
        _, version, kind, *rest = asked.path.split("/")
        path, _, tag = "/".join(rest).partition(":")
        if version != "v1" or kind not in ("images", "imagefile"):
            return _refusal(404, "no such route")
        image = self._found(path, tag or "latest", asked.fields.get("arch", "amd64"), by_hash=kind == "images")
        if image is None:
            return _refusal(404, "image not found")
        sent = asked.headers.get("Authorization", "")
        if (sent or image.private) and sent != f"Bearer {self.token}":
            return _refusal(401, "the token is not valid" if sent else "authentication required")
        if kind == "imagefile":
            return self._file(image)
        self.moved()
        return _described(image)

    def _found(self, path: str, tag: str, arch: str, *, by_hash: bool) -> Image | None:
        if path.count("/") == 0:
            path = f"library/default/{path}"
        if tag.startswith("sha256.") and (by_hash or self.by_hash):
            held = (image for (where, _, _), image in self._tags.items() if where == path and image.hash == tag)
            return next(held, None)
        return self._tags.get((path, tag, arch))

    def _file(self, image: Image) -> tuple[int, dict[str, str], bytes]:
        if not self.redirects:
            return 200, {"Content-Type": "application/octet-stream"}, image.content
        url = self.store.put(f"/bucket/{image.hash}?signature={secrets.token_hex(8)}", image.content, *self.faults)
        return 303, {"Location": url}, b""

    def _refuse_authorization(self, request: Request) -> Fault | None:
        return Fault(status=400) if "authorization" in request.headers else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        library = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                fields = {key: values[-1] for key, values in parse_qs(parts.query).items()}
                asked = Asked(parts.path, fields, dict(self.headers.items()))
                asked.status, headers, body = library.answer(asked)
                library.asked.append(asked)
                self.send_response(asked.status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        return Handler


def _described(image: Image) -> tuple[int, dict[str, str], bytes]:
    described = {
        "id": "5f0000000000000000000000",
        "hash": image.hash,
        "size": len(image.content),
        "uploaded": image.uploaded,
        "arch": image.arch,
        "signed": False,
        "customData": "",
        **image.extra,
    }
    return 200, {"Content-Type": "application/json"}, json.dumps({"data": described}).encode()


def _refusal(status: int, message: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    body = json.dumps({"error": {"code": status, "message": message}}).encode()
    return status, {"Content-Type": "application/json", **headers}, body
