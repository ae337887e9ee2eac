"""Images that lie in registries as they are, as `apptainer push` and `oras push` put them there."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from stager.errors import DamagedImage
from stager.sources.registry.artifacts import choose_file
from stager.sources.registry.contents import Contents

if TYPE_CHECKING:
    from stager.image_names import ImageName
    from stager.interfaces import Stream, Validators
    from stager.oci import Descriptor, Platform
    from stager.sources.registry.settings import RegistrySettings


class OrasSource:
    """A Source: one file in a registry and its mirrors. Several threads may `open` it at a time.

    What the tag means is asked once: an image that is fetched with a break does not change in between. A stream's
    `validators.etag` is the file's digest, which says more than any header: equal digests are equal bytes, wherever
    they come from.
    """

    def __init__(self, name: ImageName, platform: Platform, settings: RegistrySettings) -> None:
        """Ask nobody yet. Raises ConfigError for a mirror that is none."""
        self.name = name.host
        self._shown = str(name)
        self._contents = Contents(name, platform, settings)
        self._lock = Lock()
        self._file: Descriptor | None = None

    def open(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        if_range: Validators | None = None,
        unless: Validators | None = None,
    ) -> Stream | None:
        """As Source.open; also raises NotAnImage, DamagedImage, ConfigError."""
        file = self._resolved()
        if unless and unless.etag == str(file.digest):
            return None
        if if_range and if_range.etag != str(file.digest):
            start = 0
        return self._contents.blob(file, start, end)

    def _resolved(self) -> Descriptor:
        with self._lock:
            if self._file is None:
                manifest = self._contents.manifest()
                if manifest is None:  # not without a condition
                    raise DamagedImage(f"{self._shown} has no manifest")
                self._file = choose_file(manifest, self._shown)
            return self._file
