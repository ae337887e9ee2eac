"""A process is its pid, its start and its boot; and becoming a command is leaving nothing of Python behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stager import process
from stager.errors import CommandNotFound, CommandNotRunnable
from stager.process import ProcessIdentity, boot_id, command_of, current, session_leader

ROOT = Path(__file__).parents[2]


def test_we_are_alive() -> None:
    me = current()
    assert me.alive
    assert me == ProcessIdentity.of(os.getpid()) == ProcessIdentity.parse(str(me))
    assert hash(me) == hash(ProcessIdentity.parse(str(me)))
    assert len(boot_id()) == 8


def test_a_child_lives_until_it_ends_and_a_zombie_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        identity = ProcessIdentity.of(child.pid)
        assert identity is not None
        assert identity != current()
        lives = [identity.alive]
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, but not yet buried
        lives.append(identity.alive)
        assert ProcessIdentity.of(child.pid) is None
    lives.append(identity.alive)
    assert lives == [True, False, False]


def test_names_with_brackets_and_blanks_confuse_nobody(tmp_path: Path) -> None:
    odd = tmp_path / "a) Z 1 2 (b"
    odd.symlink_to(sys.executable)
    with subprocess.Popen([odd, "-c", "input()"], stdin=subprocess.PIPE) as child:
        identity = ProcessIdentity.of(child.pid)
        assert identity is not None
        assert identity.alive
        child.communicate(b"\n")


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.2", "1.2.", "1.2.short", "1.2.toolong99", "x.2.12345678", "1.y.12345678", "-1.2.12345678",
     "1.2.1234567/", "1.2.1234\n678", "1" * 30 + ".2.12345678", "1.2.12345678.more", "٣.2.12345678"],
)  # fmt: skip
def test_nonsense_is_no_identity(text: str) -> None:
    assert ProcessIdentity.parse(text) is None


def test_an_identity_that_cannot_be_is_dead() -> None:
    for text in ("0.0.12345678", f"0.0.{boot_id()}", f"{10**18}.1.{boot_id()}", f"1.0.{boot_id()}"):
        identity = ProcessIdentity.parse(text)
        assert identity is not None
        assert not identity.alive


def test_another_boot_is_another_life(monkeypatch: pytest.MonkeyPatch) -> None:
    me = current()
    monkeypatch.setattr(process, "_boot", "00000000")
    assert not me.alive
    assert current().alive
    assert current() != me


def test_the_session_leader_outlives_its_children() -> None:
    leader = session_leader()
    assert leader.alive
    assert leader.pid == os.getsid(0) or ProcessIdentity.of(os.getsid(0)) is None


def run_in_session(code: str) -> str:
    """Run Python code in a session of its own, whose leader is the interpreter; return what it prints."""
    setup = f"import sys, os; sys.path.insert(0, {str(ROOT)!r}); from stager.process import *; "
    command = [sys.executable, "-I", "-S", "-c", setup + code]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def test_in_a_new_session_we_lead() -> None:
    assert run_in_session("print(session_leader() == current())") == "True"


def test_a_session_whose_leader_is_gone_is_led_by_the_eldest() -> None:
    code = """
r, w = os.pipe()
if os.fork() == 0:  # the leader ends, its child and grandchild stay in the session
    os.close(w)
    os.read(r, 1)
    child = current()
    if os.fork() == 0:
        os.write(1, str(session_leader() == child).encode())
        os._exit(0)
    os.wait()
    os._exit(0)
os._exit(0)
"""
    assert run_in_session("\n" + code) == "True"


def test_commands_have_names() -> None:
    assert command_of(os.getpid())
    assert command_of(2**22 + 1) == ""


class TestBecoming:
    def become(self, *command: str, environ: str = "{'PATH': os.environ['PATH']}") -> subprocess.CompletedProcess[str]:
        code = (
            f"import sys, os; sys.path.insert(0, {str(ROOT)!r}); from stager.process import become; "
            f"become({list(command)!r}, {environ})"
        )
        interpreter = [sys.executable, "-I", "-S", "-c", code]
        return subprocess.run(interpreter, check=False, capture_output=True, text=True, timeout=60)

    def test_the_command_gets_its_environment_and_signals(self) -> None:
        environ = "{'PATH': '/bin:/usr/bin', 'A': 'b'}"
        done = self.become("sh", "-c", "echo $A; kill -PIPE $$; echo survived", environ=environ)
        assert done.stdout == "b\n"
        assert done.returncode == -signal.SIGPIPE

    def test_what_is_not_there(self) -> None:
        with pytest.raises(CommandNotFound, match="no-such-command"):
            process.become(["no-such-command"], {"PATH": "/bin"})
        with pytest.raises(CommandNotFound):
            process.become(["/no/such/command"], {})

    def test_what_cannot_be_run(self, tmp_path: Path) -> None:
        plain = tmp_path / "plain"
        plain.touch(mode=0o644)
        for command in (str(plain), str(tmp_path), "a\0b"):
            with pytest.raises(CommandNotRunnable):
                process.become([command], {"PATH": ""})

    @pytest.fixture(autouse=True)
    def _signals(self) -> object:
        before = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
        yield
        for number, handler in before.items():
            signal.signal(number, handler)
