"""Where a node's bytes come from when it is not the head: one other node, for as long as that one is good for it.

Two threads, because hashing costs more than receiving, and all of recv, pwrite and sha256 let go of the interpreter's
lock: the receiver gets bytes and writes them, the verifier gets the records, hashes, counts, and decides.
"""

from __future__ import annotations

import threading
from hashlib import sha256
from queue import SimpleQueue

from stager.relay.link import Link, PeerLost
from stager.relay.wire import CHUNK, RECORD, Answer, NotUnderstood, parse_content_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.clock import Clock
    from stager.relay.holding import Holding
    from stager.relay.secret import Secret

BATCH = 4
"""Chunks that go from one thread to the other at once, if so many are there already: less waking up at full speed."""

BUFFERS = 4
"""Batches on their way between the two threads: 4 MiB, whatever the image's size."""

LOST = {"refused": "refused", "silent": "refused", "denied": "refused", "stranger": "refused"}
"""What each PeerLost.why is to the coordinator; the others go by their own name."""


class Upstream:
    """Fills `holding` from the node at `address`, from `holding.verified` on.

    `advance` is called after each verified chunk, in a thread of this upstream, with the bytes verified from the start;
    it may raise OSError. `done` is set, and nothing written any more, once the image is complete, or `lost` says why
    it is not, or `error` holds what the node's own disk said, or it was stopped.
    """

    def __init__(  # noqa: PLR0913 - whom, what, where to
        self,
        address: str,
        *,
        staging: str,
        generation: int,
        secret: Secret,
        holding: Holding,
        advance: Callable[[int], None],
        connect_timeout: float = 5.0,
        clock: Clock | None = None,
    ) -> None:
        self.address = address
        self.done = threading.Event()
        self.lost = ""
        """refused, reset, corrupt, or ended (it has this image no longer); empty while it goes on, or is complete."""
        self.why = ""
        """The same for people."""
        self.error: OSError | None = None
        self._path = f"/v1/{staging}/{generation}"
        self._holding = holding
        self._advance = advance
        self._timeout = connect_timeout
        self._image = Link(address, secret, clock)
        self._records = Link(address, secret, clock)
        self._unused = b""
        self._stopped = False
        self._free: SimpleQueue[memoryview | None] = SimpleQueue()
        self._spans: SimpleQueue[tuple[int, int | None] | None] = SimpleQueue()
        self._filled: SimpleQueue[tuple[memoryview, int, bool] | PeerLost | OSError | None] = SimpleQueue()
        self._receiver = threading.Thread(target=self._receive, name="relay-receiver", daemon=True)
        self._verifier = threading.Thread(target=self._run, name="relay-verifier", daemon=True)

    def start(self) -> None:
        """Begin, in threads."""
        for _ in range(BUFFERS):
            self._free.put(memoryview(bytearray(BATCH * CHUNK)))
        self._receiver.start()
        self._verifier.start()

    @property
    def silence(self) -> float:
        """Seconds for which it has been waiting for a byte, 0 while it does not wait for any."""
        return max(self._image.silence, self._records.silence)

    def stop(self) -> None:
        """End it, from any thread at any moment.

        Returns when nothing will be written any more; in a thread of its own (from `advance`), at once.
        """
        self._stopped = True
        self._release()
        if self._verifier.ident is None:
            self.done.set()
        self.join()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended."""
        if threading.current_thread() not in {self._verifier, self._receiver}:
            self.done.wait(timeout)

    def _run(self) -> None:
        try:
            self._fill_holding()
        except PeerLost as lost:
            if not self._stopped:
                self.lost, self.why = LOST.get(lost.why, lost.why), str(lost)
        except OSError as error:
            self.error = error
        finally:
            self._release()
            self._receiver.join()
            self._image.close()
            self._records.close()
            self.done.set()

    def _release(self) -> None:
        """Wake both threads, whatever they wait for, for the last time."""
        self._image.shut()
        self._records.shut()
        self._free.put(None)
        self._spans.put(None)
        self._filled.put(None)

    # The verifier.

    def _fill_holding(self) -> None:
        holding = self._holding
        status, _ = self._ask(self._records, "chunks", RECORD * holding.counted)
        if status != 416:
            self._recheck()
        size = self._begin_span()
        while not self._stopped:
            before = holding.verified
            self._drain()
            if holding.complete:
                return
            if size is not None or holding.verified == before:
                raise PeerLost("reset", f"{self.address} ended the connection in the middle of the image")
            # Nobody knew the size, so the end of the connection may have been the end of the image: ask.
            self._image.close()
            self._reconnect()
            size = self._begin_span()

    def _begin_span(self) -> int | None:
        """Ask for the image from where we are on, and let the receiver at it; return the size if it is known."""
        start = self._holding.verified
        if not self._holding.complete:
            status, size = self._ask(self._image, "image", start)
            if status != 416:
                self._spans.put((start, size))
                return size
        if not self._holding.complete:
            raise PeerLost("ended", f"{self.address} has no more than {start} bytes of this image")
        self._filled.put(None)
        return self._holding.size

    def _reconnect(self) -> None:
        """Tell one who died in the middle from one who was never there."""
        try:
            self._image.connect(self._timeout)
        except PeerLost as lost:
            raise PeerLost("reset", str(lost)) from lost

    def _recheck(self) -> None:
        """Count the bytes that the file holds from before, as far as the records say that they are right."""
        holding, view = self._holding, memoryview(bytearray(CHUNK))
        while not self._stopped and (length := self._own()):
            if holding.read(view[:length], holding.verified) < length:
                break
            if not self._accept([sha256(view[:length]).digest()], length):
                break

    def _own(self) -> int:
        """Return the length of the next chunk if all of it is there from before, or 0."""
        holding = self._holding
        left = CHUNK if holding.size is None else min(CHUNK, holding.size - holding.verified)
        return left if holding.own - holding.verified >= left else 0

    def _drain(self) -> None:
        """Verify what is received, until no more comes. Raises PeerLost, OSError."""
        while not self._stopped and (filled := self._filled.get()) is not None:
            if not isinstance(filled, tuple):
                raise filled
            buffer, length, whole = filled
            view = buffer[:length]
            if not self._accept([sha256(view[at : at + CHUNK]).digest() for at in range(0, length, CHUNK)], length):
                # What broke off in the middle of a chunk is not wrong, only short.
                raise PeerLost("corrupt" if whole else "reset", f"{self.address} sent bytes that are not the image's")
            self._free.put(buffer)

    def _accept(self, shas: list[bytes], length: int) -> bool:
        """Count the next chunks as far as they are right; return whether all are. Raises PeerLost, OSError."""
        wanted = len(shas) * RECORD
        self._unused += self._records.take(max(0, wanted - len(self._unused)))
        records, known = self._unused[:wanted], len(self._unused) // RECORD
        right = self._holding.accept(records, shas[:known], length if known >= len(shas) else known * CHUNK)
        self._unused = self._unused[right * RECORD :]
        if right:
            self._advance(self._holding.verified)
        if right == known < len(shas):
            raise PeerLost("reset", f"{self.address} ended the connection in the middle of the records")
        return right == len(shas)

    def _ask(self, link: Link, what: str, offset: int) -> tuple[int, int | None]:
        """Have `what` sent from `offset` on; return the status, 206 or 416 (there is no more), and where it ends.

        The end is None if the other side does not know it yet.
        """
        if not link.connected:
            link.connect(self._timeout)
        answer = link.ask("GET", f"{self._path}/{what}", fields={"Range": f"bytes={offset}-"})
        if answer.status in {404, 410}:
            raise PeerLost("ended", f"{self.address} has nothing of this image")
        if answer.status == 403:
            raise PeerLost("denied", f"{self.address} does not let us in")
        said = answer.fields.get("content-range", "")
        start, size = _range_of(answer, said, self.address)
        if what == "image" and size is not None:
            self._learn(size, sealed=link.is_sealed(answer, said.encode()))
        if start not in {offset, None}:
            raise PeerLost("stranger", f"{self.address} sends other bytes than were asked for")
        return answer.status, size

    def _learn(self, size: int, *, sealed: bool) -> None:
        """Believe the size from one who knows the secret; from anybody, notice that it is another one."""
        if sealed or self._holding.size is not None:
            try:
                self._holding.size = size
            except ValueError as error:
                raise PeerLost("corrupt", f"{self.address} has another image: {error}") from error

    # The receiver.

    def _receive(self) -> None:
        while (span := self._spans.get()) is not None:
            try:
                self._receive_span(*span)
                self._filled.put(None)
            except (PeerLost, OSError) as error:
                self._filled.put(error)

    def _receive_span(self, offset: int, end: int | None) -> None:
        while (end is None or offset < end) and (buffer := self._free.get()) is not None:
            room = buffer if end is None else buffer[: min(len(buffer), end - offset)]
            got = self._receive_batch(room)
            if got:
                self._holding.write(room[:got], offset)
                self._filled.put((buffer, got, got % CHUNK == 0 or got == len(room)))
                offset += got
            if got % CHUNK or not got:
                return

    def _receive_batch(self, room: memoryview) -> int:
        """Wait for one chunk, and take along what is there of the next ones. Fewer bytes come at the end only."""
        got = self._image.fill(room[:CHUNK])
        if got < CHUNK:
            return got
        there = self._image.available
        rest = len(room) - CHUNK
        more = rest if there >= rest else there // CHUNK * CHUNK
        return got + (self._image.fill(room[CHUNK : CHUNK + more]) if more else 0)


def _range_of(answer: Answer, said: str, address: str) -> tuple[int | None, int | None]:
    if answer.status not in {206, 416}:
        raise PeerLost("stranger", f"{address} answers {answer.status}, which is none of ours")
    try:
        return parse_content_range(said)
    except NotUnderstood as error:
        raise PeerLost("stranger", f"{address} does not speak what we do: {error}") from error
