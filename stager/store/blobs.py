"""The cache of blobs: layers of container images, kept once by digest, whatever number of images share them.

A blob is there from its rename on, or not at all. One process of a node fetches it; the others follow by looking again:

    while (held := blobs.hold(digest, size)) is None:
        if (copy := blobs.claim(digest, size)) is None:
            wait                                      # another fetches it: look again; pass it over with `aside`
            continue
        with copy:                                    # bytes from copy.held on are missing
            ...append...
            held = copy.commit()
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from stager import filesystem
from stager.errors import StoreUnusable
from stager.reference import Digest
from stager.store import blob_files, copies, files, segments
from stager.store.blob_hold import Hold
from stager.store.blob_partial import BlobPartial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.layout import Layout

PATIENCE, PAUSE = 0.2, 0.005
"""Seconds: of holding a blob that somebody looks at this moment to see whether it is idle, and between two tries."""

WORK = "work"
"""The folder of conversions among the copies in flight; those have names of 64 digits."""


class Blob(NamedTuple):
    """A blob of the cache: its size in bytes, and when it was last used, in wall-clock seconds."""

    digest: Digest
    size: int
    last_used: float


class Spare(NamedTuple):
    """What may go when there is no room: a blob that nobody holds, or a copy in flight that nobody fills.

    `size` in bytes, `last_used` in wall-clock seconds; `drop` removes it, unless it is in use by now, and returns the
    bytes freed.
    """

    name: str
    size: int
    last_used: float
    drop: Callable[[], int]


def _nothing(_point: str) -> None:
    return


class Blobs:
    """The blobs of one store. Methods raise OSError as the file system does, and StoreUnusable for a foreign cache.

    `trace` is called at named points, for tests: claimed, written, synced, renamed, committed, dropping.
    """

    def __init__(self, layout: Layout, trace: Callable[[str], None] = _nothing) -> None:
        self.layout = layout
        self._trace = trace

    def find(self, digest: Digest, size: int) -> str | None:
        """Return the path of a blob if it is there, a file of ours of the right size. Anything else there is removed.

        It may be evicted at once: `hold` what is to be read.
        """
        path = self.layout.blob(digest)
        parent = os.path.dirname(path)
        if not all(files.is_folder(folder) for folder in (self.layout.blobs, os.path.dirname(parent), parent)):
            return None
        try:
            there = os.lstat(path)
        except OSError:
            return None  # and what comes there at this very moment is another process's, whole and sound
        if blob_files.is_sound(path, size):
            return path
        if blob_files.is_same(there, path):
            files.discard_tree(path)
        return None

    def hold(self, digest: Digest, size: int) -> Hold | None:
        """Return a hold on a blob that is there, which counts as using it; None if there is none."""
        until = time.monotonic() + PATIENCE
        while self.find(digest, size) is not None:
            fd = blob_files.open_locked(self.layout.blob(digest), fcntl.LOCK_SH)
            if fd is not None:
                return Hold(fd, self.layout.blob(digest), digest, size)
            if time.monotonic() > until:
                return None
            time.sleep(PAUSE)
        return None

    def claim(self, digest: Digest, size: int, *, aside: bool = False) -> BlobPartial | None:
        """Return the copy in flight to fill, with what is there of it; None if it is not for us: then look again.

        That is so while another process fills it, and when one has just finished it. With `aside` it is one beside
        that of a process which lives but no longer moves.
        """
        self._make()
        folder = self._aside(digest) if aside else self.layout.blob_partial(digest.hex)
        fd = blob_files.claim(folder)
        if fd is None:
            return None
        self._trace("claimed")
        try:
            copy = BlobPartial(fd, folder, self.layout.blob(digest), digest=digest, size=size, trace=self._trace)
        except OSError:
            os.close(fd)
            raise
        if not aside and self.find(digest, size) is not None:
            copy.discard()
            return None
        return copy

    def arrived(self, digest: Digest) -> int:
        """Return how many bytes of a blob are in flight that another claimed: while they grow, it still moves."""
        with suppress(OSError):
            return os.lstat(f"{self.layout.blob_partial(digest.hex)}/data").st_size
        return 0

    def all(self) -> list[Blob]:
        """Return the blobs that are there, in order of their digests."""
        found = []
        for path, digits in blob_files.blob_names(self.layout.blobs):
            status = blob_files.sound_status(path)
            if status is not None:
                found.append(Blob(Digest(digits), status.st_size, status.st_mtime))
        return found

    def idle(self) -> list[Blob]:
        """Return the blobs that nobody holds, the longest unused first."""
        return sorted((blob for blob in self.all() if self._is_idle(blob)), key=lambda blob: blob.last_used)

    def spare(self) -> list[Spare]:
        """Return all that may go, the longest unused first."""
        blobs = [Spare(str(b.digest), b.size, b.last_used, partial(self.drop, b.digest)) for b in self.idle()]
        unfilled = [
            Spare(f"unfinished {os.path.basename(path)[:12]}", size, written, partial(self.drop_orphan, path))
            for path, size, written in self.orphans()
        ]
        return sorted(blobs + unfilled, key=lambda one: one.last_used)

    def total_size(self) -> int:
        """Return the bytes of all blobs, with those in flight that nobody fills."""
        return sum(blob.size for blob in self.all()) + sum(size for _, size, _ in self.orphans())

    def drop(self, digest: Digest) -> int:
        """Remove a blob unless somebody holds it; return the bytes freed."""
        path = self.layout.blob(digest)
        fd = blob_files.open_locked(path, fcntl.LOCK_EX)
        if fd is None:
            return 0
        try:
            self._trace("dropping")
            files.discard(path)
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def verify(self, blob: Blob) -> str:
        """Read a blob's bytes again and remove a bad one; return what is wrong, or "". This is no use of it."""
        path = self.layout.blob(blob.digest)
        fd = blob_files.open_locked(path, fcntl.LOCK_SH)
        if fd is None:
            return ""  # gone meanwhile, or going
        found = sha256()
        try:
            for block in segments.blocks(fd, 0, segments.UNKNOWN_END):
                found.update(block)
        except OSError as error:
            why = f"it cannot be read: {error.strerror or error}"
        else:
            why = "" if found.hexdigest() == blob.digest.hex else f"its sha256 is {found.hexdigest()}"
        finally:
            status = os.fstat(fd)
            os.close(fd)
        if not why or not blob_files.is_same(status, path):
            return why
        files.discard(path)  # whoever holds it keeps what he has
        return f"{why}; removed"

    def orphans(self) -> list[tuple[str, int, float]]:
        """Return the copies in flight that nobody fills: path, bytes on disk, and when last written, by wall clock."""
        found = []
        for name in files.names(self.layout.blob_partials):
            path = self.layout.blob_partial(name)
            status = _status_of_idle(path)
            if status is not None:
                found.append((path, status.st_blocks * 512, status.st_mtime))
        return found

    def drop_orphan(self, path: str) -> int:
        """Remove a copy in flight unless somebody fills it; return the bytes freed."""
        if not files.is_folder(path):
            files.discard(path)
            return 0
        fd = blob_files.claim(path)
        if fd is None:
            return 0
        try:
            size = os.fstat(fd).st_blocks * 512
            blob_files.clear(path)
            files.discard(f"{path}/data")
            blob_files.remove(path)
            return size
        finally:
            os.close(fd)

    @contextmanager
    def work_folder(self, *, allow_unsafe: bool = False) -> Iterator[str]:
        """Give a directory of our own on the store's file system, for a conversion's time; removed with all in it.

        Raises StoreUnusable on a network file system, where the many small reads and writes of a conversion would be
        everybody's burden and locks may mean nothing, unless `allow_unsafe`.
        """
        found = filesystem.inspect(self.layout.root)
        if found.network and not allow_unsafe:
            raise StoreUnusable(f"container images are not converted on a network file system ({found.fstype})")
        folder = copies.own_folder(self.layout.partials(WORK))
        blob_files.own_folder(os.path.dirname(folder))
        os.mkdir(folder, 0o700)
        try:
            yield folder
        finally:
            files.discard_tree(folder)

    def _make(self) -> None:
        blob_files.top_folder(self.layout.blobs)
        blob_files.own_folder(f"{self.layout.blobs}/sha256")
        blob_files.own_folder(self.layout.blob_partials)

    def _aside(self, digest: Digest) -> str:
        """Return a dead process's copy beside the other one, or else a new name."""
        for path, _, _ in self.orphans():
            if os.path.basename(path).startswith(f"{digest.hex}."):
                return path
        return self.layout.blob_partial(f"{digest.hex}.{files.unique()}")

    def _is_idle(self, blob: Blob) -> bool:
        fd = blob_files.open_locked(self.layout.blob(blob.digest), fcntl.LOCK_EX)
        if fd is None:
            return False
        os.close(fd)
        return True


def _status_of_idle(path: str) -> os.stat_result | None:
    """Return what is known of a copy in flight, or of what lies among them, unless somebody fills it."""
    data = f"{path}/data"
    if not files.is_folder(path) or not os.path.lexists(data):
        try:
            return os.lstat(path)
        except OSError:
            return None
    fd = blob_files.open_locked(data, fcntl.LOCK_EX)
    if fd is None:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)
