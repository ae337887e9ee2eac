"""Nodes of a relay in this process: files in memory, servers and upstreams on loopback, all of them gone at the end."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Self

from stager.clock import SystemClock
from stager.relay.answers import chunks_path, image_path
from stager.relay.holding import ChunkHasher, Holding
from stager.relay.link import Link
from stager.relay.secret import Guard, Secret
from stager.relay.server import Server
from stager.relay.upstream import Upstream
from stager.relay.wire import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stager.relay.wire import Answer

STAGING = "5ca1ab1e" * 4
GENERATION = 3
PATIENCE = 20.0
"""Seconds: a bound for a hanging test, not for a slow machine."""


@dataclass
class Node:
    """What one node holds, and its server; `written` is how far the test has written its file."""

    fd: int
    holding: Holding
    server: Server
    written: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.server.address

    def write(self, piece: bytes) -> None:
        """Let the file grow."""
        self.written += os.pwrite(self.fd, piece, self.written)

    def vouch(self, *, finished: bool = False) -> None:
        """Let what is written be verified, as at the head."""
        hasher = ChunkHasher(self.holding, lambda: self.written)
        if finished:
            hasher.finish()
        while hasher.step():
            pass

    def content(self) -> bytes:
        """Return what it holds verified."""
        return os.pread(self.fd, self.holding.verified, 0)


class Scene:
    """As a context manager. All nodes know one secret."""

    def __init__(self, folder: str) -> None:
        self.secret = Secret.new()
        self._folder = folder
        self._ending = ExitStack()

    def node(self, *, size: int | None = None, own: bytes = b"", most: int = 0) -> Node:
        """Return a node that holds nothing yet; `own` is what its file has from before."""
        fd = os.memfd_create("image")
        self._ending.callback(os.close, fd)
        os.pwrite(fd, own, 0)
        holding = Holding(
            fd, staging=STAGING, generation=GENERATION, secret=self.secret, folder=self._folder, own=len(own)
        )
        self._ending.callback(holding.close)
        if size is not None:
            holding.size = size
        lines: list[str] = []
        server = Server("127.0.0.1", guard=Guard(self.secret, SystemClock()), log=lines.append, most=most)
        server.start()
        self._ending.callback(server.close)
        server.offer(STAGING, GENERATION, holding)
        return Node(fd, holding, server, lines=lines)

    def full(self, image: bytes) -> Node:
        """Return a node that holds all of an image."""
        node = self.node(size=len(image))
        node.write(image)
        node.vouch()
        return node

    def upstream(self, address: str, node: Node, advance: Callable[[int], None] = lambda _: None) -> Upstream:
        """Return an upstream of `node`, not started."""
        upstream = Upstream(
            address,
            staging=STAGING,
            generation=GENERATION,
            secret=self.secret,
            holding=node.holding,
            advance=advance,
            connect_timeout=PATIENCE,
        )
        self._ending.callback(upstream.stop)
        return upstream

    def link(self, address: str, secret: Secret | None = None) -> Link:
        """Return a connection."""
        link = Link(address, secret or self.secret)
        link.deadline = time.monotonic() + PATIENCE
        link.connect(PATIENCE)
        self._ending.callback(link.close)
        return link

    def get(self, node: Node, range_: str, what: str = "image") -> tuple[Answer, Link]:
        """Return the head of an answer and where its body comes."""
        link = self.link(node.address)
        path = image_path(STAGING, GENERATION) if what == "image" else chunks_path(STAGING, GENERATION)
        return link.ask("GET", path, fields={"Range": range_}), link

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()


def image(chunks: float, seed: int = 1) -> bytes:
    """Return bytes that are different everywhere, so many chunks of them."""
    return Random(seed).randbytes(int(chunks * CHUNK))


def body(link: Link, length: int) -> bytes:
    """Return so many bytes of a body, fewer if it ends before."""
    buffer = bytearray(length)
    return bytes(buffer[: link.fill(memoryview(buffer))])


def eventually(true: Callable[[], object]) -> None:
    """Wait until it is true."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


def raw(address: str) -> socket.socket:
    """Return a connection for those who do not speak as they should."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


@contextmanager
def silent_listener(*, full: bool = False) -> Iterator[str]:
    """Yield an address where connections are made, but nothing is answered; or, if `full`, not even made."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4 if full else 0):  # Linux drops the SYN of whoever comes when the queue is full
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        yield f"127.0.0.1:{port}"


def held_by_process() -> tuple[int, int]:
    """Return how many descriptors and threads this process has."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()
