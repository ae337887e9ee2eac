"""The warm path: what it understands, and that one thing which is not as recorded sends it the long way.

The shell wrapper reads the same records and is held to the same decisions, but for what a shell cannot see.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from stager import warm
from stager.cli.main import main
from stager.config import KEYS
from stager.layout import _PLAIN, UNMOUNTED, Layout
from stager.process import session_leader
from stager.question import HARMLESS
from stager.variables import SITE_VARIABLE
from tests.support.warm_scene import CLI, FORMS, JOB, REFERENCE, WRAPPER, apply, faults, program, set_up, shells

if TYPE_CHECKING:
    from stager.warm import Question

SHELL = next(iter(shells()))
SINGLE = [(verb, fault) for verb in FORMS for fault, what in faults(verb).items() if verb == "path" or what.verb]

TEST_SWITCHES = {"STAGE_IMAGE_TEST_NO_LOCKS", "STAGE_IMAGE_TEST_CRASH_AT", "STAGE_IMAGE_TEST_STOP_AT"}


@pytest.mark.parametrize("verb", FORMS)
def test_what_was_recorded_is_answered(tmp_path: Path, verb: str) -> None:
    scene = set_up(tmp_path, verb)
    assert scene.by_python() == scene.answer
    assert scene.by_wrapper(SHELL) == scene.answer


@pytest.mark.parametrize(("verb", "fault"), SINGLE)
def test_one_fault_is_enough(tmp_path: Path, verb: str, fault: str) -> None:
    scene = set_up(tmp_path, verb)
    apply(scene, {fault})
    unseen = faults(verb)[fault].unseen
    # In this order: Python, run by root, puts its own lease in the place of somebody else's.
    assert scene.by_wrapper(SHELL) == (scene.answer if unseen == "shell" else CLI)
    assert scene.by_python() == (scene.answer if unseen == "python" else CLI)


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ("/a", ("path", "/a", "", "", [])),
        ("list", ("path", "list", "", "", [])),
        ("mount /a", ("mount", "/a", "", "", [])),
        ("mount --mount=fuse /a", ("mount", "/a", "fuse", "", [])),
        ("mount /a --mount=fuse", ("mount", "/a", "fuse", "", [])),
        ("mount --mount=fuse --mount=loop /a", ("mount", "/a", "loop", "", [])),
        ("exec /a -- b", ("exec", "/a", "", "", ["b"])),
        ("exec /a -- b -c -- --mount=d", ("exec", "/a", "", "", ["b", "-c", "--", "--mount=d"])),
        ("exec --runtime=none /a --mount=loop -- b", ("exec", "/a", "loop", "none", ["b"])),
        ("", None),
        ("-h", None),
        ("--mount=loop /a", None),
        ("path /a", None),
        ("/a --json", None),
        ("/a /b", None),
        ("mount", None),
        ("mount /a /b", None),
        ("mount --mount loop /a", None),
        ("mount --mount= /a", None),
        ("mount --mount=a,b /a", None),
        ("mount --runtime=none /a", None),
        ("mount -- /a", None),
        ("mount /a --retry", None),
        ("exec /a", None),
        ("exec /a --", None),
        ("exec -- b", None),
        ("exec /a b", None),
        ("exec /a --json -- b", None),
        ("docker://a:1", ("path", "docker://a:1", "", "", [])),
        ("mount oci:/a:b", ("mount", "oci:/a:b", "", "", [])),
        ("docker://a --platform=linux/arm64", None),
        ("mount --platform=arm docker://a", None),
        ("exec docker://a --platform=arm -- b", None),
    ],
)
def test_command_lines(line: str, question: tuple[object, ...] | None) -> None:
    found = warm.parse(line.split())
    assert found is None or (found.verb, found.text, found.mount, found.runtime, found.command) == question
    assert (found is None) == (question is None)


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        *(("path", "{} {}"), ("path", "-- {}"), ("path", "path {}"), ("path", "{} --json")),
        *(("mount", "mount --mount=loop /other {}"), ("mount", "mount --mount=loop -- {}"), ("mount", "mount {}")),
        *(("exec", "exec --mount=none {}"), ("exec", "exec --mount=none {} --"), ("exec", "exec --mount=none {} sh")),
    ],
)
def test_command_lines_that_the_wrapper_leaves_to_the_cli(tmp_path: Path, verb: str, line: str) -> None:
    scene = set_up(tmp_path, verb)
    scene.words = line.format(REFERENCE, REFERENCE).split()
    assert scene.by_wrapper(SHELL) == scene.by_python() == CLI


@pytest.mark.parametrize(
    "job",
    [
        {"JOB_ID": "7"},
        {"SGE_ROOT": "/sge"},
        {"JOB_ID": "7", "SGE_ROOT": "/sge", "SGE_TASK_ID": "undefined"},
        {"JOB_ID": "7", "SGE_ROOT": "/sge", "SGE_TASK_ID": "3"},
        {"LSB_JOBID": "7", "LSB_JOBINDEX": "0"},
        {"LSB_JOBID": "7", "LSB_JOBINDEX": "3"},
        {"PBS_JOBID": "12[3].host"},
        {"FLUX_JOB_ID": "f2Xk1", "PBS_JOBID": ""},
        {"SLURM_JOB_ID": "7", "PBS_JOBID": "8"},
    ],
)
def test_jobs(tmp_path: Path, job: dict[str, str]) -> None:
    scene = set_up(tmp_path, job=job)
    assert scene.by_wrapper(SHELL) == scene.by_python() == scene.answer


@pytest.mark.parametrize("job", ["7" * 65, ".7", "7/8"])
def test_a_job_that_is_none(tmp_path: Path, job: str) -> None:
    scene = set_up(tmp_path, job={"SLURM_JOB_ID": job})
    assert (scene.by_python(), scene.by_wrapper(SHELL)) == (scene.answer, CLI)


def test_a_question_of_two_words_is_not_one_of_one_word() -> None:
    assert warm.parse(["/a", ""]) is None
    assert warm.parse(["mount", "", "/a"]) is None


@pytest.mark.parametrize("name", ["STAGE_IMAGE_OFFLINE", "STAGE_IMAGE_NONSENSE", "STAGE_IMAGE_CONFIG"])
def test_any_setting_takes_the_long_way(name: str) -> None:
    assert not warm.is_plain({name: ""})
    assert warm.is_plain(dict.fromkeys(HARMLESS, "x") | {"STAGE": "x", "PATH": ""})


def test_a_record_holds_until_its_time(tmp_path: Path) -> None:
    scene = set_up(tmp_path)
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME))
    for until, answer in ((now + 60, scene.answer), (now, CLI), (0, scene.answer)):
        scene.rewrite("until", str(until))
        assert scene.by_python() == answer
        assert scene.by_wrapper(SHELL) == answer


def test_a_pinned_reference_is_answered_by_its_image_only(tmp_path: Path) -> None:
    pinned = set_up(tmp_path / "a", text=f"{REFERENCE}@{set_up(tmp_path / 'b').image.digest}")
    assert pinned.by_python() == pinned.by_wrapper(SHELL) == pinned.answer
    other = set_up(tmp_path / "c", text=f"{REFERENCE}@sha256:{'0' * 64}")
    assert other.by_python() == other.by_wrapper(SHELL) == CLI


IMAGES = ("docker://h.x:5000/a/b:1.0", "oras://h.x/a", "library://a/b/c:1", "oci:/a/b:c", "docker-archive:/a.tar:x/y:1")


@pytest.mark.parametrize("text", [*IMAGES, "oci-archive:/a.tar:t", f"docker://h.x/a:1@sha256:{'0' * 64}"])
@pytest.mark.parametrize("verb", FORMS)
def test_images_of_registries_and_archives(tmp_path: Path, verb: str, text: str) -> None:
    """A digest behind `docker://` is that of the manifest, and not the staged file's."""
    scene = set_up(tmp_path, verb, text)
    assert scene.by_python() == scene.by_wrapper(SHELL) == scene.answer


