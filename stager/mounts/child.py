"""Something done in a fork, because this process itself must not: to change its mounts, say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn, Self

from stager.errors import CommandNotFound, CommandNotRunnable, MountFailed, MountUnavailable, StageImageError

if TYPE_CHECKING:
    from collections.abc import Callable

_WELL = b"well\0"
_LONGEST = 4096
"""Bytes of a report; a pipe takes as many at once."""
_KINDS = {kind.__name__: kind for kind in (MountFailed, MountUnavailable, CommandNotFound, CommandNotRunnable)}


class Child:
    """A fork that does one thing, reports, and ends; with `then_wait`, it stays as it is until the block ends.

    Should this process be killed, the fork ends, too: it waits for the end of a pipe.
    """

    def __init__(self, act: Callable[[], None], *, then_wait: bool = False) -> None:
        self._report, theirs = os.pipe()
        waits, self._leash = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._leash)
            os.close(self._report)
            _act(act, theirs, waits if then_wait else None)
        os.close(theirs)
        os.close(waits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._leash)
        os.close(self._report)
        if self.pid:
            self.ended()

    def heard(self, *, becomes_another: bool = False) -> None:
        """Wait until it has done its thing, or with `becomes_another`, is another program now.

        Raises the StageImageError that it reports; MountFailed if it cannot say any more.
        """
        said = b""
        while not said.endswith(b"\0") and (piece := os.read(self._report, _LONGEST)):
            said += piece
        if said == _WELL or (becomes_another and not said):
            return
        kind, _, why = said.rstrip(b"\0").decode("utf-8", "replace").partition(" ")
        raise _KINDS.get(kind, MountFailed)(why or "the process that was to do it was killed")

    def ended(self) -> int:
        """Wait for its end; return the exit code, or 128 + signal."""
        pid, self.pid = self.pid, 0
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code if code >= 0 else 128 - code


def _act(act: Callable[[], None], pipe: int, leash: int | None) -> NoReturn:
    code = 1
    try:
        act()
        os.write(pipe, _WELL)
        code = 0
        if leash is not None:
            os.read(leash, 1)
    except StageImageError as error:
        _tell(pipe, type(error).__name__, error.message)
    except OSError as error:
        _tell(pipe, "MountFailed", text(error))
    finally:
        os._exit(code)


def _tell(pipe: int, kind: str, why: str) -> None:
    os.write(pipe, f"{kind} {why}".encode(errors="replace")[: _LONGEST - 1].replace(b"\0", b"") + b"\0")


def text(error: OSError) -> str:
    """Return what went wrong with what, for people."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
