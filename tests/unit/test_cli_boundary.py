from __future__ import annotations

import errno
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import pytest

from stager.cli.boundary import ENDING, Interrupted, guarded, report
from stager.errors import NotFound, StageImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST = os.uname().nodename


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> NoReturn:
        raise error

    return action


@pytest.mark.parametrize("code", [0, 3])
def test_what_an_action_returns(code: int) -> None:
    assert guarded(lambda: code) == code


@pytest.mark.parametrize("error", [NotFound("no such image", hint="look"), StageImageError("nothing to try")])
def test_expected_failures_have_their_code_and_two_lines(
    capsys: pytest.CaptureFixture[str], error: StageImageError
) -> None:
    error.reference = "https://origin/x.sif"
    assert guarded(raising(error)) == error.exit_code
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"stage-image: error: https://origin/x.sif: {error.message} (on {HOST})"
    assert lines[1:] == ([f"stage-image: try: {error.hint}"] if error.hint else [])


def test_a_reference_is_not_named_twice(capsys: pytest.CaptureFixture[str]) -> None:
    report(NotFound("there is no /x.sif", reference="/x.sif", hint="look"))
    assert capsys.readouterr().err.startswith(f"stage-image: error: there is no /x.sif (on {HOST})\n")


def test_what_the_system_refuses_is_no_bug(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    refused = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "data"))
    assert guarded(raising(refused)) == 75
    assert f"the store {tmp_path} cannot be used: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [KeyError("x"), OSError(errno.EACCES, "no file"), OSError(errno.EBADF, "odd", "/a"), RecursionError()]
)
def test_everything_else_is_a_bug_with_a_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert guarded(raising(error)) == 1
    err = capsys.readouterr().err
    (written,) = tmp_path.glob("stage-image-report-*.txt")
    assert f"send the report {written} to" in err
    assert "Traceback" not in err
    text = written.read_text()
    assert "Traceback" in text
    assert type(error).__name__ in text
    assert sys.version in text
    assert written.stat().st_mode & 0o077 == 0


def test_a_report_that_cannot_be_written_is_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert guarded(raising(KeyError("x"))) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "send the report above to" in err


def in_a_child(action: Callable[[], object]) -> tuple[int, str]:
    """Do it in a process of its own; return its wait status and what it said on stderr."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(theirs, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for the life of the child
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
        code: object = None
        try:
            code = action()
        finally:
            os._exit(code if isinstance(code, int) else 99)
    os.close(theirs)
    with open(ours, "rb") as file:
        said = file.read().decode()
    return os.waitpid(pid, 0)[1], said


def tidying(number: int, path: Path) -> Callable[[], object]:
    """Return an action that is interrupted by a signal, and once more while it tidies up."""

    def action() -> int:
        try:
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 10)
        finally:
            os.kill(os.getpid(), number)
            path.write_text("tidied up")
        return 0

    return lambda: guarded(action)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_unwinds_first_and_then_kills_for_real(tmp_path: Path, number: signal.Signals) -> None:
    status, said = in_a_child(tidying(number, tmp_path / "file"))
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == number
    assert (tmp_path / "file").read_text() == "tidied up"
    assert said == ""


def test_what_is_ignored_stays_ignored() -> None:
    """As nohup and a shell's `&` leave it."""

    def action() -> int:
        for number in ENDING:
            os.kill(os.getpid(), number)
        return 7

    def ignoring() -> int:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        return guarded(action)

    status, _ = in_a_child(ignoring)
    assert os.waitstatus_to_exitcode(status) == 7


def test_an_interrupt_is_not_swallowed() -> None:
    assert not issubclass(Interrupted, Exception)


def test_a_reader_of_stdout_that_has_gone_is_told_by_the_code() -> None:
    def action() -> int:
        ours, theirs = os.pipe()
        os.close(ours)
        os.dup2(theirs, 1)
        print("lost")
        return 0

    def flushed() -> int:
        code = guarded(action)
        sys.stdout.flush()  # as Python does at its end
        return code

    status, said = in_a_child(flushed)
    assert (os.waitstatus_to_exitcode(status), said) == (128 + signal.SIGPIPE, "")
