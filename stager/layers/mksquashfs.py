"""The program that makes a squashfs of a tar, as a child that never outlives us.

mksquashfs by that name, and not by its other one, sqfstar: that one, up to 4.5.1, takes the level of the compression
for the name of the image.

It reads the tar from a pipe of which only we have the other end: when we die, however, the archive ends too early, and
the program with it.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Self

from stager.errors import ConverterMissing, NoSpace
from stager.program import ProgramFailed, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.layers.options import Options

PROGRAM = "mksquashfs"
OLDEST = (4, 5)
"""The first version that reads tars (RELEASE-README of squashfs-tools)."""

FLAGS = (
    *("-no-progress", "-quiet", "-exit-on-error", "-noappend", "-no-recovery"),
    *("-reproducible", "-no-exports", "-mkfs-time", "0", "-noI"),
)
"""-noI: see settle."""

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Behind the caller's own PATH: distributions have it in directories for root."""

MEMORY = "96M"
"""For its queues and caches: a quarter of the node's memory would be its choice, whatever the job may have. 192M are no
faster, the bytes are the same, and below 64M it warns (SQUASHFS_LOWMEM)."""

PROCESSORS_MAX = 64
IN_PIECES = 8 << 20
"""Bytes of blocks that processors have in hand. Of 4.7.5 with these 96M, "Insufficient memory" is the answer to 32
processors for blocks of 1 MiB and to 256 for those of 128 KiB; 4.5.1 and 4.6.1 take more than they were allowed."""

CHECK_EVERY = 200
"""Milliseconds between two looks whether all this is still wanted."""

PIPE_SIZE = 1 << 20
_F_SETPIPE_SZ = 1031
_WORDS_MAX = 1000


def program() -> str:
    """Return where it is. Raises ConverterMissing."""
    found = shutil.which(PROGRAM, path=f"{os.environ.get('PATH', '')}:{SEARCH_PATH}")
    if found is None:
        raise ConverterMissing(f"{PROGRAM} is not installed, which makes a squashfs of a container image's layers")
    return found


@cache
def version(path: str) -> str:
    """Return what version the program is, such as `4.5.1`. Raises ConverterMissing."""
    try:
        said = run([path, "-version"], timeout=20.0, env=_environment())
    except ProgramFailed as failure:
        said = failure.stderr
    found = re.search(r"version (\d+)\.(\d+)(\S*)", said)
    if found is None:
        raise ConverterMissing(f"{path} does not say which version it is")
    if (int(found[1]), int(found[2])) < OLDEST:
        raise ConverterMissing(f"{path} is of version {found[1]}.{found[2]}, and 4.5 is the first that is enough")
    return f"{found[1]}.{found[2]}{found[3]}"


def _environment() -> dict[str, str]:
    """Return next to nothing: SOURCE_DATE_EPOCH, say, would change times."""
    return {"PATH": SEARCH_PATH, "LC_ALL": "C"}


class Squashing:
    """mksquashfs at work on the file `dest`; `write` feeds it. Left by an exception, it is ended and `dest` is removed.

    `check` is called at least every 200 ms and may raise. `processors`: as many as we may run on, unless told; fewer
    where they would need more memory than it has.
    """

    def __init__(self, dest: str, options: Options, check: Callable[[], None], *, processors: int = 0) -> None:
        self._dest = dest
        self._check = check
        self._said = os.memfd_create("mksquashfs")
        count = min(processors or len(os.sched_getaffinity(0)), PROCESSORS_MAX, IN_PIECES // options.block)
        argv = [program(), "-", dest, "-tar", *FLAGS, *options.arguments(), "-mem", MEMORY, "-processors", str(count)]
        try:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=self._said, stderr=self._said, env=_environment(), cwd="/"
            )
        except OSError as error:
            os.close(self._said)
            raise ConverterMissing(f"{argv[0]} cannot be run: {error.strerror}") from error
        self._pipe = self._own_end()
        self._writable = select.poll()
        self._writable.register(self._pipe, select.POLLOUT)

    def _own_end(self) -> int:
        import fcntl

        stdin = self._process.stdin
        if stdin is None:
            raise RuntimeError("a pipe was asked for")
        os.set_blocking(stdin.fileno(), False)
        with contextlib.suppress(OSError):  # a user's share of pipe buffers may be used up (pipe(7))
            fcntl.fcntl(stdin, _F_SETPIPE_SZ, PIPE_SIZE)
        return stdin.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        os.close(self._said)
        if kind is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._dest)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Feed it. Raises what `check` does, and ConverterMissing or NoSpace if it gave up."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._pipe, view) :]
            except BlockingIOError:
                self._writable.poll(CHECK_EVERY)
                self._check()
            except BrokenPipeError:
                self.finish()
                raise ConverterMissing("mksquashfs ended before it had read everything") from None
        self._check()

    def finish(self) -> None:
        """Wait until the image is written. Raises as `write`."""
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(CHECK_EVERY / 1000)
                break
            self._check()
        if code:
            raise self._failure(code)

    def _failure(self, code: int) -> ConverterMissing | NoSpace:
        said = " ".join(os.pread(self._said, 1 << 16, 0).decode("utf-8", "replace").split())
        if len(said) > _WORDS_MAX:  # of an option that it does not know it speaks first, and then of all that it does
            said = f"{said[: _WORDS_MAX // 2]} ... {said[-_WORDS_MAX // 2 :]}"
        # Names of files are a stranger's, and may hold what moves the cursor.
        said = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in said)
        if "No space left" in said or "Disk quota exceeded" in said:
            return NoSpace(f"the image does not fit on the file system of {self._dest}: {said}")
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        return ConverterMissing(f"mksquashfs failed with {how}: {said or 'it did not say why'}")
