"""What a node holds of one image: so many bytes from the start, each chunk of them vouched for."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from hashlib import sha256

from stager.relay.wire import CHUNK, RECORD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.relay.secret import Secret


class Holding:
    """The verified beginning of a growing file, with the records of its chunks.

    `fd` is the image's file, readable, and writable where an upstream fills it; it is duplicated. `folder` is on a disk
    that has room for the records, 64 bytes for 256 KiB; they have no name there. `own` bytes of the file, from the
    start, are there from before without anybody vouching for them: they need not be fetched again if they turn out
    to be right. One thread at a time may append; any may read.
    """

    def __init__(self, fd: int, *, staging: str, generation: int, secret: Secret, folder: str, own: int = 0) -> None:
        self.staging = staging
        self.generation = generation
        self.own = own
        self.verified = 0
        self._secret = secret
        self._size: int | None = None
        self._hash = sha256()
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self.data = os.dup(fd)
        try:
            self.records = _nameless(folder)
        except OSError:
            os.close(self.data)
            raise
        self._open: tuple[int, ...] = (self.data, self.records)

    @property
    def size(self) -> int | None:
        """The whole image's size in bytes, None while nobody knows."""
        return self._size

    @size.setter
    def size(self, size: int) -> None:
        """Say how long it is. Raises ValueError if that cannot be."""
        with self._lock:
            if self._size is not None and self._size != size:
                raise ValueError(f"the image has {self._size} bytes, not {size}")
            if size < self.verified or (self.verified % CHUNK and size != self.verified):
                raise ValueError(f"{self.verified} bytes of the image are verified, so it cannot have {size}")
            self._size = size
        self._tell()

    @property
    def complete(self) -> bool:
        """Whether all of it is verified."""
        return self.verified == self._size

    @property
    def counted(self) -> int:
        """How many chunks are verified."""
        return -(-self.verified // CHUNK)

    def root(self) -> str:
        """Return the sha256 over the sha256s of the verified chunks: with the size, it binds every byte."""
        with self._lock:
            return self._hash.hexdigest()

    def append(self, sha: bytes, length: int) -> None:
        """Vouch for the next `length` bytes, whose sha256 is `sha`, as the head does.

        Only the image's last chunk may be short, so a short one tells the size. Raises ValueError, OSError.
        """
        self._append(self._secret.record(self.staging, self.generation, self.counted, sha), [sha], length)

    def accept(self, records: bytes, shas: list[bytes], length: int) -> int:
        """Take over the records of the next chunks, `length` bytes in all; return how many of the chunks were right.

        A chunk is right if its record is sound and its sha256 the one in there; none counts after a wrong one. Raises
        OSError.
        """
        right = self._right(records, shas)
        whole = right == len(shas)
        try:
            self._append(records[: right * RECORD], shas[:right], length if whole else right * CHUNK)
        except ValueError:
            return 0
        return right

    def read(self, view: memoryview, offset: int) -> int:
        """Fill `view` from the file; return how many bytes there were. Raises OSError."""
        done = 0
        while done < len(view) and (got := os.preadv(self.data, [view[done:]], offset + done)):
            done += got
        return done

    def write(self, view: memoryview, offset: int) -> None:
        """Put bytes into the file; that counts nothing. Raises OSError."""
        while view:
            done = os.pwrite(self.data, view, offset)
            view, offset = view[done:], offset + done

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, in whatever thread, when more is verified or the size becomes known."""
        self._listeners = [*self._listeners, listener]

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Have it called no more."""
        self._listeners = [other for other in self._listeners if other != listener]

    def close(self) -> None:
        """Let go of the files. Nobody may be reading or appending. May be called twice."""
        for fd in self._open:
            os.close(fd)
        self._open = ()
        self.data = self.records = -1

    def _right(self, records: bytes, shas: list[bytes]) -> int:
        first = self.counted
        for index, sha in enumerate(shas):
            record = records[index * RECORD : (index + 1) * RECORD]
            if self._secret.check_record(self.staging, self.generation, first + index, record) != sha:
                return index
        return len(shas)

    def _append(self, records: bytes, shas: list[bytes], length: int) -> None:
        with self._lock:
            reached = self.verified + length
            last = reached if self._size is None else self._size
            short = reached % CHUNK and reached != last
            if short or reached > last or self.verified % CHUNK or -(-length // CHUNK) != len(shas):
                raise ValueError(f"{length} bytes after {self.verified} of {self._size} are not {len(shas)} chunks")
            os.pwrite(self.records, records, self.verified // CHUNK * RECORD)
            self._hash.update(b"".join(shas))
            if reached % CHUNK:
                self._size = reached
            self.verified = reached  # last: whoever sees it finds records and size
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


class ChunkHasher:
    """Vouches for the chunks of a file that this node itself fills from the origin: the head's work.

    `position` tells how many bytes are there from the start. They are read again from the page cache, so that whoever
    writes them need not know of it. By `step`, or in a thread of its own by `start`.
    """

    PAUSE = 0.02
    """Seconds between two looks at `position` while nobody calls `wake`; the time of 256 KiB at 100 Mbit/s."""

    def __init__(self, holding: Holding, position: Callable[[], int]) -> None:
        self.error: OSError | None = None
        """What ended it before its time."""
        self.done = threading.Event()
        """Set when everything is verified, or nothing more will be."""
        self._holding = holding
        self._position = position
        self._finished = False
        self._stopped = False
        self._news = threading.Event()
        self._view = memoryview(bytearray(CHUNK))
        self._thread = threading.Thread(target=self._run, name="relay-hasher", daemon=True)

    def start(self) -> None:
        """Follow the file in a thread."""
        self._thread.start()

    def wake(self) -> None:
        """Say that more bytes are there."""
        self._news.set()

    def finish(self) -> None:
        """Say that the bytes there are all there will be, which tells the size."""
        self._finished = True
        self._news.set()

    def stop(self) -> None:
        """End the thread; return when it has ended."""
        self._stopped = True
        self._news.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def step(self) -> bool:
        """Vouch for one more chunk if one is there; return whether. Raises OSError."""
        holding = self._holding
        finished = self._finished  # before the position is asked for, which then is the last one
        start, reached = holding.verified, self._position()
        if finished and holding.size is None and reached >= start:
            holding.size = reached
        length = min(CHUNK, reached - start)
        if length <= 0 or (length < CHUNK and reached != holding.size):
            return False
        view = self._view[:length]
        if holding.read(view, start) < length:
            raise OSError(f"the file ends before byte {start + length}")
        holding.append(sha256(view).digest(), length)
        return True

    def _run(self) -> None:
        try:
            while not self._stopped and not self._holding.complete:
                self._news.clear()
                finished = self._finished
                if not self.step():
                    if finished:
                        break
                    self._news.wait(self.PAUSE)
        except OSError as error:
            self.error = error
        except ValueError as error:
            self.error = OSError(str(error))
        finally:
            self.done.set()


def _nameless(folder: str) -> int:
    """Return a new file without a name: O_TMPFILE or, where the file system has none (NFS, FUSE), a removed one."""
    with suppress(OSError):
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    path = f"{folder}/.records.{os.urandom(8).hex()}"
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.unlink(path)
    except OSError:
        os.close(fd)
        raise
    return fd
