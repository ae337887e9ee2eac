"""stdout: the answer and nothing else."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from stager.errors import AnswerLost

if TYPE_CHECKING:
    from collections.abc import Sequence


def write(text: str) -> None:
    """Write one line; bytes of a path that are not UTF-8 come out as they are."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What the buffer still holds would be tried once more at exit, and make that 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        raise AnswerLost(f"the answer cannot be written to stdout: {error.strerror}") from error


def write_json(answer: object) -> None:
    """Write an answer as JSON."""
    write(json.dumps(answer, indent=2, default=str))


def write_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Write rows in columns as wide as they need to be."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_time(seconds: float) -> str:
    """Return wall-clock seconds as local time for people."""
    from time import localtime, strftime

    return strftime("%Y-%m-%d %H:%M", localtime(seconds)) if seconds else "-"
