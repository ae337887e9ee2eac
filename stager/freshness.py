"""A question to the origin: whether it still has a version of an image."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from stager import versions
from stager.errors import OriginUnavailable, StageImageError

if TYPE_CHECKING:
    from stager.interfaces import Message
    from stager.task import Task


class Freshness(threading.Thread):
    """Asks once, in a thread; `fresh` tells the answer, `error` why there is none, `wake` that there is either."""

    def __init__(self, task: Task, version: Message, wake: threading.Event) -> None:
        super().__init__(name="freshness", daemon=True)
        self._task = task
        self._version = versions.validators_of(version)
        self._wake = wake
        self.fresh: bool | None = None
        self.error: StageImageError | None = None

    def run(self) -> None:
        try:
            self.fresh = bool(self._version) and self._task.download(self._task.copy).is_current(self._version)
        except OriginUnavailable as error:
            if self._task.offline:
                self.fresh = True
            else:
                self.error = error
        except StageImageError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - a thread's traceback is seen by nobody
            self.error = StageImageError(f"a bug in the relay: {type(error).__name__}: {error}")
        finally:
            self._wake.set()
