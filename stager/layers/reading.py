"""Reading a layer once from its start, while it arrives: what is in it, and whether it is what the image says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.errors import DamagedImage, ImageRefused, NotAnImage, StageImageError
from stager.layers import headers, sparse
from stager.layers.entry import (
    BLOCK,
    CHAR,
    DIRECTORY,
    FIFO,
    FILE,
    HARD,
    NAME_MAX,
    PATH_MAX,
    SYMLINK,
    Content,
    Entry,
    LayerIndex,
    quoted,
)
from stager.layers.stream import Expanded

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from stager.layers.options import Limits

_DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
_OCI = "application/vnd.oci.image.layer.v1.tar"
MEDIA_TYPES = frozenset(
    (_OCI, f"{_OCI}+gzip", f"{_OCI}+zstd", _DOCKER, f"{_DOCKER}.gzip", f"{_DOCKER}.gzip.gzip", f"{_DOCKER}.zstd")
)
"""OCI image specification, media-types.md; Docker's image manifest 2.2. zstd in Docker's words is containerd's."""

HEADER_MAX = 1 << 20
"""Bytes of a member's extended headers and long names: what Go's archive/tar takes for each (maxSpecialFileSize)."""

_LINKS = frozenset((HARD, SYMLINK))
_WITHOUT_CONTENT = frozenset((HARD, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO))
_FILES = frozenset((FILE, b"7", b"\0"))
_LONG = {b"L": b"path", b"K": b"linkpath"}
_TEXTS = (b"path", b"linkpath", b"GNU.sparse.name")


def index(
    read: Callable[[int], bytes], descriptor_media_type: str, *, size: int, diff_id: str, limits: Limits
) -> LayerIndex:
    """Return what is in a layer of `size` compressed bytes, all of which `read` yields, at most n at a time.

    `diff_id` is the expanded bytes' digest; where it is empty, nothing is verified.
    Raises DamagedImage, ImageRefused, NotAnImage, ConverterMissing, and what `read` raises.
    """
    refuse_unknown(descriptor_media_type)
    name = diff_id[:19] if diff_id else f"of {size} bytes"
    try:
        stream = Expanded(read, allowed=limits.bytes_of(size), digest=bool(diff_id))
        reading = Reading(stream, LayerIndex(name, size, limits))
        reading.all()
        stream.finish()
    except (DamagedImage, ImageRefused, NotAnImage) as error:
        raise type(error)(f"layer {name}: {error.message}", hint=error.hint) from error
    reading.layer.expanded = stream.position
    _verify(stream, size, diff_id, name)
    return reading.layer


def _verify(stream: Expanded, size: int, diff_id: str, name: str) -> None:
    if stream.compressed != size:
        raise DamagedImage(f"layer {name}: it has {stream.compressed} bytes instead of {size}")
    if stream.diff_id != diff_id:
        raise DamagedImage(f"layer {name}: what it expands to has the digest {stream.diff_id} instead of {diff_id}")


def refuse_unknown(media_type: str) -> None:
    """Raise NotAnImage for layers that are none, or not to be read."""
    if media_type in MEDIA_TYPES:
        return
    if "encrypted" in media_type:
        raise NotAnImage(f"a layer is encrypted ({media_type[:100]!a})", hint="decrypt the image with skopeo first")
    if "foreign" in media_type or "nondistributable" in media_type:
        raise NotAnImage(f"a layer is kept elsewhere and may not be passed on ({media_type[:100]!a})")
    raise NotAnImage(f"a layer is of the type {media_type[:100]!a}, which is no file system")


