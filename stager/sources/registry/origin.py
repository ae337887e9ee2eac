"""Container images from registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.sources.registry.artifacts import check_container
from stager.sources.registry.contents import Contents

if TYPE_CHECKING:
    from stager.image_names import ImageName
    from stager.interfaces import Stream
    from stager.oci import Descriptor, Manifest, Platform
    from stager.sources.registry.settings import RegistrySettings


class RegistryOrigin:
    """A ContainerOrigin: a registry and its mirrors."""

    def __init__(self, name: ImageName, platform: Platform, settings: RegistrySettings) -> None:
        """Ask nobody yet. Raises ConfigError for a mirror that is none."""
        self.name = name.host
        self._shown = str(name)
        self._contents = Contents(name, platform, settings)

    @property
    def private(self) -> bool:
        """As ContainerOrigin.private; what is there for everybody is not private to those who are logged in."""
        return self._contents.private

    def manifest(self, unless: str = "") -> Manifest | None:
        """As ContainerOrigin.manifest; also raises ConfigError for files of credentials that are no good."""
        manifest = self._contents.manifest(unless)
        if manifest:
            check_container(manifest, self._shown)
        return manifest

    def blob(self, descriptor: Descriptor, start: int = 0) -> Stream:
        """As ContainerOrigin.blob. Whoever asks anew for a blob that a mirror has sent gets it from elsewhere."""
        return self._contents.blob(descriptor, start)
