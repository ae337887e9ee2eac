"""The seams between the core and the outside: contracts that adapters fulfil and tests replace."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from stager.oci import ContainerConfig

    Message = dict[str, Any]
    """What the members of a staging and its coordinator say to each other: a JSON object."""


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

    `root` is the partition to mount: the whole file unless the format is `sif`. `config` is what the maker of a
    container image wants done with it, if the file was made of one and says so.
    """

    format: str
    size: int
    compression: str
    root: Partition
    partitions: tuple[Partition, ...] = ()
    arch: str = ""
    config: ContainerConfig | None = field(default=None, hash=False)


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


class PeerLost(Exception):
    """Another member does not answer, or not as it should: `refused`, `reset`, `silent`, `moved`, `denied`."""


class Rendezvous(Protocol):
    """Where the nodes of a cluster meet. Every call is bounded in time and may raise ClusterUnavailable."""

    @property
    def address(self) -> str:
        """By which of our IP addresses we are connected."""

    def connect(self) -> None:
        """Begin the session that everything else needs."""

    def pin(self, scope: str, key: str) -> str | None:
        """Return the digest (64 hex digits) that a job is pinned to on all its nodes."""

    def set_pin(self, scope: str, key: str, digest_hex: str) -> str:
        """Pin a job; return what it is pinned to: the first one wins."""

    def conversion(self, name: str) -> str | None:
        """Return the digest (64 hex digits) of what came of a conversion; `name` has 64 hex digits."""

    def set_conversion(self, name: str, digest_hex: str) -> None:
        """Make known what came of a conversion."""

    def claim(self, staging: str, record: bytes) -> bool:
        """Try to coordinate a staging for as long as our session lives; `record` (up to 4 KiB) says who we are."""

    def leader(self, staging: str) -> bytes | None:
        """Return the record of whoever coordinates a staging."""

    def leads(self, staging: str) -> bool:
        """Whether our claim is beyond doubt. Asks nobody."""

    def resign(self, staging: str) -> None:
        """Take our claim back."""

    def write_node(self, host: str, record: bytes) -> None:
        """Make known what a node's store holds."""

    def sweep(self, limit: int = 8) -> None:
        """Remove a few pins of jobs that ended long ago."""

    def close(self) -> None:
        """End the session, and our claims with it. May be called twice."""


class Holding(Protocol):
    """What this node holds of an image on its way, chunk by chunk verified, for others to fetch."""

    @property
    def size(self) -> int | None:
        """The whole image's size in bytes, when known."""

    @size.setter
    def size(self, size: int) -> None:
        """Say how long it is."""

    own: int
    """Bytes at the file's start that are there, verified or not: fetched again only where they turn out to be bad."""

    @property
    def verified(self) -> int:
        """Bytes verified from the start on."""

    @property
    def complete(self) -> bool:
        """Whether all of a known size is verified."""

    def root(self) -> str:
        """Return the hash over the hashes of all chunks: with the size, it binds every byte."""

    def close(self) -> None:
        """Let go of the file. May be called twice."""


class Upstream(Protocol):
    """Another member's bytes on their way into a Holding."""

    def start(self) -> None:
        """Begin; returns at once."""

    def stop(self) -> None:
        """End it, from any thread, at once."""

    @property
    def silence(self) -> float:
        """Seconds since the last byte; 0 while none is expected."""

    lost: str
    """Why no more will come: `reset`, `refused`, `corrupt`, `ended`; empty while more may, or all has come."""
    error: OSError | None
    """What this node's own disk said, if that is why."""


class Hashing(Protocol):
    """The chunks of a growing file being hashed into a Holding."""

    error: OSError | None
    """What this node's own disk said, if that ended it."""

    def finish(self) -> None:
        """Say that the bytes there are all there will be."""

    def stop(self) -> None:
        """End it at once."""


class Peers(Protocol):
    """The other members of one staging, as this node meets them on the network."""

    @property
    def address(self) -> str:
        """`ip:port` where others reach us."""

    def trust(self, staging: str, secret: str) -> None:
        """Take part in a staging, of which all members know `secret` (64 hex digits)."""

    def hold(self, fd: int, folder: str, generation: int, *, size: int | None, own: int) -> Holding:
        """Offer a file to the others, as far as it will be verified, and no other one from now on.

        `folder`: for what cannot be kept in memory. `own`: bytes at the file's start that are there but not verified:
        they are fetched again only where they are bad.
        """

    def hash(self, holding: Holding, position: Callable[[], int]) -> Hashing:
        """Vouch for the bytes of a file that grows up to `position`: they come from the origin."""

    def pull(self, address: str, holding: Holding, advance: Callable[[int], None]) -> Upstream:
        """Get what is missing from another member; `advance` is told how many bytes are verified."""

    def ask(self, address: str, verb: str, message: Message) -> Message:
        """Ask the coordinator. Raises PeerLost, within seconds."""

    def coordinate(self, answer: Callable[[str, Message], Message | None] | None) -> None:
        """Answer the others' questions from now on, or no longer."""

    @property
    def downstream(self) -> int:
        """How many streams we feed."""

    def close(self) -> None:
        """End all that goes on. May be called twice."""


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