@pytest.mark.parametrize(
    "text", ["docker://joe@h.x/a", f"oras://joe@h.x/a@sha256:{'0' * 64}", "docker://joe@a", "oci:a"]
)
def test_users_and_relative_paths_are_no_names_of_records(tmp_path: Path, text: str) -> None:
    scene = set_up(tmp_path, text=text)
    assert not scene.record.exists()
    assert scene.by_python() == scene.by_wrapper(SHELL) == CLI


def test_a_librarys_pin_is_the_files(tmp_path: Path) -> None:
    other = set_up(tmp_path, text=f"library://a/b/c@sha256:{'0' * 64}")
    assert other.by_python() == other.by_wrapper(SHELL) == CLI


@pytest.mark.parametrize("words", [["--platform=linux/arm64"], ["--platform", "linux/arm64"]])
@pytest.mark.parametrize("verb", FORMS)
def test_another_platform_is_another_question(tmp_path: Path, verb: str, words: list[str]) -> None:
    scene = set_up(tmp_path, verb, "docker://a")
    plain = list(scene.words)
    for place in {1, len(plain) if verb != "exec" else plain.index("--")}:
        scene.words = [*plain[:place], *words, *plain[place:]]
        assert scene.by_python() == scene.by_wrapper(SHELL) == CLI
    scene.words = plain
    scene.environ["STAGE_IMAGE_PLATFORM"] = "linux/arm64"
    assert scene.by_python() == scene.by_wrapper(SHELL) == CLI


