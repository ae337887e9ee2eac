"""What lies in a repository, asked for at mirrors and the registry in turn: manifests, verified, and blobs."""

from __future__ import annotations

from contextlib import ExitStack
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

from stager.clock import SystemClock
from stager.errors import DamagedImage, NotFound, OriginUnavailable, StageImageError
from stager.oci import INDEXES, MANIFEST_MAX, MANIFESTS, Manifest, choose, is_index, read_manifest
from stager.reference import Digest
from stager.sources.failures import final
from stager.sources.mirrors import MirrorStream, RecentFailures
from stager.sources.registry import server as servers
from stager.sources.registry.blob import open_blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from stager.image_names import ImageName
    from stager.interfaces import Stream
    from stager.oci import Descriptor, Platform
    from stager.sources.mirrors import FailureMemory
    from stager.sources.registry.server import Server
    from stager.sources.registry.settings import RegistrySettings

T = TypeVar("T")

_PAGES = ("text/html", "application/xhtml+xml")
_PAGE_HINT = "check host and port; on the way there may be a proxy or a login page: look at it with `curl -L`"

ACCEPT = ", ".join((*INDEXES, *MANIFESTS))
"""Without it registries have nothing, or Docker's old format (distribution-spec 1.1, pulling manifests)."""


class Contents:
    """A repository wherever it is to be had. Used by several threads at once."""

    def __init__(self, name: ImageName, platform: Platform, settings: RegistrySettings) -> None:
        self._name = name
        self._platform = platform
        self._mirrors = [servers.mirror(url, name, settings) for url in settings.mirrors]
        self._origin = servers.origin(name, settings)
        self._memory: FailureMemory = settings.memory or RecentFailures(SystemClock())
        self._delivered: dict[Digest, str] = {}

    @property
    def private(self) -> bool:
        return any(server.private for server in (*self._mirrors, self._origin))

    def manifest(self, unless: str = "") -> Manifest | None:
        """As ContainerOrigin.manifest, of an image or anything else that has a manifest."""
        if unless and self._name.digest == unless:
            return None
        return self._in_turn(lambda server: self._manifest_at(server, unless))

    def blob(self, descriptor: Descriptor, start: int = 0, end: int | None = None) -> Stream:
        """As ContainerOrigin.blob."""
        if start == 0 and descriptor.digest in self._delivered:
            # Whoever asks again for what arrived as a whole did not like it.
            self._memory.remember(self._delivered.pop(descriptor.digest))
        return self._in_turn(lambda server: self._blob_at(server, descriptor, start, end))

    def _blob_at(self, server: Server, descriptor: Descriptor, start: int, end: int | None) -> Stream:
        stream = open_blob(server, descriptor, start, end)
        if server is self._origin:
            return stream
        return _Delivery(stream, server.name, self._memory, lambda: self._note(descriptor, server, end))

    def _note(self, descriptor: Descriptor, server: Server, end: int | None) -> None:
        if end is None:
            self._delivered[descriptor.digest] = server.name

    def _in_turn(self, ask: Callable[[Server], T]) -> T:
        ours: StageImageError = NotFound("nobody was asked")
        others: list[StageImageError] = []
        for server in sorted((*self._mirrors, self._origin), key=lambda server: self._memory.failed(server.name)):
            try:
                return ask(server)
            except StageImageError as error:
                if isinstance(error, OriginUnavailable | DamagedImage):
                    self._memory.remember(server.name)
                if server is self._origin:
                    ours = error
                else:
                    others.append(error)
        raise _summary(ours, others)

    def _manifest_at(self, server: Server, unless: str) -> Manifest | None:
        if unless and self._head_says(server, unless):
            return None
        data, media_type = self._document(server, self._name.target)
        top = Digest(sha256(data).hexdigest())
        if str(top) == unless:
            return None
        digest = top
        if is_index(data, media_type):
            chosen = choose(data, self._platform)
            digest = chosen.digest
            data, found = self._document(server, str(digest))
            media_type = found or chosen.media_type
        server.look(f"manifests/{digest}", {"Accept": ACCEPT})
        return read_manifest(data, media_type, digest, top)

    def _head_says(self, server: Server, digest: str) -> bool:
        """Whether the server says, for what costs nothing at Docker Hub, that nothing has changed."""
        try:
            with ExitStack() as stack:
                _, response = server.ask("HEAD", f"manifests/{self._name.target}", {"Accept": ACCEPT}, stack)
                return bool(response.headers.get("Docker-Content-Digest", "") == digest)
        except StageImageError as error:
            # The answer to HEAD has no words of what is wrong; that to GET has.
            if error.retryable:
                raise
            return False

    def _document(self, server: Server, target: str) -> tuple[bytes, str]:
        """Return a manifest's or index's bytes and media type; those asked for by digest are verified."""
        headers = {"Accept": ACCEPT, "Accept-Encoding": "identity"}
        with ExitStack() as stack:
            question, response = server.ask("GET", f"manifests/{target}", headers, stack)
            data = question.read(response, MANIFEST_MAX, "a manifest")
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if media_type in _PAGES:
            raise final(f"{server.name} answers with a page for people ({media_type}), as no registry does", _PAGE_HINT)
        found = f"sha256:{sha256(data).hexdigest()}"
        if ":" in target and found != target:
            raise DamagedImage(f"{server.name} sends a manifest with the digest {found} where {target} was asked for")
        return data, media_type


class _Delivery(MirrorStream):
    """A mirror's stream that calls `done` when all of it has been taken."""

    def __init__(self, stream: Stream, name: str, memory: FailureMemory, done: Callable[[], None]) -> None:
        super().__init__(stream, name, "", memory)
        self._done = done

    def chunks(self) -> Iterator[bytes]:
        yield from super().chunks()
        self._done()


def _summary(error: StageImageError, others: Iterable[StageImageError]) -> StageImageError:
    """Return the registry's own error, which decides, with what mirrors said; that they lack it, too, is no news."""
    lacks = isinstance(error, NotFound)
    asides = [f"the mirror says: {other.message}" for other in others if not (lacks and isinstance(other, NotFound))]
    error.message = "; ".join([error.message, *asides])
    error.args = (error.message,)
    return error
