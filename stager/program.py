"""Running other programs to their end, for what they print: no terminal, no shell, no waiting without a bound."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

STDERR_TAIL = 2000
"""Characters of a failed program's last words that are kept."""

NOT_FOUND = 127
NOT_RUNNABLE = 126
"""The exit codes with which a shell says so (POSIX, 2.8.2)."""


class ProgramFailed(Exception):
    """A program that could not be run, failed, or was ended after its time.

    `returncode` is its exit code, 127 if there is no such program, 126 if it cannot be executed, negative if a signal
    ended it, None if `timeout` seconds were not enough. `stderr` holds its last words.
    """

    def __init__(self, argv: Sequence[str], returncode: int | None, stderr: str, *, timeout: float = 0.0) -> None:
        self.argv = list(argv)
        self.returncode = returncode
        self.stderr = stderr.strip()[-STDERR_TAIL:]
        self.timeout = timeout
        super().__init__(self._sentence())

    @property
    def missing(self) -> bool:
        """Whether there is no such program."""
        return self.returncode == NOT_FOUND

    def _sentence(self) -> str:
        name = os.path.basename(self.argv[0])
        if self.missing:
            return f"{name} is not installed"
        if self.returncode is None:
            return f"{name} did not end within {self.timeout:g} s"
        how = f"exit code {self.returncode}" if self.returncode >= 0 else f"signal {-self.returncode}"
        return f"{name} failed with {how}: {self.stderr or 'it did not say why'}"


def run(argv: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None) -> str:
    """Return what a program prints on stdout, once it has ended well. Raises ProgramFailed.

    `timeout` in seconds. `env` replaces the environment; without it, the program gets ours, in English. Output goes to
    memory files and not through pipes: a child that the program leaves behind would hold a pipe open, and reading to
    its end would last as long as that child. The program has a session of its own, so that all of it can be ended.
    """
    environ = {**os.environ, "LC_ALL": "C"} if env is None else env
    with _memory("stdout") as out, _memory("stderr") as err:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environ, start_new_session=True
            )
        except OSError as error:
            code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUNNABLE
            raise ProgramFailed(argv, code, str(error)) from error
        code_or_none = _wait(process, timeout)
        if code_or_none != 0:
            raise ProgramFailed(argv, code_or_none, _content(err), timeout=timeout)
        return _content(out)


def _wait(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:  # also when we are interrupted
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)  # not for ever: one that waits for a dead file server cannot even die


@contextlib.contextmanager
def _memory(name: str) -> Iterator[int]:
    fd = os.memfd_create(name)
    try:
        yield fd
    finally:
        os.close(fd)


def _content(fd: int) -> str:
    size = os.fstat(fd).st_size
    pieces, offset = [], 0
    while offset < size and (piece := os.pread(fd, size - offset, offset)):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces).decode("utf-8", "surrogateescape")
