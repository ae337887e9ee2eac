"""What scripts rely on: exit codes, streams, JSON, and that every verb does what its help says, on real stores."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from stager.cli.parser import VERBS
from tests.support.origin import Origin
from tests.support.tasks import COMMAND, Tasks, all_end, image, published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.tasks import Task

OLD, NEW = image(seed=1), image(seed=2)

WITH_JSON = (
    *("path REF", "list", "inspect REF", "verify", "verify REF", "doctor", "config", "config show"),
    *("umount --all", "prune --dry-run", "remove REF"),
)
"""Command lines that succeed one after the other."""

WRONG = (
    *("", "path", "mount", "exec", "inspect", "remove", "umount", "completion"),
    *("umount /x.sif --all", "umount --scope ../../x", "completion tcsh", "config set", "prune --max-size many"),
    *("--no-such-option /x.sif", "/x.sif /y.sif", "list extra", "lst", "verfy"),
)


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


def test_every_verb_has_help_on_stdout(tasks: Tasks) -> None:
    for verb, task in zip(VERBS, tasks.together(*((verb, "--help") for verb in VERBS)), strict=True):
        assert (task.done(), task.err) == (0, ""), verb
        assert task.out.startswith(f"usage: stage-image {verb}")
        assert "-h, --help" in task.out


def test_help_as_a_whole(tasks: Tasks) -> None:
    long, short = tasks.together(("--help",), ("-h",))
    assert (long.done(), long.err, long.out) == (0, "", short.out)
    assert all(f"    {verb}" in long.out for verb in VERBS)
    assert "IMG=$(stage-image " in long.out


def test_a_wrong_command_line_is_2_and_does_nothing(tasks: Tasks, store_path: Path) -> None:
    for task in tasks.together(*(tuple(line.split()) for line in WRONG)):
        assert (task.done(), task.out) == (2, ""), (task.process.args, task.err)
        assert task.err.startswith(("stage-image: error: ", "usage: ")), task.err
    assert not list((store_path / "images").glob("sha256/*"))
    assert not list((store_path / "failures").glob("*"))


def test_a_wrong_setting_is_64_and_names_what_is_allowed(tasks: Tasks) -> None:
    wrong = ("freshness=sometimes", "deadline=soon", "connections=0", "store=relative/path", "progress=loud")
    for setting, task in zip(wrong, tasks.together(*((f"--{setting}", "/x.sif") for setting in wrong)), strict=True):
        assert (task.done(), task.out) == (64, "")
        assert f"--{setting.partition('=')[0]}: " in task.err
        assert "allowed: " in task.err


def test_json_of_every_verb(tasks: Tasks, url: str) -> None:
    for line in WITH_JSON:
        verb, *words = line.replace("REF", url).split()
        assert answer_of(tasks.run(verb, "--json", *words)) is not None, line


def test_path_is_the_verb_of_those_who_name_none(tasks: Tasks, url: str) -> None:
    assert tasks.run("path", url).answer == tasks.run(url).answer


def test_completion_is_a_script_of_all_verbs(tasks: Tasks) -> None:
    scripts = tasks.together(*(("completion", shell) for shell in ("bash", "zsh", "fish")))
    all_end(scripts)
    assert all(verb in script.out for script in scripts for verb in VERBS)
    checked = tasks.run("-n", str(scripts[0].files / "out"), program=("bash",))
    assert (checked.done(), checked.err) == (0, "")


def test_exec_passes_everything_through(tasks: Tasks, url: str, store_path: Path) -> None:
    script = 'printf "%s|" "$STAGE_IMAGE_PATH" "$STAGE_IMAGE_DIGEST" "${STAGE_IMAGE_ROOT-none}" "$@"; exit 5'
    options = ("--runtime=none", "--mount=none")
    task = tasks.run("exec", *options, url, "--", "sh", "-c", script, "sh", "--", "-x", "a b", "", "*")
    assert task.done() == 5
    path = published(store_path, OLD)
    assert task.out == f"{path}|{digest(OLD)}|none|--|-x|a b||*|"


def test_exec_of_what_cannot_run(tasks: Tasks, url: str) -> None:
    options = ("exec", "--runtime=none", "--mount=none", url, "--")
    for command, code in (("no-such-command", 127), ("/proc/version", 126)):
        task = tasks.run(*options, command)
        assert task.done() == code
        assert command in task.err


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_closed_stream_is_no_crash(tasks: Tasks, url: str, stream: str) -> None:
    for words in (f"--json {url}", url, url, "list", "config"):
        task = shell(tasks, f'"$@" {words} {stream}>&-')
        assert_no_crash(task)
        # An answer that nobody could read is no answer; without stderr there is nothing amiss.
        assert (task.done() == 0) == (stream == "2")


def test_a_full_stdout_is_never_success(tasks: Tasks, url: str) -> None:
    for words in (f"--json {url}", url, url, "list", "config"):
        task = shell(tasks, f'"$@" {words} > /dev/full')
        assert_no_crash(task)
        assert task.done() not in (0, 120)  # Python ends with 120 when only its own last flush fails
        assert "stdout" in task.err


def test_a_reader_that_goes_away_is_no_failure_of_ours(tasks: Tasks, url: str) -> None:
    for verb in ("list", "config", "doctor"):
        script = f'"$@" {verb} | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}'
        task = tasks.run(script, "bash", *COMMAND, program=("bash", "-c"))
        assert task.answer in ("0", "141")
        assert task.err == ""


def test_a_directory_that_is_gone_keeps_nobody_from_a_url(tasks: Tasks, url: str, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    task = shell(tasks, f'cd gone && rmdir ../gone && "$@" {url} && "$@" --json {url} >/dev/null && "$@" x.sqsh')
    assert task.answer.startswith("/")
    assert task.done() in (66, 75)


def test_private_files_are_staged_for_their_owner_only(tasks: Tasks, tmp_path: Path, store_path: Path) -> None:
    mine = tmp_path / "mine.sqsh"
    mine.write_bytes(NEW)
    mine.chmod(0o600)
    assert tasks.run(str(mine)).done() == 0
    assert published(store_path, NEW).stat().st_mode & 0o077 == 0


def shell(tasks: Tasks, script: str) -> Task:
    """Run a script in which `"$@"` is stage-image."""
    return tasks.run(script, "sh", *COMMAND, program=("sh", "-c"))


def assert_no_crash(task: Task) -> None:
    assert "Traceback" not in task.err
    assert "a bug in" not in task.err
