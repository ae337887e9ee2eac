"""A blob's bytes from one server. They are known by their digest, so that bytes of any server can be put together."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from stager.interfaces import Validators
from stager.sources.answers import Asked
from stager.sources.failures import final
from stager.sources.registry.question import AskAgain

if TYPE_CHECKING:
    from requests import Response

    from stager.oci import Descriptor
    from stager.sources.answers import Delivery
    from stager.sources.http_stream import HttpStream
    from stager.sources.registry.server import Server


def open_blob(server: Server, blob: Descriptor, start: int = 0, end: int | None = None) -> HttpStream:
    """Ask a server for the bytes from `start` up to `end`, once; the stream begins at 0 where no part is to be had."""
    stop = blob.size if end is None else min(end, blob.size)
    asked = Asked(start, stop, partly=start > 0 or stop < blob.size)
    if start >= stop:
        # There is no way to ask for no bytes; that the blob is there is worth knowing all the same.
        return _open(server, blob, Asked(min(start, blob.size), min(start, blob.size), partly=False), "HEAD")
    try:
        return _open(server, blob, asked)
    except AskAgain:
        return _open(server, blob, asked.anew())


def _open(server: Server, blob: Descriptor, asked: Asked, method: str = "GET") -> HttpStream:
    with ExitStack() as stack:
        question, response = server.ask(method, f"blobs/{blob.digest}", asked.headers(), stack)
        delivery = _fitted(question.delivery(response, asked), blob, response)
        if delivery.size not in (None, blob.size):
            raise final(f"{server.name} has {delivery.size} bytes as {blob.digest}; the manifest says {blob.size}")
        if method == "HEAD":
            delivery = replace(delivery, offset=asked.start, stop=asked.start)
        return question.stream(response, delivery, stack, private=server.private)


def _fitted(delivery: Delivery, blob: Descriptor, response: Response) -> Delivery:
    said = response.headers
    if delivery.gzipped and said.get("Content-Length") == str(blob.size):
        # A layer that is a gzip file, by a server that takes this for a way of transport: the bytes are the blob's.
        delivery = replace(delivery, gzipped=False, size=blob.size)
    ranges = response.status_code == 206 or said.get("Accept-Ranges", "").strip().lower() == "bytes"
    version = Validators(etag=str(blob.digest), size=blob.size)
    return replace(delivery, validators=version, ranges=ranges and not delivery.gzipped)
