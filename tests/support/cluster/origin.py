"""The origin: nginx on a host of its own."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from tests.support.nginx import NGINX
from tests.support.tasks import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.cluster.hosts import Host, Process

_CONFIG = """\
daemon off;
user root;
worker_processes 1;
pid {base}/nginx.pid;
error_log {base}/error.log;
events {{ worker_connections 1024; }}
http {{
  log_format told '$remote_addr $request_method $uri $status $body_bytes_sent "$http_range"';
  access_log {base}/access.log told;
  client_body_temp_path {base}/body; proxy_temp_path {base}/proxy; fastcgi_temp_path {base}/fastcgi;
  uwsgi_temp_path {base}/uwsgi; scgi_temp_path {base}/scgi;
  sendfile on;
  server {{ listen {address}:80; root {base}/www; default_type application/octet-stream; }}
}}
"""
_LINE = re.compile(r'(\S+) (\S+) (\S+) (\d+) (\d+) "(.*)"')
_EPOCH = 1_700_000_000
"""Files get times of their own: nginx makes its ETag of size and seconds, and tests replace files within one."""


class Served(NamedTuple):
    """A line of the access log: `size` is the number of body bytes, `range` the header as asked."""

    client: str
    method: str
    path: str
    status: int
    size: int
    range: str


class Origin:
    """Serves the files that are put there."""

    def __init__(self, host: Host, address: str) -> None:
        self.host = host
        self._address = address
        self._changes = 0
        self._process: Process | None = None
        (host.folder / "www").mkdir()
        text = _CONFIG.format(base=host.folder, address=address)
        (host.folder / "nginx.conf").write_text(text, encoding="utf-8")

    def start(self) -> None:
        """Start it, again if need be, and return when it answers."""
        base = str(self.host.folder)
        command = (NGINX, "-p", base, "-c", f"{base}/nginx.conf", "-e", f"{base}/error.log")
        self._process = self.host.start(*command)
        until(lambda: 80 in self.host.listening() or self._ended(), "nginx to listen")

    def stop(self) -> None:
        """Kill it: connections are reset, new ones refused. What it was sending is not in its log then."""
        self.host.kill()

    def put(self, name: str, content: bytes) -> str:
        """Put a file there, or another in its place; return its URL."""
        self._changes += 1
        path = self.host.folder / "www" / name
        aside = path.with_suffix(".new")
        aside.write_bytes(content)
        os.utime(aside, (_EPOCH + self._changes,) * 2)
        aside.replace(path)
        return self.url(name)

    def link(self, name: str, file: Path) -> str:
        """Serve a file from where it lies; return its URL."""
        (self.host.folder / "www" / name).symlink_to(file)
        return self.url(name)

    def url(self, name: str) -> str:
        return f"http://{self._address}/{name}"

    @property
    def clients(self) -> set[str]:
        """Addresses of who is connected now."""
        return {address for address, _ in self.host.peers().get(80, [])}

    @property
    def requests(self) -> list[Served]:
        """What was served so far; a request is written down when it has ended."""
        log = self.host.folder / "access.log"
        lines = log.read_text("utf-8").splitlines() if log.exists() else []
        found = [_LINE.fullmatch(line) for line in lines]
        return [Served(m[1], m[2], m[3], int(m[4]), int(m[5]), m[6].removeprefix("-")) for m in found if m]

    @property
    def bytes_served(self) -> int:
        """Bytes of all bodies, of the requests that have ended."""
        return sum(request.size for request in self.requests)

    def _ended(self) -> bool:
        assert self._process
        if not self._process.running:
            raise RuntimeError(f"nginx did not come up: {self._process.err}")
        return False
