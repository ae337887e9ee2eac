"""The head of a staging: the one node that asks the origin, and vouches for what comes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from stager import versions
from stager.errors import ClusterUnavailable, DigestMismatch, PinLost, StageImageError
from stager.store.trouble import storage_errors

if TYPE_CHECKING:
    from stager.interfaces import Message
    from stager.load import Load
    from stager.reference import Digest
    from stager.store.images import StagedImage

STOP_SECONDS = 2.0
"""For a download to end that is given up; what it would still have written would be the same bytes."""


class Head(threading.Thread):
    """The head's download, and what it finds."""

    def __init__(self, load: Load, generation: int) -> None:
        super().__init__(name="origin", daemon=True)
        self._load = load
        self._task = load.task
        self._whole = False
        self._stopped = False
        self.ended = False
        self.unchanged = False
        self.found: Digest | None = None
        self.told = False
        self.error: StageImageError | None = None
        self.image: StagedImage | None = None
        if self._task.shared is not None:
            with storage_errors(self._task.shared.layout.root):
                self._task.copy = self._task.shared.copy()
        self._download = self._task.download(self._task.copy)
        self._download.on_begin = self._begun
        self._told_by, self._download.on_wait = self._download.on_wait, self._waits
        self._trouble: tuple[str, int] = ("", -1)
        self._begins = self._task.copy.held == 0
        if not self._begins and load.offset == 0:
            load.label(generation)
        load.hash_own()

    @property
    def kept(self) -> bool:
        """Whether the image is published already: the origin still has it, or it lies where all nodes can open it."""
        return self.image is not None and self.found is not None

    @property
    def has_all(self) -> bool:
        """Whether the origin's bytes have all come."""
        return self._whole

    def run(self) -> None:
        copy = self._task.copy
        try:
            with storage_errors(copy.folder):
                unless = self._task.unless if self._task.held is not None else None
                self.unchanged = not self._download.run(unless=unless)
                self._settle()
        except StageImageError as error:
            self.error = self.error or error
        except Exception as error:  # noqa: BLE001 - a thread's traceback is seen by nobody
            self.error = StageImageError(f"a bug in the relay: {type(error).__name__}: {error}")
        finally:
            self.ended = True
            self._load.wake.set()

    def _waits(self, error: StageImageError, seconds: float) -> None:
        if self._stopped:
            return  # it is we who ended the stream
        self._trouble = (f"{error.message}; the node that asks tries again", self._task.copy.held)
        if self._told_by is not None:
            self._told_by(error, seconds)

    def stop(self) -> None:
        """Give it up."""
        self._stopped = True
        self._download.cancel()
        self.join(STOP_SECONDS)

    def report(self, load: Load) -> Message:
        """Return what only the head knows."""
        message: Message = {}
        if self.kept and self.image is not None and self.found is not None:
            version = self._task.unless if self.unchanged and self._task.unless else self._task.copy.validators
            message["version"] = versions.described(version, self.image.origin, private=False)
            message["version"]["size"] = self.image.size
            message |= {"digest": self.found.hex, "root": load.root()}
        elif not self._begins:
            message["version"] = versions.of_copy(self._task.copy)
        if self.found is not None and (root := load.root()) is not None:
            message |= {"digest": self.found.hex, "root": root}
        if self._task.copy.held == self._trouble[1] and not self.ended:
            message["trouble"] = self._trouble[0]
        if self.error is not None and not self._stopped:
            self.told = True
            error = self.error
            message["error"] = {"code": error.exit_code, "message": error.message, "hint": error.hint}
        return message

    def _begun(self) -> None:
        if self._task.copy.private and not self._load.sealed:
            self.error = ClusterUnavailable(
                "the image is private, and without cluster.credentials_file others could read it from the relay",
                hint="set cluster.credentials_file, or stage with STAGE_IMAGE_SCOPE=node",
            )
            self._download.cancel()
            return
        self._load.begin_anew()
        self._begins = False

    def _settle(self) -> None:
        if self.unchanged and self._task.held is not None:
            self.image, digest = self._task.held, self._task.held.digest
        else:
            copy = self._task.copy
            self._whole = True
            self._load.finish_hashing()
            digest = copy.digest()
            if self._task.pin is not None and digest != self._task.pin:
                raise DigestMismatch(f"{copy.origin} sent {digest}, but the reference's pin is {self._task.pin}")
            info = self._task.recognise(copy.fileno(), copy.size or 0)
            if self._task.shared is not None:
                self.image = self._task.shared.publish(copy, digest, info)
        pinned = self._task.settle(digest)
        if pinned != digest:
            raise PinLost(f"the job is pinned to {pinned}, and the origin has {digest} now")
        self.found = digest
