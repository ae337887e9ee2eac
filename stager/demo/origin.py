"""A loopback origin that serves one file at a limited rate and counts who asks for it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SLICE = 256 << 10


class Origin(ThreadingHTTPServer):
    """Serves `path` as /image.sqsh with `rate` bytes a second; `requests` are the request lines, in order."""

    daemon_threads = True

    def __init__(self, path: str, rate: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        with open(path, "rb") as file:
            self.content = file.read()
        self.rate = rate
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/image.sqsh"


class _Handler(BaseHTTPRequestHandler):
    server: Origin

    def do_GET(self) -> None:
        self.server.requests.append(self.requestline)
        content = self.server.content
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"demo"')
        self.end_headers()
        begun = time.monotonic()
        for at in range(0, len(content), SLICE):
            self.wfile.write(content[at : at + SLICE])
            time.sleep(max(0.0, begun + at / self.server.rate - time.monotonic()))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        return


@contextmanager
def running(path: str, rate: float) -> Iterator[Origin]:
    """Serve for the time of the context."""
    with Origin(path, rate) as origin:
        thread = threading.Thread(target=origin.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield origin
        finally:
            origin.shutdown()
            thread.join()
