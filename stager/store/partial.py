"""Bytes in flight: a file that grows in segments, and what is known of it, so that anybody can go on after a crash.

partial/<key>/<pid.start.boot.random>/
├── data        the bytes, sparse while several segments grow
├── state       origin, validators, size, boot
├── progress    (start, position, end) of each segment: three times 8 bytes little-endian, overwritten in place
└── durable     the same as of the last fdatasync: all that counts after a reboot

The page cache outlives a killed process but not a power loss, so `progress` counts in the boot that wrote it only.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from stager.interfaces import Validators
from stager.process import ProcessIdentity, boot_id
from stager.reference import Digest
from stager.store import files

if TYPE_CHECKING:
    from collections.abc import Iterator

UNKNOWN_END = (1 << 63) - 1
_TRIPLE = struct.Struct("<QQQ")
_BLOCK = 1 << 20
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC


class Segment:
    """A run of the image that one stream fills: bytes [start, position) are there, [position, end) are missing."""

    __slots__ = ("end", "index", "position", "start")

    def __init__(self, start: int, position: int, end: int, index: int = 0) -> None:
        self.start = start
        self.position = position
        self.end = end
        self.index = index

    @property
    def missing(self) -> int:
        """Bytes still to come."""
        return self.end - self.position


class Partial:
    """One process's own copy in flight. Not safe for two processes; segments may be filled by threads, one each."""

    def __init__(self, folder: str) -> None:
        """Open or make the copy in `folder`, a directory that this process owns."""
        self.folder = folder
        files.make_folders(folder)
        self._data = os.open(self.path, _FLAGS | (os.O_RDONLY if self.sealed else os.O_RDWR | os.O_CREAT), 0o600)
        self._progress = os.open(f"{folder}/progress", _FLAGS | os.O_RDWR | os.O_CREAT, 0o600)
        self._open: tuple[int, ...] = (self._data, self._progress)
        self._lock = threading.Lock()
        self._version = 0
        self._start_hash()
        state = files.read_record(f"{folder}/state")
        self.origin, self.private, self.validators = _description(state or {})
        self.size = self.validators.size
        self.segments = self._trusted_segments((state or {}).get("boot", "")) if state else []
        self._write_progress()
        if state and state.get("boot") != boot_id():
            self._write_state()  # from here on `progress` counts: what is fetched now is safe from the next crash

    @property
    def path(self) -> str:
        """The file that holds the bytes."""
        return f"{self.folder}/data"

    @property
    def sealed(self) -> bool:
        """Whether the file is complete and was about to be published, if it was not: then it is the image's own inode.

        Publishing takes away the right to write first and links after that, so a file like that is never written again.
        """
        try:
            return not os.lstat(self.path).st_mode & 0o200
        except FileNotFoundError:
            return False

    @property
    def position(self) -> int:
        """How many bytes are there from the start on, without a gap."""
        reached = 0
        for segment in sorted(self.segments, key=lambda s: s.start):
            if segment.start > reached:
                break
            reached = max(reached, segment.position)
        return reached

    @property
    def held(self) -> int:
        """How many bytes are there in all."""
        return sum(s.position - s.start for s in self.segments)

    @property
    def complete(self) -> bool:
        """Whether every byte of a known size is there."""
        return self.size is not None and self.position >= self.size

    def begin(self, validators: Validators, size: int | None, origin: str, *, private: bool) -> None:
        """Forget what is held and start over with another version, in a new file: the old may be an image by now.

        In this order, whoever reads state, data and state again, the same both times, has bytes of that version.
        """
        with self._lock:
            self._version += 1
            files.discard(f"{self.folder}/durable")
            self._replace_segments([])
            self.validators, self.size, self.origin, self.private = validators, size, origin, private
            self._write_state()
            self._replace_data()
            self._start_hash()
            self._replace_segments([Segment(0, 0, UNKNOWN_END if size is None else size)])

    def write(self, segment: Segment, chunk: bytes) -> int:
        """Put `chunk` at the segment's position; bytes past its end are dropped. Returns how many were kept."""
        kept = chunk[: segment.missing] if len(chunk) > segment.missing else chunk
        view = memoryview(kept)
        while view:
            view = view[os.pwrite(self._data, view, segment.position + len(kept) - len(view)) :]
        if segment.position == self._hashed:
            self._hash.update(kept)
            self._hashed += len(kept)
        with self._lock:  # `split` may be cutting this very segment
            segment.position += len(kept)
            os.pwrite(self._progress, _TRIPLE.pack(segment.start, segment.position, segment.end), segment.index * 24)
        return len(kept)

    def finish(self) -> None:
        """Take the bytes held for all there are: the origin ended a stream of unknown size."""
        self.size = self.position
        self._replace_segments([Segment(0, self.size, self.size)])
        self._write_state()

    def split(self, segment: Segment) -> Segment:
        """Cut the missing part of a segment in two halves; return the later one as a segment of its own."""
        with self._lock:
            middle = segment.position + segment.missing // 2
            later = Segment(middle, middle, segment.end)
            segment.end = middle
            self._replace_segments([*self.segments, later])
        return later

    def digest(self) -> Digest:
        """Return the sha256 of the bytes held from the start on; reads only what has not been hashed in passing."""
        for block in _blocks(self._data, self._hashed, self.position):
            self._hash.update(block)
            self._hashed += len(block)
        return Digest(self._hash.hexdigest())

    def sync(self) -> None:
        """Make what is held survive a power loss. Raises OSError (ENOSPC on delayed allocation)."""
        with self._lock:
            counted, version = self._packed(), self._version
        os.fdatasync(self._data)
        aside = f"{self.folder}/.durable.{os.urandom(4).hex()}"
        with open(aside, "wb") as file:
            file.write(counted)
            file.flush()
            os.fsync(file.fileno())
        with self._lock:
            if version == self._version:
                os.replace(aside, f"{self.folder}/durable")
            else:
                files.discard(aside)  # the copy was begun anew meanwhile: what was counted is no more

    def fileno(self) -> int:
        """The descriptor of the data, for readers of the header."""
        return self._data

    def close(self) -> None:
        """Let go of the files; what is held stays for whoever goes on. May be called twice."""
        for fd in self._open:
            os.close(fd)
        self._open = ()

    def leave(self) -> None:
        """Let go of it: what is held is for whoever goes on, at once and not only when this process has ended."""
        if self._open and not self.held:
            self.discard()
        elif self._open:
            with suppress(OSError):  # then it is gone on with once this process has ended
                os.rename(self.folder, f"{os.path.dirname(self.folder)}/left.{os.urandom(6).hex()}")
            self.close()

    def discard(self) -> None:
        """Remove it all: the image is published or worthless."""
        self.close()
        files.discard_tree(self.folder)

    def _start_hash(self) -> None:
        self._hash = sha256()
        self._hashed = 0

    def _replace_data(self) -> None:
        files.discard(self.path)
        fresh = os.open(self.path, _FLAGS | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.dup2(fresh, self._data, inheritable=False)
        os.close(fresh)

    def _write_state(self) -> None:
        record = {"version": os.urandom(8).hex(), "origin": self.origin, "private": "yes" if self.private else "no"}
        record |= {"etag": self.validators.etag, "modified": self.validators.modified, "boot": boot_id()}
        record["size"] = "" if self.size is None else str(self.size)
        files.write_record(f"{self.folder}/state", record, 0o600, durable=True)

    def _replace_segments(self, segments: list[Segment]) -> None:
        for index, segment in enumerate(segments):
            segment.index = index
        self.segments = segments
        self._write_progress()

    def _write_progress(self) -> None:
        os.pwrite(self._progress, self._packed(), 0)
        os.ftruncate(self._progress, 24 * len(self.segments))

    def _packed(self) -> bytes:
        return b"".join(_TRIPLE.pack(s.start, s.position, s.end) for s in self.segments)

    def _trusted_segments(self, boot: str) -> list[Segment]:
        name = "progress" if boot == boot_id() else "durable"
        held = os.fstat(self._data).st_size
        if self.sealed and held != self.size:
            return []
        return _segments(f"{self.folder}/{name}", held, UNKNOWN_END if self.size is None else self.size)


def own_folder(root: str) -> str:
    """Return a fresh directory name below `root` that tells whose it is."""
    return f"{root}/{files.unique()}"


def adopt(root: str) -> Partial | None:
    """Take over the fullest copy below `root` whose owner is dead, or return None. Renaming decides between takers."""
    orphans = sorted((folder for folder in folders(root) if owner(folder) is None), key=_weight, reverse=True)
    for orphan in orphans:
        mine = own_folder(root)
        try:
            os.rename(orphan, mine)
            return Partial(mine)
        except OSError:
            continue
    return None


def folders(root: str) -> list[str]:
    """Return the directories of all copies below `root`."""
    return [folder for folder in (f"{root}/{name}" for name in files.names(root)) if files.is_folder(folder)]


def owner(folder: str) -> ProcessIdentity | None:
    """Return the living process that fills a copy, or None."""
    identity = ProcessIdentity.parse(os.path.basename(folder).rpartition(".")[0])
    return identity if identity is not None and identity.alive else None


def _weight(folder: str) -> int:
    state = files.read_record(f"{folder}/state") or {}
    name = "progress" if state.get("boot") == boot_id() else "durable"
    return sum(s.position - s.start for s in _segments(f"{folder}/{name}", UNKNOWN_END, UNKNOWN_END))


def _segments(path: str, held: int, size: int) -> list[Segment]:
    """Read segments, and drop them all if they are not a sound account of `held` bytes of `size`."""
    try:
        with open(path, "rb", opener=_open_regular) as file:
            packed = file.read(24 * 1024)
    except OSError:
        return []
    whole = len(packed) // 24 * 24
    triples = enumerate(_TRIPLE.iter_unpack(packed[:whole]))
    found = [Segment(start, position, end, index) for index, (start, position, end) in triples]
    # A segment in which nothing has arrived yet may lie behind the end of the file.
    sound = all(s.start <= s.position <= s.end <= size and (s.position <= held or s.position == s.start) for s in found)
    return found if sound and _is_gapless(found, size) else []


def _open_regular(path: str, flags: int) -> int:
    fd = os.open(path, flags | _FLAGS | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file", path)


def _is_gapless(segments: list[Segment], size: int) -> bool:
    reached = 0
    for segment in sorted(segments, key=lambda s: s.start):
        if segment.start != reached:
            return False
        reached = segment.end
    return size in (UNKNOWN_END, reached)


def borrow(root: str, into: Partial) -> int:
    """Copy the gapless beginning of the fullest copy below `root` that a living process fills; return its bytes.

    For the successor of a leader that lives but no longer moves: its files cannot be taken, what is in them can.
    """
    busy = [folder for folder in folders(root) if folder != into.folder and owner(folder) is not None]
    for folder in sorted(busy, key=_weight, reverse=True):
        try:
            return _borrow_from(folder, into)
        except (OSError, ValueError):
            into.begin(Validators(), None, "", private=False)
    return 0


def _borrow_from(folder: str, into: Partial) -> int:
    state = files.read_record(f"{folder}/state")
    with open(f"{folder}/data", "rb", opener=_open_regular) as data:
        if state is None or state.get("boot") != boot_id():
            raise ValueError("nothing is known of the copy")
        origin, private, version = _description(state)
        held = os.fstat(data.fileno()).st_size
        segments = _segments(f"{folder}/progress", held, UNKNOWN_END if version.size is None else version.size)
        if not segments or state != files.read_record(f"{folder}/state"):
            raise ValueError("nothing is accounted for, or the copy has been begun anew meanwhile")
        into.begin(version, version.size, origin, private=private)
        for block in _blocks(data.fileno(), 0, min(s.position for s in segments if s.start == 0)):
            into.write(into.segments[0], block)
    return into.position


def _description(state: dict[str, str]) -> tuple[str, bool, Validators]:
    size = files.whole_number(state.get("size")) if state.get("size") else None
    validators = Validators(state.get("etag", ""), state.get("modified", ""), size)
    return state.get("origin", ""), state.get("private") == "yes", validators


def _blocks(fd: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        block = os.pread(fd, min(_BLOCK, end - start), start)
        if not block:
            return
        yield block
        start += len(block)
