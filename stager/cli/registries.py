"""Putting together what stages container images: where they are, who converts them, what is remembered of that."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stager import variants
from stager.assembly import Assembly
from stager.cli.fetching import make_room, say_wait, trace_point
from stager.conversions import Conversions
from stager.image_names import parse as parse_name
from stager.leading import BEAT_SECONDS
from stager.reference import REGISTRIES, Digest, Reference
from stager.retry import RetryPolicy
from stager.store import memory, segments
from stager.store.blobs import Blobs
from stager.store.partial import Partial

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from stager.assembly import Converter, Memory
    from stager.cli.node import Node
    from stager.cluster import ClusterStaging
    from stager.config import Config
    from stager.interfaces import Source, Stream, Teller
    from stager.layers import Options
    from stager.oci import ContainerConfig, ContainerOrigin, Descriptor, Manifest
    from stager.sources.registry.settings import RegistrySettings
    from stager.store.blob_reading import Growing
    from stager.transfer import Transfer


def assembly(
    node: Node, reference: Reference, copy: Partial, tell: Teller, *, cluster: ClusterStaging | None
) -> Transfer:
    """Return what makes the image of a container's reference."""

    def pin() -> Digest | None:
        if node.config.freshness == "always":
            return None
        return memory.read_pin(node.layout.pin(node.scope, reference.key), node.clock.now())

    past = Conversions(node.layout, _repository(reference), pin, node.tiers, cluster)
    return _assembly(node, reference, copy, tell, by=(Squashing(node.config), past))


def convert(node: Node, reference: Reference, dest: str, *, options: Options, tell: Teller) -> Converted:
    """Convert a container image into `dest`, a new file, which is complete and flushed when this returns.

    The store gets its layers, and nothing else. Raises StageImageError, OSError.
    """
    blobs, converter = Blobs(node.layout), Squashing(node.config, options)
    with blobs.work_folder(allow_unsafe=node.config.allow_unsafe_store) as folder:
        copy = Partial(f"{folder}/copy")
        making = _assembly(node, reference, copy, tell, by=(converter, _Oblivion()))
        try:
            with _Shown(making, tell):
                making.run()
            digest, size = copy.digest(), copy.size or 0
            _copy(copy, dest)
        finally:
            copy.close()
    return Converted(digest, size, Digest(copy.validators.etag), converter.parameters)


def _copy(made: Partial, dest: str) -> None:
    # Where others may write, too: a file that one of them made would stay his, to be changed later.
    fd = os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with open(fd, "wb") as file:
        file.writelines(segments.blocks(made.fileno(), 0, made.size or 0))
        file.flush()
        os.fsync(fd)


def _assembly(
    node: Node, reference: Reference, copy: Partial, tell: Teller, *, by: tuple[Converter, Memory]
) -> Assembly:
    config, trace = node.config, trace_point(node.environ)
    return Assembly(
        origin=_LateOrigin(lambda: container_origin(node, reference)),
        at=lambda digest: _exactly(node, reference, digest),
        partial=copy,
        policy=RetryPolicy(deadline=config.deadline),
        clock=node.clock,
        blobs=Blobs(node.layout, trace),
        converter=by[0],
        memory=by[1],
        platform=variants.platform(config),
        streams=config.connections,
        patience=config.deadline + 2 * config.stall_timeout,
        allow_unsafe=config.allow_unsafe_store,
        room=lambda size: make_room(node, size, tell),
        on_wait=lambda error, seconds: say_wait(tell, error, seconds),
        trace=trace,
    )


def container_origin(node: Node, reference: Reference) -> ContainerOrigin:
    """Return where a container's manifest and layers are. Raises InvalidReference, NotFound, ConfigError."""
    platform = variants.platform(node.config)
    if reference.scheme in REGISTRIES:
        from stager.sources.registry import RegistryOrigin

        name = parse_name(reference.location.partition("://")[2])
        return RegistryOrigin(name, platform, registry_settings(node, name.host))
    if reference.scheme == "oci":
        from stager.sources.oci_layout import OciLayoutOrigin

        return OciLayoutOrigin(reference.path, reference.inner_name, platform)
    if reference.scheme == "oci-archive":
        from stager.sources.oci_archive import OciArchiveOrigin

        return OciArchiveOrigin(reference.path, reference.inner_name, platform)
    from stager.sources.docker_archive import DockerArchiveOrigin

    return DockerArchiveOrigin(reference.path, reference.inner_name, platform)


