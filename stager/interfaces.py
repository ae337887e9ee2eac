"""The seams between the core and the outside: contracts that adapters fulfil and tests replace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


@dataclass(frozen=True, slots=True)
class Validators:
    """What an origin says of one version of an image; empty where it says nothing.

    `etag` and `modified` are the HTTP headers as sent (RFC 9110, 8.8); for a file, `modified` holds mtime (ns) and
    inode. `size` is in bytes.
    """

    etag: str = ""
    modified: str = ""
    size: int | None = None

    def __bool__(self) -> bool:
        return bool(self.etag or self.modified)


class Stream(Protocol):
    """Bytes on their way from an origin."""

    @property
    def offset(self) -> int:
        """Where in the image the first byte belongs; smaller than asked for when the origin starts over."""

    @property
    def size(self) -> int | None:
        """The whole image's size in bytes, if the origin says."""

    @property
    def validators(self) -> Validators:
        """Of the version that is being sent."""

    @property
    def ranges(self) -> bool:
        """Whether the origin can send parts of exactly this version."""

    @property
    def private(self) -> bool:
        """Whether credentials were needed, so that the image is nobody else's business."""

    def chunks(self) -> Iterator[bytes]:
        """Yield non-empty pieces of at most 1 MiB, up to the end asked for.

        Raises OriginUnavailable when the bytes break off before the promised end, OriginStalled when none arrive
        for stall_timeout seconds.
        """

    def close(self) -> None:
        """Let the connection go. May be called twice, and from another thread to end `chunks`."""


class Source(Protocol):
    """An origin, or another node, that can send one image."""

    @property
    def name(self) -> str:
        """For people: a host or a path, never with credentials."""

    def open(
        self,
        start: int = 0,
        end: int | None = None,
        *,
        if_range: Validators | None = None,
        unless: Validators | None = None,
    ) -> Stream | None:
        """Ask for the bytes from `start` up to (not including) `end`, once, without retries.

        `if_range`: the bytes before `start` are of this version; a stream of another version starts at offset 0.
        `unless`: return None if the origin still has this version.
        Raises NotFound, AccessDenied, OriginUnavailable (with `retry_after`), OriginStalled.
        """


@dataclass(frozen=True, slots=True)
class Partition:
    """A file system inside an image: `offset` and `size` in bytes, `kind` as in ImageInfo.format or another word."""

    offset: int
    size: int
    kind: str
    arch: str = ""
    primary: bool = False


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image's own headers say. `format` is `sif`, `squashfs` or `erofs`; `size` the file's in bytes.

    `root` is the partition to mount: the whole file unless the format is `sif`.
    """

    format: str
    size: int
    compression: str
    root: Partition
    partitions: tuple[Partition, ...] = ()
    arch: str = ""


@dataclass(frozen=True, slots=True)
class MountReport:
    """How an image came to be mounted: `kind` is `loop`, `erofs` or `fuse`.

    `direct_io` is what the kernel reads back, with `note` saying why when it is off; `device` the loop device;
    `server` the FUSE server's pid.
    """

    kind: str
    direct_io: bool = False
    device: str = ""
    server: int = 0
    note: str = ""


class Mounter(Protocol):
    """One way to mount an image read-only."""

    @property
    def kind(self) -> str:
        """`loop`, `erofs` or `fuse`."""

    def obstacle(self, info: ImageInfo) -> str:
        """Why this way cannot work here for such an image; empty if it can be tried. Cheap, changes nothing."""

    def mount(self, image: str, info: ImageInfo, mountpoint: str) -> MountReport:
        """Mount the partition `info.root` of the file `image` on the directory `mountpoint`: ro, nosuid, nodev.

        Raises MountUnavailable when this way is closed (devices exhausted, forbidden, program missing), so that the
        next one may be tried; MountFailed when the image cannot be mounted at all.
        """

    def unmount(self, mountpoint: str, *, lazy: bool = False) -> None:
        """Unmount; nothing mounted is fine. Raises InUse while busy (unless lazy), MountFailed otherwise."""


class Election(Protocol):
    """Who does a piece of work that several contenders want done once."""

    def lead(self, name: str) -> AbstractContextManager[bool]:
        """Try, without waiting, to be the leader for `name`; the context tells whether this contender is.

        Leadership ends with the context or the process, whichever comes first.
        """


class Teller(Protocol):
    """Says on stderr what is going on, so that no wait is silent."""

    def say(self, text: str) -> None:
        """One line that matters: a warning, a fallback, a takeover."""

    def waiting(self, pid: int, since: float) -> None:
        """Who is being waited for, once for each leader; `since` in wall-clock seconds."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """How far it is, in bytes (`total` 0: unknown). Called often; shown as a bar or a line every 10 s."""

    def close(self) -> None:
        """Take a bar off the terminal."""
