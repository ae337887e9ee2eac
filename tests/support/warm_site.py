"""A node on which an image can be staged, and the two ways to ask for it: the wrapper in some shell, and the CLI."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.tasks import COMMAND, NOTHING, Tasks, all_end, published
from tests.support.warm_scene import WRAPPER, program, shells

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ALL = [*shells(), "python"]
"""Names of entries: the wrapper in each shell, and the CLI."""


@dataclass
class Site:
    """A node with a reference to an image, and a Python for the wrapper that keeps a list of its starts."""

    tasks: Tasks
    reference: str
    staged: Path
    starts: Path

    def entry(self, name: str) -> tuple[str, ...]:
        """Return the command line of the wrapper in a shell, or of the CLI."""
        return COMMAND if name == "python" else (*shells()[name], str(WRAPPER))

    @property
    def pythons(self) -> int:
        """How often the wrapper has started Python."""
        return len(self.starts.read_text().splitlines()) if self.starts.exists() else 0

    def warmed(self, *words: str) -> None:
        """Stage, and leave the record for these words."""
        all_end([self.tasks.run(*words)])

    def run(
        self, name: str, *words: str, stdin: bytes = b"", env: Mapping[str, str] = NOTHING
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a warm call to its end; Python has not been started for it, unless it is the CLI."""
        before = self.pythons
        command = [*self.entry(name), *words]
        environ = self.tasks.environ(env)
        done = subprocess.run(command, input=stdin, capture_output=True, env=environ, timeout=40, check=False)
        assert self.pythons == before, done.stderr
        return done


@contextmanager
def a_site(folder: Path, store: Path, content: bytes) -> Iterator[Site]:
    """Make a node whose reference is a squashfs image of this content; no task of it is left at the end."""
    source = folder / "tool.sqsh"
    source.write_bytes(content)
    starts = folder / "starts"
    # -I comes first, and would keep this checkout out.
    python = program(folder / "python", f'echo "$*" >>{starts}', "shift", f'exec {sys.executable} "$@"')
    with Tasks(folder, SLURM_JOB_ID="1", STAGE_IMAGE_PYTHON=str(python)) as tasks:
        yield Site(tasks, str(source), published(store, content), starts)
