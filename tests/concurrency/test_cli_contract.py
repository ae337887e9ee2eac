"""What scripts rely on: exit codes, streams, JSON, and that every verb does what its help says, on real stores."""

from __future__ import annotations

import json
import subprocess
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from stager.cli.parser import VERBS
from tests.support.origin import Fault, Origin
from tests.support.tasks import COMMAND, Tasks, image, published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.tasks import Task

OLD, NEW = image(seed=1), image(seed=2)

WITH_JSON = {
    "list": (),
    "inspect": ("REF",),
    "verify": (),
    "verify-one": ("REF",),
    "remove": ("REF",),
    "prune": ("--dry-run",),
    "doctor": (),
    "config": (),
    "umount": ("--all",),
    "path": ("REF",),
}
"""Verb (up to a dash) → the arguments with which it succeeds."""


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    with Tasks(tmp_path) as started:
        yield started


@pytest.fixture
def url(tmp_path: Path, tasks: Tasks) -> Iterator[str]:
    """A staged image that nothing uses any more: its session has ended."""
    with Origin() as origin:
        url = origin.put("/tool.sqsh", OLD)
        assert tasks.run(url, session=True).done() == 0
        yield url


def digest(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()}"


def answer_of(task: Task, code: int = 0) -> Any:  # noqa: ANN401 - JSON is what it is
    assert task.done() == code, task.err
    return json.loads(task.out)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_on_stdout(tasks: Tasks, verb: str) -> None:
    task = tasks.run(verb, "--help")
    assert (task.done(), task.err) == (0, "")
    assert task.out.startswith(f"usage: stage-image {verb}")
    assert "-h, --help" in task.out


@pytest.mark.parametrize("words", [("--help",), ("-h",)])
def test_help_as_a_whole(tasks: Tasks, words: tuple[str, ...]) -> None:
    task = tasks.run(*words)
    assert (task.done(), task.err) == (0, "")
    assert all(f"    {verb}" in task.out for verb in VERBS)
    assert "IMG=$(stage-image " in task.out


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("path",),
        ("mount",),
        ("exec",),
        ("exec", "/x.sif"),
        ("exec", "/x.sif", "--"),
        ("inspect",),
        ("remove",),
        ("umount",),
        ("umount", "/x.sif", "--all"),
        ("umount", "--scope", "../../etc"),
        ("completion",),
        ("completion", "tcsh"),
        ("config", "set"),
        ("prune", "--max-size", "many"),
        ("--no-such-option", "/x.sif"),
        ("/x.sif", "/y.sif"),
        ("list", "extra"),
        ("lst",),
        ("verfy",),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_2_and_does_nothing(tasks: Tasks, store_path: Path, words: tuple[str, ...]) -> None:
    task = tasks.run(*words)
    assert (task.done(), task.out) == (2, ""), task.err
    assert "Traceback" not in task.err
    assert not (store_path / "images").exists() or not list((store_path / "images").glob("sha256/*"))


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (("--freshness=sometimes",), "freshness"),
        (("--deadline=soon",), "deadline"),
        (("--connections=0",), "connections"),
        (("--store=relative/path",), "store"),
        (("--progress=loud",), "progress"),
    ],
)
def test_a_wrong_setting_is_64_and_names_what_is_allowed(tasks: Tasks, words: tuple[str, ...], setting: str) -> None:
    task = tasks.run(*words, "/x.sif")
    assert (task.done(), task.out) == (64, "")
    assert setting in task.err
    assert "allowed: " in task.err


@pytest.mark.parametrize("name", WITH_JSON)
def test_json_of_every_verb(tasks: Tasks, url: str, name: str) -> None:
    words = (url if word == "REF" else word for word in WITH_JSON[name])
    task = tasks.run(name.partition("-")[0], "--json", *words)
    assert answer_of(task) is not None