@pytest.mark.parametrize("verb", ["path", "mount"])
def test_both_leave_the_same_lease(tmp_path: Path, verb: str) -> None:
    scene = set_up(tmp_path, verb)
    folders = [Path(scene.image.leases), *([scene.root.parent / "users"] if verb == "mount" else [])]
    expected = [f"slurm-4711@{session_leader()}"]
    scene.by_wrapper(SHELL)
    assert [os.listdir(folder) for folder in folders] == [expected] * len(folders)
    scene.by_python()
    assert [os.listdir(folder) for folder in folders] == [expected] * len(folders)


def test_outside_of_a_job_the_session_is_the_scope(tmp_path: Path) -> None:
    scene = set_up(tmp_path, job={})
    assert scene.record.parent.name.startswith("session-")
    assert scene.by_python() == scene.by_wrapper(SHELL) == scene.answer


def test_no_image_is_answered_for_whose_mtime_a_write_might_still_leave(tmp_path: Path) -> None:
    scene = set_up(tmp_path)
    scene.record.unlink()
    for age, is_left in ((0, False), (warm.SETTLED_SECONDS, True)):
        os.utime(scene.path, ns=(0, time.time_ns() - age * 10**9))
        scene.leave()
        assert scene.record.exists() == is_left


@pytest.mark.parametrize("folder", ["store", "records", "scope"])
def test_nothing_is_left_where_others_may_write(tmp_path: Path, folder: str) -> None:
    scene = set_up(tmp_path)
    scene.record.unlink()
    {"store": scene.store, "records": scene.scope.parent, "scope": scene.scope}[folder].chmod(0o775)
    scene.leave()
    assert not scene.record.exists()


