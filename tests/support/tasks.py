"""Real processes of the command line: many at a time, watched by what they say, and reaped whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from struct import Struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Self, TypeVar

from stager.layout import Layout
from stager.reference import Digest
from tests.support.image_factory import minimal_squashfs
from tests.support.leftovers import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

T = TypeVar("T")

ROOT = Path(__file__).parents[2]

COMMAND = (sys.executable, "-m", "stager")

NOTHING: Mapping[str, str] = MappingProxyType({})

PATIENCE = 40.0
"""Seconds for anything that is waited for: below the 60 s of a test, above what a loaded machine makes of 1 s."""

SEGMENT = Struct("<QQQ")
"""Start, position and end of a segment, as stager.store.partial writes them."""

WAITING = "waiting for"
"""In the line that a waiter writes once it waits."""


def until(condition: Callable[[], T | None], what: str, patience: float = PATIENCE) -> T:
    """Return what `condition` returns as soon as that is true. Raises TimeoutError, naming `what`."""
    end = time.monotonic() + patience
    while not (answer := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {patience:g} s for {what}")
        time.sleep(0.005)
    return answer


@cache
def image(size: int = 1 << 20, seed: int = 1) -> bytes:
    """Return a small squashfs image that cannot be mistaken for that of another seed, at any offset."""
    return minimal_squashfs(Random(seed).randbytes(size))


def published(store: str | os.PathLike[str], content: bytes) -> Path:
    """Return where a squashfs image lies in a store, there or not."""
    return Path(Layout(os.fspath(store)).image_file(Digest(sha256(content).hexdigest()), "squashfs"))


def held(store: str | os.PathLike[str]) -> int:
    """Return how many bytes the fullest copy in flight counts as its own: what a successor goes on from."""
    accounts = [path.read_bytes() for path in Path(store).glob("partial/*/*/progress")]
    triples = (SEGMENT.iter_unpack(account[: len(account) // SEGMENT.size * SEGMENT.size]) for account in accounts)
    return max((sum(position - start for start, position, _ in account) for account in triples), default=0)


@dataclass(frozen=True, eq=False)
class Task:
    """One process. Its output goes to files, so that nobody has to read along for it to go on."""

    process: subprocess.Popen[bytes]
    files: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return (self.files / "out").read_text("utf-8", "surrogateescape")

    @property
    def err(self) -> str:
        return (self.files / "err").read_text("utf-8", "surrogateescape")

    @property
    def answer(self) -> str:
        """The one line on stdout."""
        lines = self.out.splitlines()
        assert len(lines) == 1, (lines, self.err)
        return lines[0]

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def done(self, patience: float = PATIENCE) -> int:
        """Return the exit code once it has ended, -N if signal N killed it."""
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.process.args!r} still runs after {patience:g} s and said: {self.err}") from None

    def says(self, text: str) -> None:
        """Return once it has written `text` to stderr."""
        until(lambda: text in self.err or not self.running, f"{text!r} from {self.process.args!r}")
        assert text in self.err, self.err

    def stops(self) -> None:
        """Return once it is stopped by SIGSTOP."""
        until(lambda: self._state() == "T" or not self.running, f"{self.process.args!r} to stop")
        assert self.running, (self.process.returncode, self.err)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as the kernel would, and return when it is gone."""
        self.process.kill()
        self.done()

    def _state(self) -> str:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][:1]
        return ""


class Tasks:
    """Starts tasks, as a context manager: at its end none is left, however it ends.

    They run in `folder`, which also tells the session's search for leftovers whose they are, and leave their temporary
    files there. The session's mark is taken out of their environment: it begins with STAGE_IMAGE_, so that with it no
    task would take the warm path.
    """

    def __init__(self, folder: Path, **environ: str) -> None:
        self._folder = folder
        self._environ = environ
        self._tasks: list[Task] = []

    def start(
        self,
        *words: str,
        env: Mapping[str, str] = NOTHING,
        program: Sequence[str] = COMMAND,
        user: int | None = None,
        session: bool = False,
    ) -> Task:
        """Start `stage-image words`, or another `program`; `session`: in a session of its own, as a login makes it."""
        files = self._folder / f"task-{len(self._tasks)}"
        files.mkdir()
        with (files / "out").open("wb") as out, (files / "err").open("wb") as err:
            process = subprocess.Popen(
                [*program, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self._folder,
                env=self.environ(env),
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                start_new_session=session,
                process_group=None if session else 0,
            )
        self._tasks.append(Task(process, files))
        return self._tasks[-1]

    def many(self, count: int, *words: str, env: Mapping[str, str] = NOTHING) -> list[Task]:
        """Start so many of the same."""
        return [self.start(*words, env=env) for _ in range(count)]

    def together(self, *lines: Sequence[str], env: Mapping[str, str] = NOTHING) -> list[Task]:
        """Start one for each command line, all at the same time, and wait for the end of all."""
        tasks = [self.start(*line, env=env) for line in lines]
        wait_for(tasks)
        return tasks

    def run(
        self,
        *words: str,
        env: Mapping[str, str] = NOTHING,
        program: Sequence[str] = COMMAND,
        user: int | None = None,
        session: bool = False,
    ) -> Task:
        """Start one and wait for its end."""
        task = self.start(*words, env=env, program=program, user=user, session=session)
        task.done()
        return task

    def environ(self, more: Mapping[str, str] = NOTHING) -> dict[str, str]:
        """Return the environment of a task; what is empty is left out.

        Byte code is always kept: compiling the sources takes longer than most tasks.
        """
        ours = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self._folder)}
        found = {**os.environ, **ours, **self._environ, **more}
        return {name: value for name, value in found.items() if value and name not in (MARK, "PYTHONDONTWRITEBYTECODE")}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        left = [task for task in self._tasks if task.running]
        for task in left:
            os.killpg(task.pid, signal.SIGKILL)  # what it started itself is in its group
        for task in left:
            task.process.wait()


def wait_for(tasks: Iterable[Task], patience: float = PATIENCE) -> list[int]:
    """Return the exit codes once all have ended; `patience` is for all of them together."""
    end = time.monotonic() + patience
    return [task.done(max(0.0, end - time.monotonic())) for task in tasks]


def all_end(tasks: Iterable[Task], code: int = 0) -> None:
    """Fail unless all of them end, with this exit code."""
    tasks = list(tasks)
    others = {task: found for task, found in zip(tasks, wait_for(tasks), strict=True) if found != code}
    lines = [f"{found}: {task.err.strip()}" for task, found in others.items()]
    assert not others, f"{len(others)} of {len(tasks)} ended otherwise, such as\n" + "\n".join(lines[:3])


def told(tasks: Iterable[Task], text: str = WAITING) -> None:
    """Return once each of them has written `text` to stderr."""
    for task in tasks:
        task.says(text)


def all_but_one_wait(tasks: Sequence[Task]) -> None:
    """Return once one of them leads and all others have said that they wait."""
    until(lambda: sum(WAITING in task.err for task in tasks) == len(tasks) - 1, "all but one to wait")