class Reading:
    """One layer's headers, one after another."""

    def __init__(self, stream: Expanded, layer: LayerIndex) -> None:
        self.layer = layer
        self._stream = stream
        self._count = 0
        self._xattrs: dict[object, dict[bytes, bytes]] = {}
        self._forget()

    def _forget(self) -> None:
        self._extra = 0
        self._found: dict[bytes, bytes] = {}
        self._pairs: list[bytes] = []

    def all(self) -> None:
        """Read to the end of the archive: two blocks of zeros, or as Go's tar does, just the end."""
        while block := self._stream.take(512):
            if len(block) < 512:
                raise DamagedImage("it is cut off in the middle of a header")
            if block == headers.ZERO:
                if self._stream.take(512) not in {headers.ZERO, b""}:
                    raise DamagedImage("a single block of zeros stands where a header should")
                break
            self._member(block)
        if self._found or self._pairs:
            raise DamagedImage("it ends after an extended header")

    def count(self, more: int) -> None:
        """Count what takes memory and time. Raises ImageRefused."""
        self._count += more
        if self._count > self.layer.limits.entries:
            raise ImageRefused(f"it has more than {self.layer.limits.entries} entries")

    def _member(self, block: bytes) -> None:
        self.count(1)
        header = headers.read(block)
        kind = header.kind
        if kind in b"xgLK":
            self._extended(kind, header.size)
            return
        try:
            self._plain(header, block)
        except StageImageError as error:
            name = self._found.get(b"path", header.name)
            raise type(error)(f"{quoted(name)}: {error.message}", hint=error.hint) from error
        self._forget()

    def _extended(self, kind: bytes, size: int) -> None:
        """Global headers (`g`) are read over, as Go does: the only ones in use are comments of git archive."""
        # Of one member all together: their records add up.
        self._extra += size
        if not 0 <= size <= HEADER_MAX or self._extra > HEADER_MAX:
            raise ImageRefused(f"an extended header has {self._extra} bytes; more than {HEADER_MAX} are not taken")
        data = self._stream.need(-(-size // 512) * 512)[:size]
        if kind in _LONG:
            self._found[_LONG[kind]] = data.partition(b"\0")[0]
        elif kind == b"x":
            for key, value in headers.records(data):
                if key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:
                    self._pairs.append(value)
                elif value:
                    self._found[key] = value
                else:
                    self._found.pop(
                        key, None
                    )  # POSIX: an empty value takes back what was said before, attributes too, says Go
            if any(b"\0" in self._found.get(key, b"") for key in _TEXTS):
                raise DamagedImage("an extended header has a NUL in a name")

    def _plain(self, header: headers.Header, block: bytes) -> None:
        found = self._found
        kind, name, link = header.kind, header.name, header.link
        size, mtime, uid, gid = header.size, header.mtime, header.uid, header.gid
        xattrs = None
        if found:
            name = found.get(b"GNU.sparse.name") or found.get(b"path", name)
            link = found.get(b"linkpath", link)
            size, uid, gid = (
                headers.decimal(found[key], "a number") if key in found else old
                for key, old in ((b"size", size), (b"uid", uid), (b"gid", gid))
            )
            mtime = headers.seconds(found[b"mtime"]) if b"mtime" in found else mtime
            xattrs = self._shared(headers.xattrs(found))
        if kind == b"\0" and name.endswith(b"/"):
            kind = DIRECTORY  # before POSIX, a directory was a file with such a name
        content = self._content(kind, size, block)
        kind = kind if kind in _WITHOUT_CONTENT else FILE
        link = link if kind in _LINKS else b""
        self._keep(
            Entry(
                kind,
                clean(name),
                header.mode & 0o7777,
                headers.identity(uid),
                headers.identity(gid),
                headers.clamped(mtime),
                link,
                header.device,
                xattrs,
                content,
            )
        )

    def _content(self, kind: bytes, size: int, block: bytes) -> Content | None:
        """Note where a file's bytes are, and pass over them; a header without content may name a size, for nothing."""
        if kind in _WITHOUT_CONTENT:
            return None
        if size < 0:
            raise DamagedImage(f"a header has {size} for a size")
        end = self._stream.position + size
        if kind == b"S":
            content = sparse.old_gnu(block, size, self._stream, number=headers.number, count=self.count)
            end = content.offset + content.stored
        elif kind not in _FILES:
            _unknown(kind)
        elif b"GNU.sparse.size" in self._found or b"GNU.sparse.realsize" in self._found:
            content = sparse.pax(self._found, self._pairs, size, self._stream, count=self.count)
        else:
            content = Content(self._stream.position, size, size)
        self.layer.files += content.size
        if self.layer.files > self.layer.limits.bytes_of(self.layer.size):
            raise ImageRefused(f"the layer's files would have more than {self.layer.files} bytes")
        self._stream.skip(end - self._stream.position + -end % 512)
        return content

    def _keep(self, entry: Entry) -> None:
        if len(entry.path) >= PATH_MAX or any(len(part) > NAME_MAX for part in entry.path.split(b"/")):
            raise ImageRefused("the name is longer than Linux takes")
        if len(entry.link) >= PATH_MAX:
            raise ImageRefused("what it links to is longer than Linux takes")
        self.layer.names += len(entry.path) + len(entry.link)
        if self.layer.names > self.layer.limits.names:
            raise ImageRefused(f"the names of the layer take more than {self.layer.limits.names} bytes")
        self.layer.entries.append(entry)

    def _shared(self, xattrs: dict[bytes, bytes] | None) -> dict[bytes, bytes] | None:
        """Return the same object for the same attributes: most files that have any have the same ones."""
        if xattrs is None:
            return None
        key = tuple(xattrs.items())
        if key not in self._xattrs:
            self.layer.names += sum(len(name) + len(value) for name, value in key)
        return self._xattrs.setdefault(key, xattrs)


def _unknown(kind: bytes) -> NoReturn:
    raise DamagedImage(f"it is of the type {quoted(kind)}, which no layer may have")


def clean(name: bytes) -> bytes:
    """Return a name as a path below the root, `.` and `..` resolved by the letter, as umoci's CleanPath does."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in {b"", b"."}:
            parts.append(part)
    return b"/".join(parts)
