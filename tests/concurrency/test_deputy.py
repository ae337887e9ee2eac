"""A process of its own leads for a task: the line between them, and what becomes of either when the other dies."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stager import deputy
from stager.errors import NoSpace, NotFound, StageImageError
from tests.support.fake_node import SilentTeller

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stager.deputy import Principal

DIGEST = "sha256:" + 64 * "a"


class Heard(SilentTeller):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def outcome(work: Callable[[Principal], None], tell: Heard | None = None) -> str | None:
    with deputy.begin(work, tell or Heard()) as process:
        return process.outcome(lambda: None)


def test_what_is_said_is_repeated_by_the_task() -> None:
    def work(principal: Principal) -> None:
        principal.say("one\nline")
        principal.say("ünother \udcff")
        principal.staged(DIGEST)

    tell = Heard()
    assert outcome(work, tell) == DIGEST
    assert tell.lines == ["one line", "ünother \\udcff"]


@pytest.mark.parametrize(
    "error", [NotFound("no such image"), NoSpace("full", hint="make room"), StageImageError("bug")]
)
def test_its_failure_is_the_tasks(error: StageImageError) -> None:
    with pytest.raises(type(error)) as raised:
        outcome(lambda principal: principal.failed(error))
    assert (raised.value.message, raised.value.hint) == (error.message, error.hint)


def test_a_death_is_no_answer() -> None:
    def work(_principal: Principal) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    assert outcome(work) is None


def test_it_is_nobodys_child_and_has_nothing_of_ours() -> None:
    reading, writing = os.pipe()
    session = os.getsid(0)

    def work(principal: Principal) -> None:
        numbers = [number for number in range(64) if os.path.lexists(f"/proc/self/fd/{number}")]
        fds = [os.readlink(f"/proc/self/fd/{number}").partition(":")[0] for number in numbers]
        principal.say(f"{fds} {os.getsid(0) == session} {os.getcwd()}")
        principal.staged(DIGEST)

    tell = Heard()
    with deputy.begin(work, tell) as process:
        os.close(writing)
        assert os.read(reading, 1) == b"", "a reader of our stdout would wait for it"
        process.outcome(lambda: None)
    os.close(reading)
    assert tell.lines == ["['/dev/null', '/dev/null', '/dev/null', 'socket'] False /"]
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_it_sees_the_task_go(tmp_path: Path) -> None:
    """By its end as by its death: the kernel closes the line."""
    told = tmp_path / "told"
    os.mkfifo(told)
    program = f"""
import os, signal
from stager import deputy
from tests.support.fake_node import SilentTeller
def work(principal):
    assert not principal.gone
    principal.staged("x")
    principal.wait(60)
    with open({str(told)!r}, "w") as file:
        file.write(str(principal.gone))
with deputy.begin(work, SilentTeller()) as process:
    process.outcome(lambda: None)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    reader = os.open(told, os.O_RDONLY | os.O_NONBLOCK)
    task = subprocess.run([sys.executable, "-c", program], check=False, timeout=30)
    assert task.returncode == -signal.SIGKILL
    waiting = select.poll()
    waiting.register(reader, select.POLLIN)
    assert waiting.poll(20_000)
    assert os.read(reader, 10) == b"True"
    os.close(reader)


def test_asked_to_end_it_tidies_up(tmp_path: Path) -> None:
    def work(principal: Principal) -> None:
        try:
            principal.say(str(os.getpid()))
            signal.pause()
        finally:
            (tmp_path / "tidy").touch()

    tell = Heard()
    with deputy.begin(work, tell) as process:

        def end_it() -> None:
            if tell.lines:
                os.kill(int(tell.lines[0]), signal.SIGTERM)

        assert process.outcome(end_it) is None
    assert (tmp_path / "tidy").exists()