def _repository(reference: Reference) -> str:
    """Return what all tags of an image have in common; the whole of a layout or archive."""
    if reference.scheme not in REGISTRIES:
        return reference.location
    name = parse_name(reference.location.partition("://")[2])
    return f"{name.host}/{name.repository}"


def _exactly(node: Node, reference: Reference, digest: Digest) -> ContainerOrigin:
    if reference.scheme not in REGISTRIES:
        return container_origin(node, reference)  # what lies in a file or directory has no past
    name = f"{reference.location.partition('@sha256:')[0]}@{digest}"
    return container_origin(node, Reference(reference.scheme, name))


def source(node: Node, reference: Reference) -> Source:
    """Return where the file is that an oras:// or library:// reference means."""
    platform = variants.platform(node.config)
    if reference.scheme == "oras":
        from stager.sources.registry import OrasSource

        name = parse_name(reference.location.partition("://")[2])
        return OrasSource(name, platform, registry_settings(node, name.host))
    from stager.sources.library import LibrarySource
    from stager.sources.library_settings import LibrarySettings, parse

    settings = LibrarySettings(node.http_settings, node.config.library, node.environ)
    return LibrarySource(parse(reference.location), platform, settings)


def registry_settings(node: Node, host: str) -> RegistrySettings:
    """Return how the registry `host` is to be asked."""
    from stager.registry_setting import RegistrySetting
    from stager.sources.registry.settings import RegistrySettings
    from stager.store.memory import MirrorFailures

    setting = node.config.registry.get(host, RegistrySetting())
    return RegistrySettings(
        http=node.http_settings,
        mirrors=setting.mirrors,
        plain_http=setting.plain_http,
        memory=MirrorFailures(f"{node.layout.root}/failures", node.clock),
        environ=node.environ,
    )


@dataclass(frozen=True, slots=True)
class Converted:
    """What came of a conversion: a file's digest and size in bytes, of which manifest or index, by what parameters."""

    digest: Digest
    size: int
    manifest: Digest
    parameters: str


class Squashing:
    """A Converter: layers to a squashfs, as the settings or `options` say; imports what does that when it is needed."""

    def __init__(self, config: Config, options: Options | None = None) -> None:
        self._config = config
        self._options = options

    @cached_property
    def options(self) -> Options:
        """How to convert."""
        from stager.layers import Options

        return self._options or Options(
            compression=self._config.convert_compression, level=self._config.convert_level or None
        )

    @cached_property
    def parameters(self) -> str:
        """As Converter.parameters. Raises ConverterMissing."""
        from stager import layers

        return layers.parameters(self.options)

    def index(self, layer: Descriptor, file: Growing, diff_id: str) -> object:
        """As Converter.index."""
        from stager import layers

        return layers.index(file.read, layer.media_type, size=layer.size, diff_id=diff_id, limits=layers.Limits())

    def write(
        self,
        indexes: Sequence[Any],
        open_layer: Callable[[int], BinaryIO],
        dest: str,
        *,
        config: ContainerConfig,
        progress: Callable[[int, int], None],
        check: Callable[[], None],
    ) -> None:
        """As Converter.write."""
        from stager import layers

        layers.write(indexes, open_layer, dest, self.options, config=config, progress=progress, check=check)


class _Oblivion:
    """A Memory of nothing."""

    def recall(self, name: str) -> None:
        return None

    def remember(self, name: str, digest: Digest, manifest: Manifest) -> None:
        return None

    def pinned(self) -> None:
        return None


class _Shown:
    """Shows how far a transfer is, for a context: where no leader's heartbeat does."""

    def __init__(self, transfer: Transfer, tell: Teller) -> None:
        self._transfer, self._tell, self._end = transfer, tell, threading.Event()
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._tell.close()

    def _show(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            self._tell.progress(self._transfer.phase, *self._transfer.progress)


@dataclass(slots=True)
class _LateOrigin:
    """A ContainerOrigin that is made when it is first asked: of a cluster's nodes, one asks."""

    make: Callable[[], ContainerOrigin]
    made: ContainerOrigin | None = None

    @property
    def name(self) -> str:
        return self._origin.name

    @property
    def private(self) -> bool:
        return self._origin.private

    def manifest(self, unless: str = "") -> Manifest | None:
        return self._origin.manifest(unless)

    def blob(self, descriptor: Descriptor, start: int = 0) -> Stream:
        return self._origin.blob(descriptor, start)

    @property
    def _origin(self) -> ContainerOrigin:
        if self.made is None:
            self.made = self.make()
        return self.made