def test_records_are_for_their_owner_only(tmp_path: Path) -> None:
    """Their names are references, and a signed URL is a secret."""
    scene = set_up(tmp_path)
    assert (scene.scope.stat().st_mode & 0o777, scene.record.stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize("runtime", ["", "singularity", "nonsense"])
def test_no_exec_is_recorded_without_its_runtime(tmp_path: Path, runtime: str) -> None:
    scene = set_up(tmp_path, "exec")
    scene.record.unlink()
    scene.leave(runtime)
    assert not scene.record.exists()


def test_forgetting(tmp_path: Path) -> None:
    scene = set_up(tmp_path, "mount")
    layout = Layout(str(scene.store))
    for other in (f"sha256:{'0' * 64}", f"{scene.root}2", "", scene.image.path):
        warm.forget(layout, other)
        assert scene.record.exists()
    for word in (str(scene.image.digest), str(scene.root)):
        scene.leave()
        warm.forget(layout, word)
        assert not scene.record.exists()


def test_what_exec_becomes_on_the_host() -> None:
    record = _record(root="/s/mounts/x/root", runtime="auto:")
    assert record.command(_question("exec /a -- b c")) == ["b", "c"]
    assert record.environment({"A": "1", "STAGE_IMAGE_ROOT": "/old"}) == {
        "A": "1",
        **_about,
        "STAGE_IMAGE_ROOT": record.root,
    }
    bare = _record(root="", runtime="none:")
    assert bare.environment({"STAGE_IMAGE_ROOT": "/old"}) == _about


def test_what_exec_becomes_in_a_container() -> None:
    record = _record(root="", runtime="auto:apptainer")
    assert record.command(_question("exec /a -- b c")) == ["apptainer", "exec", record.path, "b", "c"]
    inside = {f"APPTAINERENV_{name}": value for name, value in {**_about, "STAGE_IMAGE_ROOT": "/"}.items()}
    assert record.environment({}) == {**_about, **inside}


def test_the_entry_answers_from_the_record(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scene = set_up(tmp_path, "mount")
    with patch.dict(os.environ, scene.environ, clear=True):
        assert main(scene.words) == 0
    assert capfd.readouterr() == (f"{scene.root}\n", "")


def test_the_wrapper_knows_every_setting() -> None:
    asked = set(re.findall(r"\$\{(STAGE_IMAGE_\w+)\+x\}", _script))
    assert asked == {key.variable for key in KEYS.values()} - {"STAGE_IMAGE_STORE"} | {SITE_VARIABLE} | TEST_SWITCHES


def test_the_wrapper_knows_what_makes_a_name_plain() -> None:
    taken = re.search(r"\*\[!(\S+)\]\*\) return 1 ;;\n    esac\n    \[ \$\{#si_text\} -le 200 \]", _script)
    assert taken is not None
    assert set(taken[1].replace("\\", "")) == _PLAIN
    assert UNMOUNTED in _script


def test_the_wrapper_assigns_to_no_variable_that_a_command_may_have() -> None:
    assigned = set(re.findall(r"(?:^|[\s;&(])(\w+)=", re.sub(r"#.*|'[^']*'", "", _script), re.MULTILINE))
    read = {name for line in re.findall(r"\bread (?:-r )?([\w ]+)", _script) for name in line.split()}
    others = {name for name in assigned | read if not name.startswith("si_")}
    assert {name for name in others if not re.fullmatch(r"(\w+ENV_)?STAGE_IMAGE_(PATH|ROOT|DIGEST)|IFS", name)} == set()


def test_every_fault_is_one(tmp_path: Path) -> None:
    """The stage for the tests above: a program of ours answers for the CLI, and a scene can be had without a record."""
    scene = set_up(tmp_path, text="https://example.org/a b")
    assert scene.by_python() == scene.by_wrapper(SHELL) == CLI
    assert program(tmp_path / "x", "exit 0").stat().st_mode & 0o111
    assert JOB.keys() <= scene.environ.keys()


_script = WRAPPER.read_text()
_about = {"STAGE_IMAGE_PATH": f"/s/images/sha256/ab/{'ab' * 32}/image.sif", "STAGE_IMAGE_DIGEST": f"sha256:{'ab' * 32}"}


def _record(*, root: str, runtime: str) -> warm.Record:
    return warm.Record("a", "", "0" * 8, "0", _about["STAGE_IMAGE_PATH"], root, runtime, "1 2 3 ")


def _question(line: str) -> Question:
    question = warm.parse(line.split())
    assert question is not None
    return question
