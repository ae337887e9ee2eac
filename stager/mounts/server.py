"""Starting a FUSE server that outlives us: nobody's child, no terminal, no open streams of ours."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

from stager.errors import MountFailed
from stager.mounts import linux
from stager.process import ProcessIdentity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stager.clock import Clock

PATIENCE = 10.0
"""Seconds in which a server must have mounted; it takes milliseconds, but its program may come over the network."""

STDERR_TAIL = 2000
"""Characters of a failed server's last words that are kept."""

# The shell forks and ends, so that the server is a child of init (or of the job's reaper) at once: whoever takes our
# place by exec would otherwise find a child that it did not start. A Python fork would need one safe from threads.
# SIGPIPE is ignored because stderr's reader goes away once all is well.
_START = """trap '' PIPE; "$@" </dev/null >/dev/null & echo $!"""


class Server:
    """A program that serves a mount in the foreground, started by `argv` (all its paths absolute).

    It inherits the descriptor `image` under the same number.
    """

    def __init__(self, argv: Sequence[str], image: int) -> None:
        self.name = os.path.basename(argv[0])
        self._said = b""
        self._stderr, theirs = os.pipe()
        try:
            shell = ["/bin/sh", "-c", _START, "sh", *argv]
            started = subprocess.run(
                shell,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=theirs,
                pass_fds=(image,),
                start_new_session=True,
                cwd="/",
                env={**os.environ, "LC_ALL": "C"},
                timeout=PATIENCE,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.close(self._stderr)
            raise MountFailed(f"{self.name} cannot be started: {error}") from error
        finally:
            os.close(theirs)
        self.pid = int(started.stdout)
        self._identity = ProcessIdentity.of(self.pid)

    @property
    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self._said.decode("utf-8", "replace").strip()[-STDERR_TAIL:]

    def has_mounted(self, mountpoint: str, before: int, clock: Clock) -> bool:
        """Wait until something other than the mount with the id `before` is mounted, or the server is gone.

        Raises MountFailed if neither happens in PATIENCE seconds.
        """
        give_up = clock.now() + PATIENCE
        while clock.now() < give_up:
            there = linux.mounted(mountpoint)
            if there is not None and there.id != before:
                return True
            if self._ended(0.01):
                return False
        raise MountFailed(f"{self.name} did not mount within {PATIENCE:g} s: {self.said or 'it did not say why'}")

    def _ended(self, seconds: float) -> bool:
        """Wait a moment for stderr to say something; at its end, the server and all its children are gone."""
        if not select.select([self._stderr], [], [], seconds)[0]:
            return False
        more = os.read(self._stderr, 65536)
        self._said += more
        return not more

    def end(self) -> None:
        """Kill the server, if it is still the process that was started."""
        if self._identity is not None and self._identity.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def leave(self) -> None:
        """Stop listening."""
        os.close(self._stderr)
