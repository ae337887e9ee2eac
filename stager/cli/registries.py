"""Putting together what stages container images: where they are, who converts them, what is remembered of that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stager import variants
from stager.assembly import Assembly
from stager.conversions import Conversions
from stager.errors import StageImageError
from stager.image_names import parse as parse_name
from stager.reference import REGISTRIES
from stager.store.blobs import Blobs
from stager.variants import CONVERTED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from stager.cli.node import Node
    from stager.cluster import ClusterStaging
    from stager.config import Config
    from stager.interfaces import Source, Stream
    from stager.layers import Options
    from stager.oci import ContainerConfig, ContainerOrigin, Descriptor, Manifest
    from stager.reference import Digest, Reference
    from stager.retry import RetryPolicy
    from stager.sources.registry.settings import RegistrySettings
    from stager.store.blob_reading import Growing
    from stager.store.images import StagedImage
    from stager.store.partial import Partial
    from stager.transfer import Transfer

__all__ = ["CONVERTED", "assembly", "container_origin", "source"]


def assembly(  # noqa: PLR0913 - whom, what, where to, and what is shared with others
    node: Node,
    reference: Reference,
    copy: Partial,
    *,
    policy: RetryPolicy,
    room: Callable[[int], None],
    on_wait: Callable[[StageImageError, float], None],
    cluster: ClusterStaging | None,
    trace: Callable[[str], None],
) -> Transfer:
    """Return what makes the image of a container's reference."""
    config = node.config
    tiers = (node.layout, *node.tiers)

    def lookup(digest: Digest) -> StagedImage | None:
        from stager.store import images

        return next((image for layout in tiers if (image := images.lookup(layout, digest)) is not None), None)

    return Assembly(
        origin=_LateOrigin(lambda: container_origin(node, reference)),
        partial=copy,
        policy=policy,
        clock=node.clock,
        blobs=Blobs(node.layout, trace),
        converter=Squashing(config),
        memory=Conversions(node.layout, node.tiers, cluster),
        lookup=lookup,
        streams=config.connections,
        patience=config.deadline + 2 * config.stall_timeout,
        allow_unsafe=config.allow_unsafe_store,
        room=room,
        on_wait=on_wait,
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


def source(node: Node, reference: Reference) -> Source:
    """Return where the file is that an oras:// or library:// reference means."""
    platform = variants.platform(node.config)
    if reference.scheme == "oras":
        from stager.sources.registry import OrasSource

        name = parse_name(reference.location.partition("://")[2])
        return OrasSource(name, platform, registry_settings(node, name.host))
    from stager.sources.library import LibrarySource

    library = node.config.library
    return LibrarySource(reference.location, platform, node.http_settings, library=library, environ=node.environ)


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


class Squashing:
    """A Converter: layers to a squashfs, as the settings say; what does that is imported when it is needed."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @cached_property
    def options(self) -> Options:
        """How to convert."""
        from stager.layers import Options

        return Options(compression=self._config.convert_compression, level=self._config.convert_level or None)

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
