from __future__ import annotations

import io
import json
import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from stager.cli.output import show_time, write, write_json, write_table
from stager.errors import AnswerLost

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_bytes_of_a_path_come_out_as_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = os.fsdecode(b"/a/\xff\xc3\xa4")
    write(path)
    assert capfdbinary.readouterr() == (b"/a/\xff\xc3\xa4\n", b"")


def test_what_was_printed_before_stays_before(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, write_through=False))
    print("first", end=" ")
    write("second")
    assert file.getvalue() == b"first second\n"


def test_json_takes_what_it_does_not_know_as_text(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_json({"path": "/a", "n": 1, "at": {1, 2}.__class__})
    answer = json.loads(capfdbinary.readouterr().out)
    assert answer == {"path": "/a", "n": 1, "at": "<class 'set'>"}


def test_columns_are_as_wide_as_they_need_to_be(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_table(("A", "LONG", "Z"), [("wide one", "x", ""), ("b", "", "z")])
    assert capfdbinary.readouterr().out.decode().splitlines() == [
        "A         LONG  Z",
        "wide one  x",
        "b               z",
    ]


def test_an_empty_table_is_its_head(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write_table(("A", "B"), [])
    assert capfdbinary.readouterr().out == b"A  B\n"


@contextmanager
def stdout_is(fd: int) -> Iterator[None]:
    """Put a file in the place of stdout for the time of the context."""
    kept = os.dup(1)
    os.dup2(fd, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def test_an_answer_that_is_lost_is_an_error_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    with capfd.disabled():
        full = os.open("/dev/full", os.O_WRONLY)
        with stdout_is(full):
            with pytest.raises(AnswerLost, match=r"^the answer cannot be written to stdout: No space left on device$"):
                write("/a")
            write("nobody hears this, and nobody fails for it at exit")
        os.close(full)


def test_a_reader_that_has_gone_is_another_matter(capfd: pytest.CaptureFixture[str]) -> None:
    with capfd.disabled():
        ours, theirs = os.pipe()
        os.close(ours)
        with stdout_is(theirs), pytest.raises(BrokenPipeError):
            write("/a")
        os.close(theirs)
        with open(os.devnull, "wb") as nothing, stdout_is(nothing.fileno()):
            write("")  # what the buffer still held


def test_times_are_local() -> None:
    at = time.mktime((2026, 11, 20, 12, 34, 56, 0, 0, -1))
    assert (show_time(at), show_time(0)) == ("2026-11-20 12:34", "-")
