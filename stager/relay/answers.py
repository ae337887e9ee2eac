"""What the relay answers to a GET: decided from the request and what is held, nothing else."""

from __future__ import annotations

from stager.relay.connection import Stream
from stager.relay.wire import BYTES, CHUNK, RECORD, NotUnderstood, content_range, is_number, parse_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stager.relay.holding import Holding
    from stager.relay.wire import Request


class Reply:
    """An answer to be: `fields` without those of the connection, `close` if only its end tells the end of the body."""

    __slots__ = ("body", "close", "fields", "status", "stream")

    def __init__(self, status: int, fields: dict[str, str] | None = None, *, body: bytes = b"") -> None:
        self.status = status
        self.fields = fields or {}
        self.body = body
        self.stream: Stream | None = None
        self.close = status in {400, 403, 431}
        if status not in {200, 206} or body:
            self.fields["Content-Length"] = str(len(body))

    @property
    def sealed(self) -> bytes:
        """What of the answer to a GET is sealed: the range, because it tells the image's size."""
        return self.fields.get("Content-Range", "").encode()


def image_path(staging: str, generation: int) -> str:
    """Return where an image is to be had."""
    return f"/v1/{staging}/{generation}/image"


def chunks_path(staging: str, generation: int) -> str:
    """Return where the records of its chunks are to be had."""
    return f"/v1/{staging}/{generation}/chunks"


def place_of(path: str) -> tuple[str, int] | None:
    """Return the staging and the generation of an image's path or its records', None for any other path."""
    words = path.split("/")
    if len(words) != 5 or not is_number(words[3]):
        return None
    place = words[2], int(words[3])
    return place if path in {image_path(*place), chunks_path(*place)} else None


def reply_to(request: Request, holding: Holding | None) -> Reply:
    """Return the answer to a GET that is authorized; `holding`: what lies at its path, as image or as records."""
    if holding is None:
        return Reply(404)
    image = request.path.endswith("/image")
    asked = request.fields.get("range", "")
    try:
        start, end = parse_range(asked or "bytes=0-")
    except NotUnderstood:
        return Reply(400)
    size = holding.size
    total = size if image or size is None else -(-size // CHUNK) * RECORD
    if total is not None and start >= total:
        return Reply(416, {"Content-Range": f"bytes */{total}"})
    end = end if total is None else min(end or total, total)
    reply = Reply(206 if asked else 200, {"Content-Type": BYTES})
    reply.stream = Stream(holding, start, end, image=image)
    if asked:
        reply.fields["Content-Range"] = content_range(start, end, total)
    if end is not None and (total is not None or end <= reply.stream.ready):
        reply.fields["Content-Length"] = str(end - start)
    else:
        reply.close = True
    return reply
