"""execd's side of a load sensor, and what it starts: a store, and a `stage-image` that can be replaced."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.tasks import PATIENCE, ROOT, until
from tests.support.told_store import ToldStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SCRIPT = ROOT / "sbatch-wrapper" / "gridengine" / "load-sensor"
DIRECTLY = (sys.executable, "-m", "stager", "load-sensor")


class Execd:
    """Asks a sensor as execd does: a newline on its stdin, then lines up to `end`."""

    def __init__(self, program: Sequence[str], environ: dict[str, str], errors: Path) -> None:
        self._errors = errors.open("wb")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=self._errors, env=environ, bufsize=0)
        assert self.process.stdout
        self._output = open(self.process.stdout.fileno(), "rb", closefd=False)  # noqa: SIM115 - as long as the process

    def ask(self) -> dict[str, str]:
        """Return complex → value, of this host, from one whole report."""
        self.send(b"\n")
        return self.hear()

    def send(self, text: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(text)

    def hear(self) -> dict[str, str]:
        lines: list[str] = []
        while not lines or lines[-1] != "end":
            lines.append(self._line())
        assert lines[0] == "begin"
        rows = [line.split(":", 2) for line in lines[1:-1]]
        assert {host for host, _, _ in rows} == {"n1.example.org"}
        return {name: value for _, name, value in rows}

    def _line(self) -> str:
        text = self._output.readline()
        assert text.endswith(b"\n"), "the sensor ended while it was read: a real execd would spin for ever"
        return text.decode().rstrip("\n")

    def end(self) -> int:
        """End its input; return its exit code."""
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            if pipe:
                pipe.close()


class Site:
    """A store, and a directory with `stage-image` in it, which may be replaced by whatever goes wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ToldStore(folder / "store")
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.pids = folder / "pids"
        self.errors = folder / "stderr"
        self.errors.touch()
        self.works()

    def works(self) -> None:
        self.program(f'echo $$ >>"{self.pids}"\nexec {sys.executable} -m stager "$@"')

    def program(self, text: str) -> None:
        aside = self.bin / "new"
        aside.write_text(f"#!/bin/sh\n{text}\n")
        aside.chmod(aside.stat().st_mode | stat.S_IXUSR)
        aside.rename(self.bin / "stage-image")

    @contextmanager
    def execd(self, *program: str, **environ: str) -> Iterator[Execd]:
        needed = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOST": "n1.example.org"}
        needed |= {"STAGE_IMAGE_STORE": self.store.layout.root, "STAGE_IMAGE_BIN": f"{self.bin}:{os.environ['PATH']}"}
        if not program:
            program = (str(SCRIPT),)
        elif program == DIRECTLY:
            del needed["STAGE_IMAGE_BIN"]
        execd = Execd(program, needed | environ, self.errors)
        try:
            yield execd
        finally:
            execd.close()
            until(lambda: not self.living(), "the other one to end", PATIENCE)

    def living(self) -> list[int]:
        """Return the pids of the Pythons that the script has started and that have not ended."""
        pids = [int(line) for line in self.pids.read_text().split()] if self.pids.exists() else []
        return [pid for pid in pids if state_of(pid) not in ("", "Z")]

    def first(self) -> int:
        """Return the pid of the Python that answers."""
        return until(self.living, "Python to run")[-1]


def state_of(pid: int) -> str:
    """Return the letter of a process's state, empty if there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(") ")[2][:1]
    except OSError:
        return ""
