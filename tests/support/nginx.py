"""A real nginx on a loopback port, for what only a real server does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import Self

from tests.support.listening import free_port, wait_until_up

NGINX = "/usr/sbin/nginx"

_CONFIG = """\
daemon off;
{user}
worker_processes 1;
pid {base}/nginx.pid;
error_log {base}/error.log;
events {{ worker_connections 1024; }}
http {{
  log_format told '$request_method $uri $status $body_bytes_sent "$http_range"';
  access_log {base}/access.log told;
  client_body_temp_path {base}/body; proxy_temp_path {base}/proxy; fastcgi_temp_path {base}/fastcgi;
  uwsgi_temp_path {base}/uwsgi; scgi_temp_path {base}/scgi;
  sendfile on;
  {options}
  server {{ listen {address}; root {root}; default_type application/octet-stream; {locations} }}
}}
"""
_LINE = re.compile(r'(\S+) (\S+) (\d+) (\d+) "(.*)"')


@dataclass(frozen=True)
class Access:
    """A line of the access log: `size` is the number of body bytes sent, `range` the header as asked."""

    method: str
    path: str
    status: int
    size: int
    range: str


class Nginx:
    """A server of the files below `root`, as a context manager.

    `rate`: bytes per second and connection. `ranges`: whether parts are served. `locations`: further lines for the
    server block.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, rate: int = 0, ranges: bool = True, locations: str = ""
    ) -> None:
        self.root = os.fspath(root)
        self._options = (f"limit_rate {rate};" if rate else "") + ("" if ranges else " max_ranges 0;")
        self._locations = locations
        self._base = ""
        self._process: subprocess.Popen[bytes] | None = None
        self.host = ""

    def url(self, path: str = "/") -> str:
        return f"http://{self.host}{path}"

    @property
    def log(self) -> list[Access]:
        """What was served so far; a request is written down when it has ended."""
        with open(f"{self._base}/access.log", encoding="utf-8") as file:
            found = [_LINE.fullmatch(line.rstrip("\n")) for line in file]
        return [Access(m[1], m[2], int(m[3]), int(m[4]), m[5].removeprefix("-")) for m in found if m]

    def logged(self, count: int, timeout: float = 10) -> list[Access]:
        """Return the log once it has so many lines."""
        end = time.monotonic() + timeout
        while len(self.log) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"the log has {len(self.log)} lines, {count} were expected")
            time.sleep(0.01)
        return self.log

    def __enter__(self) -> Self:
        self._base = tempfile.mkdtemp(prefix="nginx-")
        self.host = f"127.0.0.1:{free_port()}"
        config = _CONFIG.format(
            base=self._base,
            # As root, the worker would become nobody, who cannot read what tests make.
            user="user root;" if os.geteuid() == 0 else "",
            options=self._options,
            address=self.host,
            root=self.root,
            locations=self._locations,
        )
        with open(f"{self._base}/nginx.conf", "w", encoding="utf-8") as file:
            file.write(config)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        """Start again, at the same address."""
        command = [NGINX, "-p", self._base, "-c", f"{self._base}/nginx.conf", "-e", f"{self._base}/error.log"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        wait_until_up("nginx", self.host, self._process, f"{self._base}/error.log")

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(20)

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._base)
