"""Somebody who works on the test bed: commands of theirs, on the controller unless another machine is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.tasks import NOTHING, PATIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.cluster.hosts import Process
    from tests.support.slurm.machine import Machine

_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class User:
    """`home` is out here what the user has at /home/<name>, or /root, of all machines."""

    name: str
    uid: int
    home: Path
    desk: Machine

    def start(self, *words: str, node: Machine | None = None, env: Mapping[str, str] = NOTHING) -> Process:
        """Start a command in the home directory, as a login would; `env` is added to the environment."""
        home = "/root" if self.uid == 0 else f"/home/{self.name}"
        login = {"HOME": home, "USER": self.name, "LOGNAME": self.name, "SHELL": "/bin/sh", "PATH": _PATH, **env}
        become = ("setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups")
        machine = node or self.desk
        # Who is not root may not enter; the environment of the messenger is of no concern to the command.
        variables = (f"{name}={value}" for name, value in login.items())
        return machine.host.start(*become, "env", "-i", f"--chdir={home}", *variables, *words)

    def run(
        self, *words: str, node: Machine | None = None, env: Mapping[str, str] = NOTHING, patience: float = PATIENCE
    ) -> Ran:
        """Run a command to its end."""
        task = self.start(*words, node=node, env=env)
        try:
            code = task.done(patience)
        except TimeoutError:
            task.kill()
            raise
        return Ran(code, task.out, task.err)
