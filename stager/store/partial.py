"""Bytes in flight: a file that grows in segments, and what is known of it, so that anybody can go on after a crash.

partial/<key>/<pid.start.boot.random>/
├── data        the bytes, sparse while several segments grow
├── state       origin, validators, size, boot; the digest once all is there
├── progress    (start, position, end) of each segment: three times 8 bytes little-endian, overwritten in place
└── durable     the same as of the last fdatasync: all that counts after a reboot

The page cache outlives a killed process but not a power loss, so `progress` counts in the boot that wrote it only.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from stager.interfaces import Validators
from stager.process import boot_id
from stager.reference import Digest
from stager.store import files, segments
from stager.store.segments import FLAGS, TRIPLE, UNKNOWN_END, Segment

if TYPE_CHECKING:
    from collections.abc import Callable


class Partial:
    """One process's own copy in flight. Not safe for two processes; segments may be filled by threads, one each."""

    def __init__(self, folder: str) -> None:
        """Open or make the copy in `folder`, a directory that this process owns."""
        self.folder = folder
        files.make_folders(folder)
        self._data = os.open(self.path, FLAGS | (os.O_RDONLY if self.sealed else os.O_RDWR | os.O_CREAT), 0o600)
        self._progress = os.open(f"{folder}/progress", FLAGS | os.O_RDWR | os.O_CREAT, 0o600)
        self._open: tuple[int, ...] = (self._data, self._progress)
        self._lock = threading.Lock()
        self._version = 0
        self._vouched: Digest | None = None
        self._start_hash()
        state = files.read_record(f"{folder}/state")
        self.origin, self.private, self.validators = description(state or {})
        self.size = self.validators.size
        self._promised = (state or {}).get("digest", "")
        self.segments = self._trusted_segments((state or {}).get("boot", "")) if state else []
        self.synced = self.held
        """How many bytes survive a power loss, as far as we have seen to it."""
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
            self._vouched, self._promised = None, ""
            files.discard(f"{self.folder}/durable")
            self._replace_segments([])
            self.validators, self.size, self.origin, self.private = validators, size, origin, private
            self._write_state()
            self._replace_data()
            self._start_hash()
            self.synced = 0
            self._replace_segments([Segment(0, 0, UNKNOWN_END if size is None else size)])

    def take(
        self,
        made: str,
        validators: Validators,
        origin: str,
        *,
        private: bool,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Be, all of it, the file `made` of this user's, which moves here; else as `begin`.

        Between two file systems it is copied, and counts as it comes; `check` may raise to end that.
        """
        taken = os.open(made, FLAGS | os.O_RDWR)
        try:
            size = os.fstat(taken).st_size
            self.begin(replace(validators, size=size), size, origin, private=private)
            self._take(made, taken, size, check)
        finally:
            os.close(taken)

    def _take(self, made: str, taken: int, size: int, check: Callable[[], None]) -> None:
        try:
            os.rename(made, self.path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            for block in segments.blocks(taken, 0, size):  # a copy that all nodes see; `made` is on local disk
                self.write(self.segments[0], block)
                check()
            return
        with self._lock:
            os.dup2(taken, self._data, inheritable=False)
            self._replace_segments([Segment(0, size, size)])

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
            os.pwrite(self._progress, TRIPLE.pack(segment.start, segment.position, segment.end), segment.index * 24)
        return len(kept)

    def advance(self, position: int) -> None:
        """Count the bytes up to `position`, which somebody else has put there, in the only segment."""
        with self._lock:
            segment = self.segments[0]
            segment.position = max(segment.position, position)
            os.pwrite(self._progress, TRIPLE.pack(segment.start, segment.position, segment.end), 0)

    def keep_beginning(self) -> None:
        """Go on in one segment, from the end of what is there without a gap; what lies behind it is forgotten."""
        with self._lock:
            end = UNKNOWN_END if self.size is None else self.size
            self._replace_segments([Segment(0, self.position, end)])

    def settle_size(self, size: int) -> None:
        """Take in a size that was not known at the beginning."""
        with self._lock:
            self.size = size
            self.validators = replace(self.validators, size=size)
            self._replace_segments([Segment(0, min(self.position, size), size)])
            self._write_state()

    def vouch(self, digest: Digest) -> None:
        """Know the digest of all the bytes without hashing them: each was compared with what has this digest."""
        self._vouched = digest

    def promise(self, digest: Digest) -> None:
        """Remember what the whole copy was found to be, for whoever goes on with it after a crash."""
        if self._promised != str(digest):
            self._promised = str(digest)
            self._write_state()

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
        if self._vouched is not None:
            return self._vouched
        for block in segments.blocks(self._data, self._hashed, self.position):
            self._hash.update(block)
            self._hashed += len(block)
        return Digest(self._hash.hexdigest())

    def reread(self) -> Digest:
        """Return the sha256 of what the file holds now, whatever was hashed when it was written."""
        found = sha256()
        for block in segments.blocks(self._data, 0, self.position):
            found.update(block)
        return Digest(found.hexdigest())

    def sync(self) -> None:
        """Make what is held survive a power loss. Raises OSError (ENOSPC on delayed allocation)."""
        with self._lock:
            counted, held, version = self._packed(), self.held, self._version
        os.fdatasync(self._data)
        aside = f"{self.folder}/.durable.{os.urandom(4).hex()}"
        with open(aside, "wb") as file:
            file.write(counted)
            file.flush()
            os.fsync(file.fileno())
        with self._lock:
            if version == self._version:
                os.replace(aside, f"{self.folder}/durable")
                self.synced = held
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
        fresh = os.open(self.path, FLAGS | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.dup2(fresh, self._data, inheritable=False)
        os.close(fresh)

    def _write_state(self) -> None:
        record = {"version": os.urandom(8).hex(), "origin": self.origin, "private": "yes" if self.private else "no"}
        record |= {"etag": self.validators.etag, "modified": self.validators.modified, "boot": boot_id()}
        record |= {"size": "" if self.size is None else str(self.size), "digest": self._promised}
        files.write_record(f"{self.folder}/state", record, 0o600, durable=True)

    def _replace_segments(self, segments: list[Segment]) -> None:
        for index, segment in enumerate(segments):
            segment.index = index
        self.segments = segments
        self._write_progress()

    def _write_progress(self) -> None:
        os.pwrite(self._progress, self._packed(), 0)
        os.ftruncate(self._progress, 24 * len(self.segments))

    def _is_rotten(self, size: int) -> bool:
        # It is a published image's own inode: whatever happened to that happened to it.
        for block in segments.blocks(self._data, 0, size):
            self._hash.update(block)
        self._hashed = size
        return self._promised != f"sha256:{self._hash.hexdigest()}"

    def _packed(self) -> bytes:
        return segments.packed(self.segments)

    def _trusted_segments(self, boot: str) -> list[Segment]:
        name = "progress" if boot == boot_id() else "durable"
        held = os.fstat(self._data).st_size
        if self.sealed and (held != self.size or self._is_rotten(held)):
            return []
        return segments.read(f"{self.folder}/{name}", held, UNKNOWN_END if self.size is None else self.size)


def description(state: dict[str, str]) -> tuple[str, bool, Validators]:
    """Return origin, whether the image is private, and version, of a copy's `state`."""
    size = files.whole_number(state.get("size")) if state.get("size") else None
    validators = Validators(state.get("etag", ""), state.get("modified", ""), size)
    return state.get("origin", ""), state.get("private") == "yes", validators
