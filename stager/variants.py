"""Which file a reference becomes on this node: what its content depends on besides the reference itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.errors import ConfigError
from stager.oci import Platform
from stager.reference import ON_DISK

if TYPE_CHECKING:
    from stager.config import Config
    from stager.reference import Reference

CONVERTED = ("docker", *ON_DISK)
"""Schemes of images that come as layers, of which a squashfs is made here."""

PLATFORMS = (*CONVERTED, "oras", "library")
"""Schemes of images of which there may be one for each platform."""

HIGHEST = {"zstd": 22, "gzip": 9, "lzo": 9, "lz4": 0, "xz": 0}
"""Compression → highest level: mksquashfs(1) 4.5; lz4 and xz have none."""


def variant(config: Config, reference: Reference) -> str:
    """Return `linux/amd64`, or `linux/amd64 zstd 3` for what is converted here; empty for files and URLs.

    A level of 0 is the program's own. Raises ConfigError for a level that the compression does not have.
    """
    if reference.scheme not in PLATFORMS:
        return ""
    chosen = platform(config)
    if reference.scheme not in CONVERTED:
        return str(chosen)
    level, compression = config.convert_level, config.convert_compression
    if level > HIGHEST[compression]:
        allowed = f"is {HIGHEST[compression]} at most" if HIGHEST[compression] else "has to be 0"
        raise ConfigError(f"convert.level is {level}, but with convert.compression {compression} it {allowed}")
    return f"{chosen} {compression} {level}"


def usual(reference: Reference) -> str:
    """Return the variant that this node takes where nothing is set."""
    from stager.config import Config

    return variant(Config(), reference)


def platform(config: Config) -> Platform:
    """Return which platform's images are wanted."""
    return Platform.parse(config.platform) if config.platform else Platform.host()
