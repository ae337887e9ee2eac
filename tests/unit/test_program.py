from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from stager import program
from stager.process import ProcessIdentity
from stager.program import ProgramFailed, run

if TYPE_CHECKING:
    from pathlib import Path

LONG = 60.0
"""Seconds that no test waits for."""


def failure(*argv: str, timeout: float = LONG) -> ProgramFailed:
    with pytest.raises(ProgramFailed) as caught:
        run(argv, timeout=timeout)
    assert caught.value.argv == list(argv)
    return caught.value


def gone(pid: int) -> bool:
    """Wait for the end of a process that is not our child."""
    for _ in range(500):
        if ProcessIdentity.of(pid) is None:
            return True
        time.sleep(0.01)
    return False


def test_what_it_prints_is_returned_to_the_byte() -> None:
    assert run(["printf", r"a\n\377b\n\n"], timeout=LONG) == "a\n\udcffb\n\n"


def test_much_output_does_not_block() -> None:
    assert len(run(["sh", "-c", "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2"], timeout=LONG)) == 300_000


def test_stdin_is_empty() -> None:
    assert run(["cat"], timeout=LONG) == ""


def test_it_speaks_english_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("OURS", "1")
    assert run(["sh", "-c", "echo $LC_ALL $OURS"], timeout=LONG) == "C 1\n"
    assert run(["sh", "-c", "echo $LC_ALL $OURS"], timeout=LONG, env={"PATH": os.defpath, "LC_ALL": "x"}) == "x\n"


def test_a_failure_has_exit_code_and_last_words() -> None:
    failed = failure("sh", "-c", "echo no >&2; echo disk >&2; exit 3")
    assert (failed.returncode, failed.stderr, failed.missing) == (3, "no\ndisk", False)
    assert str(failed) == "sh failed with exit code 3: no\ndisk"


def test_a_silent_failure_says_so() -> None:
    assert str(failure("false")) == "false failed with exit code 1: it did not say why"


def test_only_the_tail_of_many_words_is_kept() -> None:
    failed = failure("sh", "-c", "seq 100000 >&2; exit 1")
    assert len(failed.stderr) <= program.STDERR_TAIL
    assert failed.stderr.endswith("\n100000")


def test_a_signal_has_a_number() -> None:
    failed = failure("sh", "-c", "kill -TERM $$")
    assert failed.returncode == -signal.SIGTERM
    assert str(failed).startswith("sh failed with signal 15")


def test_a_program_that_is_not_installed(tmp_path: Path) -> None:
    for argv in ("no-such-program-at-all", str(tmp_path / "none")):
        failed = failure(argv)
        assert (failed.returncode, failed.missing) == (127, True)
        assert "is not installed" in str(failed)


def test_a_file_that_cannot_be_executed(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x")
    failed = failure(str(tmp_path / "text"))
    assert (failed.returncode, failed.missing) == (126, False)
    (tmp_path / "text").chmod(0o755)  # and no #! line
    assert failure(str(tmp_path / "text")).returncode == 126


def test_time_is_up_for_the_whole_family(tmp_path: Path) -> None:
    before = time.monotonic()
    failed = failure("sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait", timeout=0.3)
    assert time.monotonic() - before < LONG / 2
    assert failed.returncode is None
    assert str(failed) == "sh did not end within 0.3 s"
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_child_left_behind_does_not_hold_us_up(tmp_path: Path) -> None:
    before = time.monotonic()
    assert run(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; echo done"], timeout=LONG) == "done\n"
    assert time.monotonic() - before < LONG / 2
    pid = int((tmp_path / "pid").read_text())
    assert ProcessIdentity.of(pid) is not None, "leaving it alone is the point"
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)


def test_an_interrupt_ends_the_program(tmp_path: Path) -> None:
    main = threading.get_ident()

    def interrupt() -> None:
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", f"echo $$ > {tmp_path}/pid; : > {tmp_path}/started; exec sleep 60"], timeout=LONG)
    assert gone(int((tmp_path / "pid").read_text()))


def test_no_descriptor_stays_open() -> None:
    run(["true"], timeout=LONG)
    before = len(os.listdir("/proc/self/fd"))
    run(["true"], timeout=LONG)
    failure("false")
    assert len(os.listdir("/proc/self/fd")) == before


def test_none_of_our_descriptors_reach_it() -> None:
    fd = os.dup(0)
    os.set_inheritable(fd, True)
    try:
        assert run(["sh", "-c", f"test -e /proc/self/fd/{fd} && echo yes; echo no"], timeout=LONG) == "no\n"
    finally:
        os.close(fd)


def test_the_program_runs_in_a_session_of_its_own() -> None:
    sid = run(["sh", "-c", "cut -d' ' -f6 /proc/$$/stat"], timeout=LONG)
    assert int(sid) != os.getsid(0)


def test_no_shell_looks_at_the_arguments() -> None:
    assert run(["printf", "%s", "$HOME; echo"], timeout=LONG) == "$HOME; echo"
