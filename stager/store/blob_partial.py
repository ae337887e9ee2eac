"""A blob in flight: a file that grows from its start on, filled by whoever has locked it.

partial/<hex>/ or partial/<hex>.<owner>/
├── data    the bytes; an exclusive flock on it tells that somebody fills it
└── state   the boot in which they were written, and how many of them are synced: all that count after a power loss

The digest is known beforehand, so nothing else need be: bytes that are not the right ones are found at the end.
"""

from __future__ import annotations

import fcntl
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Self

from stager.errors import DigestMismatch, LeaderLost
from stager.process import boot_id
from stager.store import blob_files, files, segments
from stager.store.blob_hold import Hold
from stager.store.blob_reading import Growing, Growth

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.reference import Digest


class BlobPartial:
    """One process's copy in flight, which one thread appends to. What it holds outlives the process.

    `digest` and `size` (bytes) are the whole blob's. `resumed`: some bytes are an earlier process's, so that a
    mismatch may be theirs: begin anew then. All methods raise OSError as the file system does.
    """

    def __init__(
        self, fd: int, folder: str, final: str, *, digest: Digest, size: int, trace: Callable[[str], None]
    ) -> None:
        """Go on with `folder`/data, which `fd` is, locked by us; `final` is where the whole blob belongs."""
        self.folder, self.digest, self.size = folder, digest, size
        self._fd, self._final, self._trace = fd, final, trace
        self._open, self._sealed = True, False
        self._hold: Hold | None = None
        self._growth = Growth(0)
        self._adopt()

    @property
    def held(self) -> int:
        """How many bytes are there: where to go on."""
        return self._growth.held

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        return self.held == self.size

    def append(self, chunk: bytes) -> None:
        """Put `chunk` behind what is held. Raises DigestMismatch, keeping nothing of it, if that is too much."""
        if self.held + len(chunk) > self.size:
            raise DigestMismatch(f"the blob {self.digest} is longer than the {self.size} bytes that its manifest says")
        at, view = self.held, memoryview(chunk)
        while view:
            view = view[os.pwrite(self._fd, view, at + len(chunk) - len(view)) :]
        self._trace("written")
        self._hash.update(chunk)
        self._growth.grow(len(chunk))

    def restart(self) -> None:
        """Forget what is held; those who follow are told so by Restarted."""
        self._growth.restart(self._forget)
        self._write_state()

    def follow(self) -> Growing:
        """Return a file that reads the blob from the start on, in another thread, as it comes.

        Once it was given up, this raises what reading would: by then the descriptor's number may be another file's.
        """
        with self._growth.changed:
            if self._hold is not None:
                return self._hold.follow()
            if not self._open:
                raise self._growth.error or LeaderLost(f"the blob {self.digest} was given up")
            return Growing(self._fd, self._growth)

    def fail(self, error: BaseException) -> None:
        """Let those who follow fail with `error`. What is held stays."""
        self._growth.fail(error)

    def sync(self) -> None:
        """Make what is held survive a power loss; from another thread, too."""
        with self._growth.changed:
            held, version = self._growth.held, self._growth.version
            if self._sealed:
                return
        os.fdatasync(self._fd)
        aside = files.write_aside(self._state, _state(held), 0o600, durable=True)
        with self._growth.changed:
            if version == self._growth.version and not self._sealed:
                os.replace(aside, self._state)
                self.synced = held
            else:
                files.discard(aside)  # begun anew meanwhile, or published: what was counted is no more

    def commit(self) -> Hold:
        """Make it a blob of the cache, for all to find, and return our hold on it.

        Raises DigestMismatch if the bytes are not the right ones: those who follow wait for `restart` or `fail`.
        """
        self._verify()
        os.fdatasync(self._fd)
        self._trace("synced")
        self._seal()
        self._appear()
        self._trace("renamed")
        files.sync_directory(os.path.dirname(self._final))
        blob_files.remove(self.folder)
        blob_files.lock(self._fd, fcntl.LOCK_SH)  # the lock of him who fills becomes that of him who reads
        with self._growth.changed:
            self._open, self._hold = False, Hold(self._fd, self._final, self.digest, self.size)
        self._growth.finish()
        self._trace("committed")
        return self._hold

    def close(self) -> None:
        """Let go of it: what is held is for whoever goes on. May be called twice, and after `commit`."""
        self._let_go(remove=not self.held)

    def discard(self) -> None:
        """Remove it all."""
        self._let_go(remove=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _adopt(self) -> None:
        blob_files.clear(self.folder, "state")
        there = os.fstat(self._fd).st_size
        state = files.read_record(self._state) or {}
        self.synced = min(there, files.whole_number(state.get("synced")))
        trusted = there if state.get("boot") == boot_id() else self.synced
        # All of a blob's bytes can be judged whoever wrote them, and its beginning cannot.
        if (there == self.size and self._take(there)) or self._take(trusted):
            os.ftruncate(self._fd, self.held)
        else:
            self._forget()
        self.resumed = self.held > 0
        self._write_state()

    def _take(self, count: int) -> bool:
        """Go on behind the first `count` bytes; not if they are all and the wrong ones, or more than all."""
        self._hash = sha256()
        for block in segments.blocks(self._fd, 0, min(count, self.size)):
            self._hash.update(block)
        self._growth.held = count
        return count < self.size or (count == self.size and self._hash.hexdigest() == self.digest.hex)

    def _forget(self) -> None:
        os.ftruncate(self._fd, 0)
        self._hash = sha256()
        self._growth.held = self.synced = 0
        self.resumed = False

    def _verify(self) -> None:
        found = self._hash.hexdigest()
        if not self.complete:
            raise DigestMismatch(f"the blob {self.digest} ended after {self.held} of {self.size} bytes")
        if found != self.digest.hex:
            raise DigestMismatch(f"the bytes of the blob {self.digest} have the sha256 {found}")

    def _appear(self) -> None:
        parent = os.path.dirname(self._final)
        if not files.is_folder(parent):
            blob_files.own_folder(parent)
            files.sync_directory(os.path.dirname(parent))
        if files.is_folder(self._final):
            files.discard_tree(self._final)
        # Over one that is there already: it is the same, and who reads that one keeps it.
        os.rename(f"{self.folder}/data", self._final)

    def _seal(self) -> None:
        # Before the rename: afterwards the folder may be another's. A whole blob is judged by its digest alone.
        with self._growth.changed:
            self._sealed = True
            blob_files.clear(self.folder)

    def _let_go(self, *, remove: bool) -> None:
        if not self._open:
            return
        self._growth.fail(LeaderLost(f"the blob {self.digest} was given up before it was whole"))
        with self._growth.changed:
            self._open, self._sealed = False, True
        if remove:
            blob_files.clear(self.folder)
            files.discard(f"{self.folder}/data")
            blob_files.remove(self.folder)
        os.close(self._fd)

    @property
    def _state(self) -> str:
        return f"{self.folder}/state"

    def _write_state(self) -> None:
        files.write_text(self._state, _state(self.synced), 0o600)


def _state(synced: int) -> str:
    return files.record_text({"boot": boot_id(), "synced": str(synced)})
