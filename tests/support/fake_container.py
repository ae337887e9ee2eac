"""A container image in memory: an origin with faults on order, and a converter whose result tells what it is of."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from stager.errors import OriginUnavailable
from stager.interfaces import Validators
from stager.oci import CONFIGS, ContainerConfig, Descriptor, Manifest
from stager.reference import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    from stager.store.blob_reading import Growing
    from stager.store.images import StagedImage

PIECE = 100


def digest_of(data: bytes) -> Digest:
    return Digest(sha256(data).hexdigest())


def layer_of(data: bytes) -> Descriptor:
    return Descriptor("application/vnd.oci.image.layer.v1.tar", digest_of(data), len(data))


class FakeStream:
    """Fulfils `stager.interfaces.Stream`; breaks after `breaks` bytes, if that is not None."""

    ranges, private = True, False

    def __init__(self, data: bytes, offset: int, breaks: int | None, before: Callable[[], None]) -> None:
        self.offset, self.size, self.validators = offset, len(data), Validators(size=len(data))
        self._data, self._breaks, self._before = data[offset:], breaks, before
        self.closed = threading.Event()

    def chunks(self) -> Iterator[bytes]:
        sent = 0
        self._before()
        while sent < len(self._data):
            if self.closed.is_set() or (self._breaks is not None and sent >= self._breaks):
                raise OriginUnavailable("the stream broke")
            piece = self._data[sent : sent + PIECE]
            sent += len(piece)
            yield piece

    def close(self) -> None:
        self.closed.set()


@dataclass
class FakeContainer:
    """Fulfils `stager.oci.ContainerOrigin`.

    `breaks`: digest's digits → after how many bytes each of its connections breaks, in order. `lies`: what is sent
    instead of a blob, once for each. `before` is called in the thread of each connection, before its first byte.
    """

    layers: list[bytes]
    name: str = "registry.test"
    private: bool = False
    config: bytes = b"{}"
    breaks: dict[str, list[int]] = field(default_factory=dict)
    lies: dict[str, list[bytes]] = field(default_factory=dict)
    before: Callable[[Descriptor], None] = lambda _layer: None
    asked: list[tuple[str, int]] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self) -> Manifest:
        digests = [digest_of(layer) for layer in self.layers]
        text = json.dumps([str(each) for each in (*digests, digest_of(self.config))])
        descriptors = tuple(layer_of(layer) for layer in self.layers)
        config = Descriptor(CONFIGS[0], digest_of(self.config), len(self.config))
        own = digest_of(text.encode())
        return Manifest(own, config, descriptors, own)

    def manifest(self, unless: str = "") -> Manifest | None:
        self.resolved.append(unless)
        found = self.of()
        return None if unless == str(found.top) else found

    def blob(self, descriptor: Descriptor, start: int = 0) -> FakeStream:
        key = descriptor.digest.hex
        with self._lock:
            self.asked.append((key, start))
            lie = self.lies.get(key)
            data = lie.pop(0) if lie else self._blob(key)
            cuts = self.breaks.get(key)
            cut = cuts.pop(0) if cuts else None
        return FakeStream(data, start, cut, lambda: self.before(descriptor))

    def _blob(self, key: str) -> bytes:
        return next(blob for blob in (*self.layers, self.config) if digest_of(blob).hex == key)

    @property
    def pulled(self) -> list[str]:
        """The layers that were asked for, in order, once for each connection."""
        config = digest_of(self.config).hex
        return [key for key, _ in self.asked if key != config]


@dataclass
class FakeConverter:
    """Fulfils `stager.assembly.Converter`: the result is all layers, one after the other, behind a word."""

    parameters: str = "fake 1"
    refuse: dict[str, Exception] = field(default_factory=dict)
    indexed: list[str] = field(default_factory=list)
    written: int = 0
    during: Callable[[], None] = lambda: None
    judge: Callable[[bytes], None] = lambda _beginning: None

    def index(self, layer: Descriptor, file: Growing, diff_id: str) -> object:
        self.judge(file.read(1) or b"")
        file.seek(0)
        data = b"".join(iter(lambda: file.read(37) or b"", b""))
        error = self.refuse.get(layer.digest.hex)
        if error is not None:
            raise error
        self.indexed.append(layer.digest.hex)
        return sha256(data).hexdigest()

    def write(
        self,
        indexes: Sequence[object],
        open_layer: Callable[[int], BinaryIO],
        dest: str,
        *,
        config: ContainerConfig,
        progress: Callable[[int, int], None],
        check: Callable[[], None],
    ) -> None:
        self.during()
        check()
        with open(dest, "xb") as out:
            out.write(b"image " + " ".join(config.entrypoint).encode())
            for number, index in enumerate(indexes):
                with open_layer(number) as file:
                    data = file.read()
                assert sha256(data).hexdigest() == index
                out.write(data)
                progress(number + 1, len(indexes))
        self.written += 1


@dataclass
class FakeMemory:
    """Fulfils `stager.assembly.Memory`."""

    known: dict[str, Digest] = field(default_factory=dict)
    staged: dict[str, StagedImage] = field(default_factory=dict)
    pin: Digest | None = None

    def recall(self, name: str) -> StagedImage | None:
        digest = self.known.get(name)
        return self.staged.get(digest.hex) if digest is not None else None

    def remember(self, name: str, digest: Digest, manifest: Manifest) -> None:
        self.known[name] = digest

    def pinned(self) -> Digest | None:
        return self.pin
