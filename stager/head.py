"""The head of a staging: the one node that asks the origin, and vouches for what comes."""

from __future__ import annotations

import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING

from stager import versions
from stager.errors import DigestMismatch, OriginStalled, PinLost, StageImageError
from stager.interfaces import Validators
from stager.store import images
from stager.store.trouble import storage_errors

if TYPE_CHECKING:
    from stager.interfaces import Message
    from stager.load import Load
    from stager.reference import Digest
    from stager.store.images import StagedImage

STOP_SECONDS = 2.0
"""For a download to end that is given up; what it would still have written would be the same bytes."""

SILENCE_SECONDS = 2.0
"""Of the origin, after which it may be that it was us who were cut off: others are told of it after 1 s."""

WORD_SECONDS = 0.3
"""For that answer, where nothing is wrong. What comes meanwhile may be too much; another connection costs little."""

STANDING_SECONDS = 20.0
"""For the coordinator to be found again, and to say who is the head now. A node may be alone, and ZooKeeper away."""

TEXT_MAX = 4000
"""Characters of an error's words: the coordinator takes no more."""


class Head(threading.Thread):
    """The head's download, and what it finds. Raises StageImageError, OSError when it cannot begin."""

    def __init__(self, load: Load, generation: int) -> None:
        super().__init__(name="origin", daemon=True)
        self._load = load
        self._task = load.task
        self._offering = load.offering
        self._stopped = False
        self._unless, self._held = self._task.unless, self._task.held
        self.has_all = False
        """Whether the origin's bytes have all come."""
        self.ended = False
        self.unchanged = False
        self.found: Digest | None = None
        self.told = False
        self.error: StageImageError | None = None
        self.image: StagedImage | None = None
        if self._task.shared is not None:
            self._look_again()
        copy = self._task.copy
        self._download = self._task.download(copy)
        self._download.on_begin = self._begun
        self._download.before_bytes = self._stand
        if self._task.shared is None:
            self._download.on_resolved = lambda private: self._offering.check(private=private)
        self._last = monotonic()
        self._given_up = -1.0
        self._told_by, self._download.on_wait = self._download.on_wait, self._waits
        self._trouble: tuple[str, int] = ("", -1)
        self._begins = copy.held == 0
        if self._task.shared is None and not self._begins:
            if self._offering.holding is None:
                self._offering.offer(copy, generation)
            self._offering.vouch(lambda: copy.position)

    @property
    def kept(self) -> bool:
        """Whether the image is published already: the origin still has it, or it lies where all nodes can open it."""
        return self.image is not None and self.found is not None

    def run(self) -> None:
        """Download, and find out what it is."""
        try:
            with storage_errors(self._task.copy.folder):
                self.unchanged = not self._download.run(unless=self._unless if self._held is not None else None)
                self._settle()
        except StageImageError as error:
            self.error = self.error or error
        except Exception as error:  # noqa: BLE001 - a thread's traceback is seen by nobody
            self.error = self.error or StageImageError(f"a bug in the relay: {type(error).__name__}: {error}")
        finally:
            self.ended = True
            self._load.wake.set()

    @property
    def doing(self) -> tuple[str, int, int] | None:
        """What is done before the first byte that others can have: phase, done and in all."""
        return (self._download.phase, *self._download.progress) if self._begins and not self.ended else None

    def stop(self) -> None:
        """Give it up."""
        self._stopped = True
        self._download.cancel()
        self.join(STOP_SECONDS)

    def report(self) -> Message:
        """Return what only the head knows."""
        message: Message = {}
        if self.kept and self.image is not None and self.found is not None:
            version = self._download.version or self._unless if self.unchanged else None
            version = version or self._task.copy.validators
            message["version"] = versions.described(version, self.image.origin, private=self.image.private)
            message["version"]["size"] = self.image.size
            message |= {"digest": self.found.hex, "root": self._offering.root()}
        elif not self._begins:
            message["version"] = versions.of_copy(self._task.copy)
        if self.found is not None and (root := self._offering.root()) is not None:
            message |= {"digest": self.found.hex, "root": root}
        if self.doing is not None:
            message["doing"] = dict(zip(("phase", "done", "total"), self.doing, strict=True))
        if self._task.copy.held == self._trouble[1] and not self.ended:
            message["trouble"] = self._trouble[0][:TEXT_MAX]
        if self.error is not None and not self._stopped:
            self.told = True
            words = {"message": self.error.message[:TEXT_MAX], "hint": self.error.hint[:TEXT_MAX]}
            message["error"] = {"code": self.error.exit_code, **words}
        return message

    def _look_again(self) -> None:
        """Go by what others have published where all can open it, since this node looked."""
        shared = self._task.shared
        if shared is None:
            return
        with storage_errors(shared.layout.root):
            self._task.copy = shared.copy()
            seen = shared.seen()
            # What this node has by itself, the others cannot open.
            held = images.lookup(shared.layout, seen.digest) if seen is not None else None
        self._unless, self._held = None, None
        if seen is not None and held is not None:
            self._unless, self._held = Validators(seen.etag, seen.modified, seen.size), held

    def _waits(self, error: StageImageError, seconds: float) -> None:
        if self._stopped:
            return  # it is we who ended the stream
        self._trouble = (f"{error.message}; the node that asks tries again", self._task.copy.held)
        if self._told_by is not None:
            self._told_by(error, seconds)

    def _stand(self) -> None:
        """Before bytes are asked for or taken. After a silence, first hear whether we are still the head.

        The node may have been cut off, and others may have gone on without it; then each byte more leaves the origin
        twice. Raises OriginStalled to have the connection made anew that could not be kept meanwhile.
        """
        now = monotonic()
        silence, self._last = now - self._last, now
        # Asked in vain once, it is not asked again before somebody has answered.
        if silence < SILENCE_SECONDS or self._load.confirmed == self._given_up:
            return
        self._load.wake.set()
        if self._hears(now, WORD_SECONDS):
            return
        # What nobody reads goes on coming, until the kernel's buffer is full: 6 MB (tcp_rmem, Linux 6.1).
        hung_up = self._download.hang_up()
        self._given_up = -1.0 if self._hears(now, STANDING_SECONDS) else self._load.confirmed
        self._last = monotonic()
        if hung_up and not self._stopped:
            raise OriginStalled(f"{self._task.copy.origin} sent nothing for {silence:.0f} s")

    def _hears(self, since: float, seconds: float) -> bool:
        """Wait until somebody has said that this node is the head."""
        while (waits := self._load.confirmed < since) and not self._stopped and monotonic() - since < seconds:
            sleep(0.05)
        return not waits

    def _begun(self) -> None:
        copy = self._task.copy
        if self._task.shared is None:
            try:
                self._offering.offer_anew(copy)
            except StageImageError as error:  # it is private
                self.error = error
                self._download.cancel()
                return
            self._offering.vouch(lambda: copy.position)
        self._begins = False
        self._load.wake.set()

    def _settle(self) -> None:
        here = self._download.image or self._held
        if self.unchanged and here is not None:
            self.image, digest = here, here.digest
        else:
            digest = self._identified()
        pinned = self._task.settle(digest)
        if pinned != digest:
            raise PinLost(f"the job is pinned to {pinned}, and the origin has {digest} now")
        self.found = digest

    def _identified(self) -> Digest:
        """Return the digest of what has come, which is an image and lies where it belongs."""
        copy = self._task.copy
        self.has_all = True
        self._offering.finish()
        digest = copy.digest()
        if self._task.pin is not None and digest != self._task.pin:
            raise DigestMismatch(f"{copy.origin} sent {digest}, but the reference's pin is {self._task.pin}")
        if self._task.by_digest:
            versions.compare(copy, digest)
        info = self._task.recognise(copy.fileno(), copy.size or 0)
        if self._task.shared is not None:
            self.image = self._task.shared.publish(copy, digest, info)
        return digest