def test_path_is_the_verb_of_those_who_name_none(tasks: Tasks, url: str) -> None:
    assert tasks.run("path", url).answer == tasks.run(url).answer


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_all_verbs(tasks: Tasks, shell: str) -> None:
    task = tasks.run("completion", shell)
    assert task.done() == 0
    assert all(verb in task.out for verb in VERBS)
    if shell == "bash":
        done = subprocess.run(["bash", "-n"], input=task.out, text=True, check=False, capture_output=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_exec_passes_everything_through(tasks: Tasks, url: str, store_path: Path) -> None:
    script = 'printf "%s|" "$STAGE_IMAGE_PATH" "$STAGE_IMAGE_DIGEST" "${STAGE_IMAGE_ROOT-none}" "$@"; exit 5'
    options = ("--runtime=none", "--mount=none")
    task = tasks.run("exec", *options, url, "--", "sh", "-c", script, "sh", "--", "-x", "a b", "", "*")
    assert task.done() == 5
    path = published(store_path, OLD)
    assert task.out == f"{path}|{digest(OLD)}|none|--|-x|a b||*|"


@pytest.mark.parametrize(("command", "code"), [("no-such-command", 127), ("/proc/version", 126)])
def test_exec_of_what_cannot_run(tasks: Tasks, url: str, command: str, code: int) -> None:
    task = tasks.run("exec", "--runtime=none", "--mount=none", url, "--", command)
    assert task.done() == code
    assert command in task.err


@pytest.mark.parametrize("stream", ["1", "2"])
@pytest.mark.parametrize("warm", [False, True])
def test_a_closed_stream_is_no_crash(tasks: Tasks, url: str, stream: str, *, warm: bool) -> None:
    words = f'"$@" {url}' if warm else f'"$@" --json {url}'
    task = tasks.run(f"{words} {stream}>&-", "sh", *COMMAND, program=("sh", "-c"))
    assert "Traceback" not in task.err
    assert "a bug in" not in task.err
    # An answer that nobody could read is no answer; without stderr there is nothing amiss.
    assert (task.done() == 0) == (stream == "2")


@pytest.mark.parametrize("words", ["URL", "--json URL", "list", "config"])
def test_a_full_stdout_is_never_success(tasks: Tasks, url: str, words: str) -> None:
    line = words.replace("URL", url)
    task = tasks.run(f'"$@" {line} > /dev/full', "sh", *COMMAND, program=("sh", "-c"))
    assert task.done() not in (0, 120)  # Python ends with 120 when only its own last flush fails
    assert "Traceback" not in task.err
    assert "a bug in" not in task.err
    assert "stdout" in task.err


@pytest.mark.parametrize("verb", ["list", "config", "doctor"])
def test_a_reader_that_goes_away_is_no_failure_of_ours(tasks: Tasks, url: str, verb: str) -> None:
    script = 'set -o pipefail; "$@" | head -c 1 >/dev/null; echo ${PIPESTATUS[0]}'
    task = tasks.run(script, "bash", *COMMAND, verb, program=("bash", "-c"))
    assert task.answer in ("0", "141")
    assert task.err == ""


def test_a_directory_that_is_gone_keeps_nobody_from_a_url(tasks: Tasks, url: str, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = f'cd gone && rmdir ../gone && "$@" {url} && "$@" --json {url} >/dev/null && "$@" x.sqsh'
    task = tasks.run(script, "sh", *COMMAND, program=("sh", "-c"))
    assert task.answer.startswith("/")
    assert task.done() in (66, 75)


def test_private_files_are_staged_for_their_owner_only(tasks: Tasks, tmp_path: Path, store_path: Path) -> None:
    mine = tmp_path / "mine.sqsh"
    mine.write_bytes(NEW)
    mine.chmod(0o600)
    assert tasks.run(str(mine)).done() == 0
    assert published(store_path, NEW).stat().st_mode & 0o077 == 0


def test_a_slow_origin_with_several_connections_gives_the_same_bytes(tasks: Tasks, store_path: Path) -> None:
    with Origin() as origin:
        url = origin.put("/tool.sqsh", NEW, Fault(rate=4 << 20))
        assert tasks.run("--connections=4", url).answer == str(published(store_path, NEW))
    assert published(store_path, NEW).read_bytes() == NEW
