"""Images from registries (OCI distribution specification 1.1): made of layers, or files as they are (ORAS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.sources.registry.settings import RegistrySettings

if TYPE_CHECKING:
    from stager.sources.registry.oras import OrasSource
    from stager.sources.registry.origin import RegistryOrigin

__all__ = ["OrasSource", "RegistryOrigin", "RegistrySettings"]


def __getattr__(name: str) -> object:
    # What speaks HTTP takes 50 ms of CPU to import (measured, requests 2.34); who asks for settings only is spared it.
    if name == "RegistryOrigin":
        from stager.sources.registry.origin import RegistryOrigin

        return RegistryOrigin
    if name == "OrasSource":
        from stager.sources.registry.oras import OrasSource

        return OrasSource
    raise AttributeError(name)
