"""A host of Grid Engine's test bed: directories of its own as those of Slurm's, with qmaster or execd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.cluster.hosts import Process
from tests.support.gridengine.site import ADMIN, PROGRAMS
from tests.support.slurm import machine
from tests.support.slurm.leftovers import left_on, mountpoints

if TYPE_CHECKING:
    from tests.support.gridengine.bed import Bed
    from tests.support.gridengine.site import Site

_MUNGE = "mkdir /run/munge\n"
"""Where what Slurm needs besides the directories begins."""
_PATH = f"{PROGRAMS}:/usr/local/bin:/usr/bin:/bin"
_REGISTERED = b"|registered at qmaster host"
_SHEPHERD = "sge_shepherd"


class Machine(machine.Machine):
    """`role` is sge_qmaster, sge_execd, or nothing."""

    bed: Bed

    def __init__(self, name: str, site: Site, *, address: str, number: int, role: str) -> None:
        super().__init__(name, site, address=address, number=number, role=role)
        self._cell = site.variables()
        self._read = 0
        spool = self.folder / "spool" / "gridengine"
        spool.mkdir()
        os.chown(spool, ADMIN, ADMIN)

    def set_up(self) -> tuple[list[str], str]:
        """Return the command, with its standard input, that gives it its directories."""
        command, text = super().set_up()
        directories, found, _ = text.partition(_MUNGE)
        assert found, "Slurm's bed prepares its machines otherwise by now"
        return command, directories

    def serve(self) -> None:
        """Start the daemon of its role; jobs inherit its environment."""
        self._own = frozenset(mountpoints(self.host.pid))
        self._read = len(self._messages())
        variables = [f"{name}={value}" for name, value in {"PATH": _PATH, "SGE_ND": "1", **self._cell}.items()]
        self._daemon = self.host.start("env", "-i", *variables, f"{PROGRAMS}/{self.role}")

    def has_registered(self) -> bool:
        """Whether execd has found qmaster since it was last started."""
        return _REGISTERED in self._messages()[self._read :]

    @property
    def daemon(self) -> Process:
        """The daemon of its role; `pid` is the number of its process out here."""
        assert self._daemon, f"{self} serves nothing"
        return self._daemon

    def services(self) -> set[int]:
        """Return the processes that belong to the daemon, its load sensor included, but not to jobs."""
        found: set[int] = set()
        new = [self.daemon.pid] if self._daemon and self._daemon.running else []
        while new:
            found.update(new)
            new = [
                child for pid in new for child in _offspring(pid) if _name(child) != _SHEPHERD and child not in found
            ]
        return found

    def leftovers(self) -> list[str]:
        """Return one line for each thing that a job, or a hook, left there; of a machine without power, none."""
        if not self.is_up:
            return []
        serving = tuple(f"process {pid}:" for pid in self.services())
        return [f"{self}: {line}" for line in left_on(self.host, self.store, self._own) if not line.startswith(serving)]

    def kill(self) -> None:
        """Cut its power: what it was doing is gone, what is on its disk stays. Nobody tells Grid Engine."""
        self.bed.cut_power(self)

    def start(self) -> None:
        """Boot it again; return when it reports again."""
        self.bed.give_power(self)

    def _messages(self) -> bytes:
        path = self.folder / "spool" / "gridengine" / self.name / "messages"
        return path.read_bytes() if path.exists() else b""


def _offspring(pid: int) -> list[int]:
    """Return the children of all threads of a process: execd has several."""
    try:
        threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
    return [child for thread in threads for child in _children_of_thread(pid, thread)]


def _children_of_thread(pid: int, thread: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{thread}/children").read_text("ascii").split()]
    except OSError:
        return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        return ""
