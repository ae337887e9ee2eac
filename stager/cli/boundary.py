"""The one place where errors become messages and exit codes, and signals become clean endings."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from stager.errors import StageImageError
from stager.progress import write_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn


class Interrupted(BaseException):
    """A signal asked us to end. Not an Exception: nothing may swallow it on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def guarded(action: Callable[[], int]) -> int:
    """Return what `action` returns, or the exit code of what went wrong, after telling about it.

    SIGINT, SIGTERM and SIGHUP unwind the stack first, so that locks, notes and bars are let go of, and then kill the
    process for real: shells and schedulers tell a signal from an exit code.
    """
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        return _told(action)
    except Interrupted as interrupted:
        signal.signal(interrupted.number, signal.SIG_DFL)
        os.kill(os.getpid(), interrupted.number)
        return 128 + interrupted.number


def report(error: StageImageError) -> int:
    """Write an expected failure to stderr; return its exit code."""
    about = f"{error.reference}: " if error.reference and error.reference not in error.message else ""
    write_line(f"error: {about}{error.message} (on {os.uname().nodename})")
    if error.hint:
        write_line(f"try: {error.hint}")
    return error.exit_code


def _told(action: Callable[[], int]) -> int:
    try:
        code = action()
        sys.stdout.flush()
    except StageImageError as error:
        return report(error)
    except BrokenPipeError:
        # Whoever read our output has gone. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001 - everything unexpected ends here
        return _report_refusal(error) or _report_bug(error)
    return code


def _report_refusal(error: Exception) -> int:
    """Report what an operating system may say at any time; 0 for anything else."""
    from stager.store.trouble import REFUSED, as_error

    if not isinstance(error, OSError) or error.errno not in REFUSED or not error.filename:
        return 0
    return report(as_error(error, os.path.dirname(os.fsdecode(error.filename)) or "/"))


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    # A second one must not interrupt the tidying up of the first. Not SIG_IGN: Python complains on stderr of a signal
    # that has come already and finds no handler any more (Modules/signalmodule.c, "ignored due to race condition").
    for other in ENDING:
        signal.signal(other, _ignore)
    raise Interrupted(number)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    return


def _report_bug(error: Exception) -> int:
    import tempfile
    import traceback

    from stager import __version__

    text = "".join(traceback.format_exception(error))
    head = f"stage-image {__version__}, Python {sys.version}, {' '.join(os.uname())}\narguments: {sys.argv[1:]!r}\n\n"
    where = ""
    try:
        fd, where = tempfile.mkstemp(prefix="stage-image-report-", suffix=".txt")
        with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(head + text)
    except OSError:
        write_line(head + text)
    last = f"{type(error).__name__}: {error}"
    write_line(f"error: a bug in stage-image: {last[:200]} (on {os.uname().nodename})")
    write_line(f"try: send the report {where or 'above'} to the maintainers")
    return 1
