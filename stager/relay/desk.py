"""Where members' questions to the coordinator are answered: in a thread of its own, so that no stream waits for it."""

from __future__ import annotations

import json
import threading
from queue import SimpleQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Handler = Callable[[str, dict[str, Any]], dict[str, Any] | None]
    Answer = Callable[[int, bytes], None]


class Desk:
    """Asks the handler of a staging. `log` is told of a handler that fails: that is a bug."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.handlers: dict[str, Handler] = {}
        self._log = log
        self._questions: SimpleQueue[tuple[Handler, str, bytes, Answer] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, staging: str, verb: str, body: bytes, answer: Callable[[int, bytes], None]) -> None:
        """Have `answer` called, from whatever thread, with a status and a body; 410 where nobody coordinates."""
        handler = self.handlers.get(staging)
        if handler is None:
            answer(410, b"")
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="relay-desk", daemon=True)
            self._thread.start()
        self._questions.put((handler, verb, body, answer))

    def close(self) -> None:
        """Answer what is asked already, and end the thread."""
        if self._thread is not None:
            self._questions.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            handler, verb, body, answer = question
            answer(*self._answer(handler, verb, body))

    def _answer(self, handler: Handler, verb: str, body: bytes) -> tuple[int, bytes]:
        try:
            message = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            return 400, b""
        if not isinstance(message, dict):
            return 400, b""
        try:
            said = handler(verb, message)
            return (410, b"") if said is None else (200, json.dumps(said, separators=(",", ":")).encode())
        except Exception as error:  # noqa: BLE001 - whatever it is, the next member wants its answer
            self._log(f"relay: {verb!r} failed: {type(error).__name__}: {error}")
            return 500, b""
