"""The load sensor as execd meets it: real processes, pipes, deaths, and stores that do not answer."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from stager import report
from tests.support.execd import DIRECTLY, SCRIPT, Site, state_of
from tests.support.origin import Origin
from tests.support.tasks import PATIENCE, Tasks, image, until

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 10_000
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("program", [DIRECTLY, ()], ids=["directly", "script"])
def test_what_is_staged_is_told(site: Site, program: tuple[str, ...]) -> None:
    digest = site.store.add(1, "https://images.example.org/tool.sif")
    with site.execd(*program) as execd:
        told = execd.ask()
        assert told["stage_images"] == f";tool.sif@{digest.hex[:12]};"
        assert (told["stage_images8"], told["stage_images_cut"], told["stage_busy"]) == ("none", "0", "0")
        assert int(told["stage_free"]) > 0
        execd.send(b"quit\n")
        assert execd.process.wait(PATIENCE) == 0
    assert site.errors.read_bytes() == b""


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_in_every_shell(site: Site, shell: str) -> None:
    digest = site.store.add(1, "/shared/tool.sif")
    program = [shell, "sh"] if shell == "busybox" else [shell]
    with site.execd(*program, str(SCRIPT)) as execd:
        for _ in range(3):
            assert execd.ask()["stage_images"] == f";tool.sif@{digest.hex[:12]};"
        os.kill(site.first(), signal.SIGKILL)
        assert execd.ask() == {"stage_images": "none"}
        assert execd.ask()["stage_images"] == f";tool.sif@{digest.hex[:12]};"
        assert execd.end() == 0


def test_staging_and_removing_are_seen_at_once(tmp_path: Path, site: Site) -> None:
    environ = {"STAGE_IMAGE_STORE": site.store.layout.root}
    with Origin() as origin, site.execd(*DIRECTLY) as execd, Tasks(tmp_path, **environ) as tasks:
        reference = origin.put("/tool.sqsh", image())
        assert execd.ask()["stage_images"] == "none"
        assert tasks.start(reference).done() == 0
        assert execd.ask()["stage_images"].startswith(";tool.sqsh@")
        assert tasks.start("remove", "--force", reference).done() == 0
        assert execd.ask()["stage_images"] == "none"


def test_a_store_that_comes_to_be_later_is_told_of(tmp_path: Path, site: Site) -> None:
    environ = {"STAGE_IMAGE_STORE": str(tmp_path / "new")}
    with Origin() as origin, site.execd(*DIRECTLY, **environ) as execd, Tasks(tmp_path, **environ) as tasks:
        told = execd.ask()
        assert (told["stage_images"], told["stage_free"]) != ("none", "0"), "there is room for it"
        assert tasks.start(origin.put("/tool.sqsh", image())).done() == 0
        assert execd.ask()["stage_images"].startswith(";tool.sqsh@")


def test_stagings_in_progress_are_counted(tmp_path: Path, site: Site) -> None:
    environ = {"STAGE_IMAGE_STORE": site.store.layout.root, "STAGE_IMAGE_TEST_STOP_AT": "fetched"}
    with Origin() as origin, site.execd(*DIRECTLY) as execd, Tasks(tmp_path, **environ) as tasks:
        stopped = tasks.start(origin.put("/tool.sqsh", image()))
        stopped.stops()
        told = execd.ask()
        assert (told["stage_busy"], told["stage_images"]) == ("1", "none")
        stopped.send(signal.SIGCONT)
        assert stopped.done() == 0
        assert execd.ask()["stage_busy"] == "0"


def test_a_python_that_dies_is_replaced(site: Site) -> None:
    site.store.add(1, "/shared/tool.sif")
    with site.execd() as execd:
        for _ in range(3):
            assert execd.ask()["stage_images"].startswith(";tool.sif@")
            os.kill(site.first(), signal.SIGKILL)
            assert execd.ask() == {"stage_images": "none"}
        assert execd.ask()["stage_images"].startswith(";tool.sif@")
        assert execd.end() == 0


def test_a_python_that_hangs_is_waited_for_and_then_replaced(site: Site) -> None:
    site.store.add(1, "/shared/tool.sif")
    with site.execd() as execd:
        execd.ask()
        hung = site.first()
        os.kill(hung, signal.SIGSTOP)
        try:
            for _ in range(3):
                begun = time.monotonic()
                assert execd.ask() == {"stage_images": "none"}
                assert time.monotonic() - begun < 2.8, "execd loses jobs' time while it waits"
            assert execd.ask()["stage_images"].startswith(";tool.sif@")
        finally:
            os.kill(hung, signal.SIGCONT)
        until(lambda: state_of(hung) in ("", "Z"), "the one that hung to see that nobody asks it any more")


def test_a_late_answer_is_no_answer_to_the_next_question(site: Site) -> None:
    digest = site.store.add(1, "/shared/tool.sif")
    report.rebuild(site.store.layout, create=True)
    with site.execd() as execd:
        execd.ask()
        os.kill(site.first(), signal.SIGSTOP)
        assert execd.ask() == {"stage_images": "none"}
        os.kill(site.first(), signal.SIGCONT)
        os.unlink(site.store.layout.sidecar(digest))
        assert execd.ask()["stage_images"] == "none"
        assert len(site.living()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "exit 127",
        "echo begin; exit 1",
        "echo nonsense; echo end; exec cat",
        "kill -9 $$",
        "exec cat >/dev/null",
        "exec true",
    ],
)
def test_whatever_the_other_one_does_execd_has_an_answer(site: Site, text: str) -> None:
    site.program(text)
    site.store.add(1, "/shared/tool.sif")
    with site.execd() as execd:
        for _ in range(4):
            assert execd.ask()["stage_images"] == "none"
        site.works()
        until(lambda: execd.ask()["stage_images"] != "none", "the one that works")
        assert execd.end() == 0
    assert site.errors.read_bytes() == b""


def test_settings_that_are_wrong_are_no_end(site: Site, tmp_path: Path) -> None:
    site.store.add(1, "/shared/tool.sif")
    settings = tmp_path / "config.toml"
    settings.write_text("stoer = 1\n")
    with site.execd(*DIRECTLY, STAGE_IMAGE_CONFIG=str(settings)) as execd:
        assert execd.ask()["stage_images"] == "none"
        settings.write_text("")
        assert execd.ask()["stage_images"].startswith(";tool.sif@")


def test_a_store_that_does_not_answer_is_waited_for_once(site: Site) -> None:
    # A file of settings that is a pipe without a writer stands for a file server that is dead: it is opened for ever.
    pipe = site.folder / "config.toml"
    os.mkfifo(pipe)
    code = (
        "import sys; from stager import config, cli; from stager.cli import load_sensor_verb as verb\n"
        f"config.load = lambda *_: open({str(pipe)!r})\n"
        "from stager.cli.full import run; sys.exit(run(['load-sensor']))"
    )
    with site.execd(sys.executable, "-c", code) as execd:
        begun = time.monotonic()
        assert execd.ask()["stage_images"] == "none"
        first = time.monotonic() - begun
        begun = time.monotonic()
        assert execd.ask()["stage_images"] == "none"
        assert time.monotonic() - begun < 0.9 < first
        assert execd.end() == 0


def test_a_sensor_holds_no_store_and_waits_for_no_lock(site: Site) -> None:
    site.store.add(1, "/shared/tool.sif")
    report.rebuild(site.store.layout, create=True)
    with report.locked(site.store.layout.lock("report")) as ours:
        assert ours
        with site.execd(*DIRECTLY) as execd:
            assert execd.ask()["stage_images"].startswith(";tool.sif@")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGPIPE])
def test_signals_that_come_with_a_terminal_are_no_end(site: Site, number: signal.Signals) -> None:
    for program in (DIRECTLY, ()):
        with site.execd(*program) as execd:
            execd.ask()
            execd.process.send_signal(number)
            execd.ask()
            assert execd.end() == 0


def test_nobody_who_reads_is_no_end(site: Site) -> None:
    with site.execd(*DIRECTLY) as execd:
        execd.ask()
        assert execd.process.stdout
        execd.process.stdout.close()
        execd.send(b"\n\n")
        assert execd.end() == 0


def test_a_thousand_images_are_told_quickly(site: Site) -> None:
    for number in range(1000):
        site.store.add(number, f"https://images.example.org/group/tool-{number}-of-a_thousand.sif")
    with site.execd(*DIRECTLY) as execd:
        told = execd.ask()
        seconds = []
        for _ in range(20):
            begun = time.monotonic()
            told = execd.ask()
            seconds.append(time.monotonic() - begun)
    assert sorted(seconds)[10] < 0.1
    assert told["stage_images_cut"] == "1"
    assert all(
        800 < len(told[name]) <= 900 for name in told if name.startswith("stage_images") and name[-1] in "s2345678"
    )
    assert "tool-999-of" in told["stage_images"], "the one used last is told first"


def test_memory_stays_the_same(site: Site) -> None:
    for number in range(20):
        site.store.add(number, f"/shared/tool-{number}.sif")
    with site.execd(*DIRECTLY) as execd:
        for _ in range(200):
            execd.ask()
        before = _resident(execd.process.pid)
        for _ in range(ROUNDS // 100):
            execd.send(b"\n" * 100)
            for _ in range(100):
                execd.hear()
        assert _resident(execd.process.pid) - before < 512, "kB"
