"""The shell wrapper and the real CLI: one stages, the other answers, and what `exec` becomes is the same by both."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from stager.collect import evict
from stager.layout import Layout
from stager.process import ProcessIdentity
from tests.support.tasks import ROOT, all_end, image, until
from tests.support.warm_scene import CLI, FORMS, TOOLS, WRAPPER, apply, faults, program, set_up, shells
from tests.support.warm_site import ALL, Site, a_site

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTENT = image(10_000)
MINE = {"_", "SHLVL", "PWD", "OLDPWD"}
"""Variables that shells keep for themselves."""

ODD_WORDS = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "\\",
    "*",
    "~",
    "$HOME",
    "`id`",
    "a\nb",
    "\n",
    "--",
    "-c",
    "a=b",
    "\udcff",
    "ä",
    "!",
]


@pytest.fixture
def site(tmp_path: Path, store_path: Path) -> Iterator[Site]:
    with a_site(tmp_path, store_path, CONTENT) as site:
        yield site


@pytest.mark.parametrize("shell", shells())
def test_the_first_call_stages_and_the_next_needs_no_python(site: Site, shell: str) -> None:
    first = site.tasks.run(site.reference, program=site.entry(shell))
    assert (first.done(), first.answer, site.pythons) == (0, str(site.staged), 1)
    second = site.run(shell, site.reference)
    assert (second.returncode, second.stdout, second.stderr) == (0, f"{site.staged}\n".encode(), b"")


def test_a_whole_job_by_the_wrapper(site: Site) -> None:
    wrapper = site.entry(next(iter(shells())))
    tasks = [site.tasks.start(site.reference, program=wrapper) for _ in range(24)]
    all_end(tasks)
    assert {task.answer for task in tasks} == {str(site.staged)}
    before = site.pythons
    again = [site.tasks.start(site.reference, program=wrapper) for _ in range(24)]
    all_end(again)
    assert {task.answer for task in again} == {str(site.staged)}
    assert site.pythons == before


@pytest.mark.parametrize("shell", shells())
def test_an_answer_needs_no_other_program(site: Site, shell: str) -> None:
    site.warmed(site.reference)
    command = [str(shutil.which(shells()[shell][0])), *shells()[shell][1:], str(WRAPPER), site.reference]
    done = subprocess.run(command, env=site.tasks.environ({"PATH": "/nowhere"}), capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (f"{site.staged}\n".encode(), b"")


@pytest.mark.parametrize("shell", shells())
@pytest.mark.parametrize("verb", FORMS)
def test_every_shell_sees_every_fault(tmp_path: Path, shell: str, verb: str) -> None:
    sound = set_up(tmp_path / "sound", verb)
    assert sound.by_wrapper(shell) == sound.answer
    own = {name: fault for name, fault in faults(verb).items() if verb in ("path", fault.verb)}
    for number, (name, fault) in enumerate(own.items()):
        scene = set_up(tmp_path / str(number), verb)
        apply(scene, {name})
        assert (scene.by_wrapper(shell) == scene.answer) == (fault.unseen == "shell"), name


@pytest.mark.parametrize("entry", ALL)
def test_exec_ends_as_the_command_does(site: Site, entry: str) -> None:
    words = ("exec", "--runtime=none", "--mount=none", site.reference, "--")
    site.warmed(*words, "true")
    for code in (0, 1, 255):
        assert site.run(entry, *words, "sh", "-c", f"exit {code}").returncode == code
    assert site.run(entry, *words, "sh", "-c", "kill -KILL $$").returncode == -signal.SIGKILL
    for command, code in (("no such command", 127), ("/etc/passwd", 126), ("/etc", 126)):
        task = site.tasks.run(*words, command, program=site.entry(entry))
        assert (task.done(), task.out) == (code, "")
        assert task.err.startswith(f"stage-image: error: the command {command!r} ")


@pytest.mark.parametrize("entry", ALL)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_command_itself(site: Site, entry: str, number: signal.Signals) -> None:
    words = ("exec", "--runtime=none", "--mount=none", site.reference, "--", "sleep")
    site.warmed(*words, "0")
    task = site.tasks.start(*words, "60", program=site.entry(entry))
    until(lambda: Path(f"/proc/{task.pid}/comm").read_text() == "sleep\n", "the command to run")
    task.send(number)
    assert task.done() == -number


@pytest.mark.parametrize("entry", ALL)
def test_stdin_and_stdout_are_the_commands_own(site: Site, entry: str) -> None:
    words = ("exec", "--runtime=none", "--mount=none", site.reference, "--", "cat")
    site.warmed(*words)
    content = Random(1).randbytes(1 << 20)
    done = site.run(entry, *words, stdin=content)
    assert (done.stdout, done.stderr) == (content, b"")
    assert site.run(entry, *words, "/proc/self/fd/0", stdin=content).stdout == content


@pytest.mark.parametrize("entry", ALL)
def test_arguments_arrive_as_they_are(site: Site, entry: str) -> None:
    words = ("exec", "--runtime=none", "--mount=none", site.reference, "--")
    site.warmed(*words, "true")
    done = site.run(entry, *words, "printf", r"%s\0", *ODD_WORDS)
    assert done.stdout == b"".join(os.fsencode(word) + b"\0" for word in ODD_WORDS)


@pytest.mark.parametrize("shell", shells())
def test_arguments_arrive_at_the_cli_as_they_are(site: Site, shell: str, tmp_path: Path) -> None:
    said = tmp_path / "said"
    python = program(tmp_path / "other", f"printf '%s\\0' \"$@\" >{said}")
    site.run(shell, "exec", "--json", *ODD_WORDS, env={"STAGE_IMAGE_PYTHON": str(python)})
    assert said.read_bytes().split(b"\0")[3:-1] == [b"exec", b"--json", *(os.fsencode(word) for word in ODD_WORDS)]


@pytest.mark.parametrize("entry", ALL)
@pytest.mark.parametrize("runtime", ["none", "apptainer", "singularity"])
def test_the_environment_of_the_command(site: Site, tmp_path: Path, entry: str, runtime: str) -> None:
    """The same warm and cold; and nothing else changes, but what a shell keeps for itself."""
    for name in {"apptainer", "singularity"} & {runtime}:
        program(tmp_path / "bin" / name, r'shift 2; exec "$@"')
    environ = {
        "PATH": f"{tmp_path / 'bin'}:{TOOLS}",
        "name": "a\nb",
        "path": " x ",
        "STAGE_IMAGE_ROOT": "/old",
    }
    words = ("exec", "--mount=none", site.reference, "--", "cat", "/proc/self/environ")
    cold = site.tasks.run(*words, env=environ)
    assert cold.done() == 0, cold.err
    done = site.run(entry, *words, env=environ)
    warm_, cold_ = (_variables(text) for text in (done.stdout, os.fsencode(cold.out)))
    assert warm_ == cold_
    assert warm_["STAGE_IMAGE_PATH"] == str(site.staged)
    inside = {name for name in warm_ if "ENV_STAGE_IMAGE" in name}
    assert len(inside) == (0 if runtime == "none" else 3)
    given = site.tasks.environ(environ)
    changed = {name for name in warm_.keys() | given.keys() if warm_.get(name) != given.get(name)} - inside - MINE
    assert changed == {"STAGE_IMAGE_PATH", "STAGE_IMAGE_DIGEST", "STAGE_IMAGE_ROOT"}


@pytest.mark.parametrize("entry", [name for name in ALL if not name.startswith(("dash", "busybox"))])
def test_exported_functions_reach_the_command(site: Site, entry: str) -> None:
    """`module` is one, on nearly every cluster. (dash and busybox drop what is no name of theirs: see the README.)"""
    words = ("exec", "--runtime=none", "--mount=none", site.reference, "--", "bash", "-c", "greet world")
    environ = {"BASH_FUNC_greet%%": '() { echo "hello $1"; }'}
    site.warmed(*words[:-2], "-c", ":")
    assert site.run(entry, *words, env=environ).stdout == b"hello world\n"


@pytest.mark.parametrize("entry", ALL)
def test_the_command_has_the_descriptors_that_were_there(site: Site, entry: str) -> None:
    look = "import os; print(sorted(os.listdir('/proc/self/fd'))[:-1])"
    words = ("exec", "--runtime=none", "--mount=none", site.reference, "--", sys.executable, "-c", look)
    site.warmed(*words)
    assert site.run(entry, *words).stdout == b"['0', '1', '2']\n"


@pytest.mark.parametrize("entry", ALL)
def test_the_commands_lease_is_its_own(site: Site, store_path: Path, entry: str) -> None:
    words = ("exec", "--runtime=none", "--mount=none", site.reference, "--")
    site.warmed(*words, "true")
    task = site.tasks.start(*words, "sleep", "60", program=site.entry(entry))
    until(lambda: Path(f"/proc/{task.pid}/comm").read_text() == "sleep\n", "the command to run")
    names = [path.name for path in (store_path / "leases").glob("*/*")]
    assert f"slurm-1@{ProcessIdentity.of(task.pid)}" in names


def test_nothing_is_evicted_under_a_command(tmp_path: Path) -> None:
    """Whoever comes first: either the command runs and keeps its image, or the CLI is asked."""
    look = 'test -f "$STAGE_IMAGE_PATH" && sleep 0.01 && test -f "$STAGE_IMAGE_PATH" && echo kept'
    random = Random(1)
    for number in range(60):
        scene = set_up(tmp_path / str(number), "exec")
        command = [*shells()[next(iter(shells()))], str(WRAPPER), *scene.words[:-1], look]
        process = subprocess.Popen(command, env=scene.environ, stdout=subprocess.PIPE)
        start = time.monotonic()
        delay = random.uniform(0.0, 0.005)
        while time.monotonic() < start + delay:
            pass
        evict(Layout(str(scene.store)), scene.image.digest)
        out = process.communicate()[0].decode().strip()
        assert (process.returncode, out) in ((0, "kept"), (0, CLI)), number


@pytest.mark.parametrize("shell", shells())
@pytest.mark.parametrize("name", ["a) S 1 (b", "((( ", "tmux: server", ") ) ) 1 2 3"])
def test_a_session_leader_may_be_called_anything(site: Site, store_path: Path, shell: str, name: str) -> None:
    site.warmed(site.reference)
    leader = store_path.parent / name
    leader.symlink_to(sys.executable)
    code = (
        "import subprocess, sys, os; print(os.getpid()); sys.exit(subprocess.call(sys.argv[1:]) + input().count('x'))"
    )
    command = [str(leader), "-c", code, *site.entry(shell), site.reference]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=site.tasks.environ(), start_new_session=True
    )
    try:
        until(lambda: site.pythons or _leases(store_path, process.pid), "the wrapper's lease")
        assert _leases(store_path, process.pid) == [f"slurm-1@{ProcessIdentity.of(process.pid)}"]
    finally:
        process.communicate(b"\n")
    assert (process.returncode, site.pythons) == (0, 0)


@pytest.mark.parametrize("shell", shells())
def test_a_session_whose_leader_has_gone(site: Site, store_path: Path, shell: str) -> None:
    """Both take the eldest that is left of the session for its leader, so that one finds what the other left."""
    wait = 'while kill -0 "$$"; do sleep 0.01; done 2>/dev/null'
    orphan = f'({wait}; "$@"; "$@"; "$@" >done.aside; mv done.aside done) & exit 0'
    command = ["sh", "-c", orphan, "sh", *site.entry(shell), site.reference]
    environ = site.tasks.environ()
    del environ["SLURM_JOB_ID"]
    folder = store_path.parent
    subprocess.run(command, env=environ, cwd=folder, start_new_session=True, check=True, capture_output=False)
    until((folder / "done").exists, "three answers")
    assert (folder / "done").read_text() == f"{site.staged}\n"
    assert site.pythons == 1
    scopes = {path.name.partition("@")[0] for path in (store_path / "leases").glob("*/*")}
    assert scopes == {path.name for path in (store_path / "warm").iterdir()}


@pytest.mark.parametrize("entry", ALL)
@pytest.mark.parametrize("stdout", [">/dev/full", ">&-"])
def test_an_answer_that_cannot_be_written_is_no_success(site: Site, entry: str, stdout: str) -> None:
    site.warmed(site.reference)
    task = site.tasks.run("-c", f'exec "$@" {stdout}', "sh", *site.entry(entry), site.reference, program=("sh",))
    assert task.done() not in (0, 120)
    assert "stage-image: error: the answer cannot be written to stdout" in task.err
    assert "Traceback" not in task.err


@pytest.mark.parametrize("shell", shells())
class TestFindingTheCli:
    def test_another_program_on_the_path(self, tmp_path: Path, shell: str) -> None:
        """Neither a link to the wrapper nor a copy of it is another."""
        for folder in ("copy", "link", "unreadable", "real"):
            (tmp_path / folder).mkdir()
        shutil.copy(WRAPPER, tmp_path / "copy" / "stage-image")
        (tmp_path / "link" / "stage-image").symlink_to(WRAPPER)
        (tmp_path / "unreadable" / "stage-image").mkdir()
        program(tmp_path / "real" / "stage-image", "printf '<%s>' \"$@\"")
        path = ":".join(str(tmp_path / folder) for folder in ("copy", "link", "unreadable", "real"))
        assert _called(shell, f"{path}:{TOOLS}", "list", "a b", "") == (0, b"<list><a b><>", b"")

    def test_a_python_that_has_it(self, tmp_path: Path, shell: str) -> None:
        program(tmp_path / "python3", 'case $* in *version_info*) exit 0 ;; esac; printf "<%s>" "$1" "$4"')
        assert _called(shell, f"{tmp_path}:{TOOLS}", "list") == (0, b"<-I><list>", b"")

    def test_nothing(self, tmp_path: Path, shell: str) -> None:
        program(tmp_path / "python3", "exit 1")
        code, out, err = _called(shell, f"{tmp_path}:{TOOLS}", "list")
        assert (code, out) == (127, b"")
        assert b"STAGE_IMAGE_PYTHON" in err

    def test_a_python_that_is_not_there(self, tmp_path: Path, shell: str) -> None:
        code, out, err = _called(shell, TOOLS, "list", STAGE_IMAGE_PYTHON=str(tmp_path / "python"))
        assert (code, out) == (127, b"")
        assert str(tmp_path / "python").encode() in err

    def test_the_real_one(self, site: Site, shell: str) -> None:
        done = subprocess.run(
            [*site.entry(shell), "--version"], env=site.tasks.environ(), capture_output=True, check=False
        )
        assert done.stdout.startswith(b"stage-image ")


def _called(shell: str, path: str, *words: str, **environ: str) -> tuple[int, bytes, bytes]:
    command = [str(shutil.which(shells()[shell][0])), *shells()[shell][1:], str(WRAPPER), *words]
    done = subprocess.run(command, env={"PATH": path, **environ}, cwd=ROOT, capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


def _leases(store: Path, pid: int) -> list[str]:
    return [path.name for path in (store / "leases").glob(f"*/slurm-1@{pid}.*")]


def _variables(environ: bytes) -> dict[str, str]:
    pairs = (os.fsdecode(pair).partition("=") for pair in environ.rstrip(b"\0").split(b"\0"))
    return {name: value for name, _, value in pairs if name not in MINE}
