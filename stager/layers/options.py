"""How images are made, and what is taken of strangers' layers."""

from __future__ import annotations

from dataclasses import dataclass

from stager.errors import ConfigError

MERGE_VERSION = 1
"""To be counted up with every change to the bytes that come of the same layers."""

LEVELS = {"zstd": range(1, 23), "gzip": range(1, 10), "lzo": range(1, 10), "lz4": range(0), "xz": range(0)}
"""Compression → its levels, as mksquashfs 4.5.1 has them."""

DEFAULT_LEVELS = {"zstd": 3, "gzip": 6}
"""zstd, of 1 GiB in 29,295 files from a distribution's /usr, MiB and mksquashfs' CPU seconds: level 1, 421 and 3.8;
3, 407 and 5.1; 5, 395 and 8.2; 6, 389 and 10.8. Ours come to 2.5 beside that."""

BLOCK_SIZE = 128 << 10
"""256 KiB save 2 % of the space for a tenth more CPU time, and double what a page fault has to expand."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the squashfs is like: `level` None is our default, `block_size` in bytes. Raises ConfigError."""

    compression: str = "zstd"
    level: int | None = None
    block_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse what mksquashfs would."""
        if self.compression not in LEVELS:
            raise ConfigError(f"{self.compression!a} is no compression of squashfs; there are: {', '.join(LEVELS)}")
        if self.level is not None and self.level not in LEVELS[self.compression]:
            raise ConfigError(f"{self.level} is no level of {self.compression}")
        if self.block not in {1 << log for log in range(12, 21)}:
            raise ConfigError(f"{self.block} is no block size of squashfs: 4 KiB to 1 MiB, a power of two")

    @property
    def block(self) -> int:
        """Bytes of a block."""
        return BLOCK_SIZE if self.block_size is None else self.block_size

    @property
    def chosen_level(self) -> int | None:
        """The level, if the compression has any and we care."""
        return DEFAULT_LEVELS.get(self.compression) if self.level is None else self.level

    def arguments(self) -> list[str]:
        """Return mksquashfs's."""
        level = self.chosen_level
        return ["-comp", self.compression, "-b", str(self.block)] + (
            [] if level is None else ["-Xcompression-level", str(level)]
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond these, a layer, and all layers of an image together, are refused.

    Expanded, the contents may have `expanded` bytes, and more than `floor` bytes only up to `ratio` times of what they
    are compressed: deflate reaches 1032, but only with zeros; programs and libraries stay below 10. `names` is in bytes
    of names, links and extended attributes. `entries` and `names` hold for the tree of all layers, too, with the
    directories that no layer describes. `steps` are components of paths, links followed, that are gone through to build
    it: 20 s or so; about ten for each entry are usual. `comparisons` (see archive) hold down the time that mksquashfs
    takes, which grows with the square of a directory's entries and of files of the same size: 100,000 in one directory,
    most of one size, take it 160 s, and the most that is allowed an hour.
    """

    entries: int = 2_000_000
    names: int = 512 << 20
    expanded: int = 1 << 40
    floor: int = 4 << 30
    ratio: int = 250
    steps: int = 1 << 28
    comparisons: int = 400_000_000_000

    def bytes_of(self, compressed: int) -> int:
        """Return how many bytes may come of so many compressed ones."""
        return min(self.expanded, max(self.floor, self.ratio * compressed))
