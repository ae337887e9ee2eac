"""What becomes of a command line of qsub or qrsh with `--stage-image` in it."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager.cli import gridengine_submit
from stager.cli.parser import parse
from stager.errors import InvalidReference, StageImageError, UsageError
from stager.program import ProgramFailed
from stager.reference import parse as reference
from stager.schedulers import hook, qsub
from tests.support.image_factory import minimal_squashfs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IMAGE = minimal_squashfs(b"an image")
HEX = sha256(IMAGE).hexdigest()
HELP = """\
SGE 8.1.9
usage: qsub [options]
   [-a date_time]                           request a start time
   [-hard]                                  consider following requests "hard"
   [-par allocation_rule]                   of another make
   [-mattr obj_nm attr_nm val obj_id_list]  modify an attribute (or element in a sublist) of an object
   [{command|-} [command_args]]

date_time               [[CC]YY]MMDDhhmm[.SS]
"""
COMPLEXES = """\
#name               shortcut   type        relop requestable consumable default  urgency
#----------------------------------------------------------------------------------------
arch                a          RESTRING    ==    YES         NO         NONE     0
stage_images        simg       RESTRING    ==    YES         NO         NONE     0
stage_images2       2simg      STRING      ==    FORCED      NO         NONE     0
stage_images3       3simg      RESTRING    ==    NO          NO         NONE     0
stage_images4       4simg      INT         ==    YES         NO         0        0
# >#< starts a comment but comments are not saved across edits --------
"""


@pytest.mark.parametrize(
    ("line", "images", "options", "rest"),
    [
        ("job.sh", (), "", "job.sh"),
        ("", (), "", ""),
        ("--stage-image=/a job.sh", ("/a",), "", "job.sh"),
        ("--stage-image /a,/b job.sh x", ("/a", "/b"), "", "job.sh x"),
        ("--stage-image=/a -pe mpi 4 --stage-image /b -V job.sh", ("/a", "/b"), "-pe mpi 4 -V", "job.sh"),
        ("-cwd -l a=b --stage-image=/a job.sh --stage-image=/b", ("/a",), "-cwd -l a=b", "job.sh --stage-image=/b"),
        ("-N --stage-image=/a job.sh", (), "-N --stage-image=/a", "job.sh"),
        ("-pe mpi --stage-image=/a job.sh", (), "-pe mpi --stage-image=/a", "job.sh"),
        ("-h --stage-image=/a job.sh", ("/a",), "-h", "job.sh"),
        ("-binding linear:2 --stage-image=/a x", ("/a",), "-binding linear:2", "x"),
        ("-binding env linear:2 --stage-image=/a x", ("/a",), "-binding env linear:2", "x"),
        ("--stage-image=/a -- x", ("/a",), "", "-- x"),
        ("--stage-image=/a - x", ("/a",), "", "- x"),
        ("-par 2 --stage-image=/a x", ("/a",), "-par 2", "x"),
        ("-new --stage-image=/a x", ("/a",), "-new", "x"),
    ],
)
def test_where_ours_is(line: str, images: tuple[str, ...], options: str, rest: str) -> None:
    found = qsub.read(line.split(), "qsub", qsub.in_help(HELP).get)
    assert (found.images, found.options, found.rest) == (images, options.split(), rest.split())


@pytest.mark.parametrize(
    ("line", "program", "script"),
    [
        *(("job.sh x", "qsub", "job.sh"), ("", "qsub", "-"), ("- x", "qsub", "-"), ("-- x", "qsub", "-")),
        *(("-b y job.sh", "qsub", ""), ("-b yes job.sh", "qsub", ""), ("-b n job.sh", "qsub", "job.sh")),
        *(("job.sh", "qrsh", ""), ("-b n job.sh", "qrsh", "job.sh")),
    ],
)
def test_what_is_a_script(line: str, program: str, script: str) -> None:
    assert qsub.read(line.split(), program).script == script


@pytest.mark.parametrize("line", ["--stage-image", "--stage-image=", "--stage-image=/a,", "--stage-image ,/a"])
def test_no_reference(line: str) -> None:
    with pytest.raises(UsageError):
        qsub.read(line.split(), "qsub")


def test_what_help_tells() -> None:
    assert qsub.in_help(HELP) == {"a": 1, "hard": 0, "par": 1, "mattr": 4}


def test_what_may_be_requested() -> None:
    assert qsub.requestable(COMPLEXES) == ["stage_images", "stage_images2"]
    assert qsub.requestable("") == []


def test_hosts_with_all_of_the_images_are_wanted() -> None:
    a, b = (reference(f"https://h/{name}@sha256:{name * 64}") for name in "ab")
    assert qsub.wish([a], ["stage_images"]) == ["-soft", "-l", "stage_images=*@aaaaaaaaaaaa;*", "-hard"]
    both = "*@aaaaaaaaaaaa;*&*@bbbbbbbbbbbb;*"
    assert qsub.wish([a, b, a], ["stage_images", "stage_images2"]) == [
        *("-soft", "-l", f"stage_images={both},stage_images2={both}", "-hard")
    ]
    assert qsub.wish([a], []) == qsub.wish([], ["stage_images"]) == []


def test_what_the_job_is_told() -> None:
    assert qsub.tell(["/a", "/b"]) == ["-v", "STAGE_IMAGE_REFERENCE=/a,STAGE_IMAGE_REFERENCE_2=/b"]
    assert qsub.tell([]) == []


@pytest.mark.parametrize("letter", ["'", '"', "\\"])
def test_what_v_would_quote(letter: str) -> None:
    with pytest.raises(InvalidReference):
        qsub.tell([f"/a{letter}b"])


class Became(Exception):
    def __init__(self, words: Sequence[str], environ: dict[str, str]) -> None:
        self.words = list(words)
        self.environ = environ


def _submit(*words: str, real: str = "/usr/bin/qsub") -> Became:
    arguments = parse(["gridengine", "submit", "--real", real, "--", *words])
    with pytest.raises(Became) as found:
        arguments.run(arguments)
    return found.value


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "tool.sqsh"
    path.write_bytes(IMAGE)

    def become(words: Sequence[str], environ: dict[str, str]) -> None:
        raise Became(words, environ)

    def told(argv: Sequence[str], *, timeout: float) -> str:
        assert timeout > 0
        return {"qconf": COMPLEXES, "/usr/bin/qsub": HELP}[argv[0]]

    monkeypatch.setattr(gridengine_submit, "become", become)
    monkeypatch.setattr(gridengine_submit, "run_program", told)
    monkeypatch.setattr(hook, "SWITCH", str(tmp_path / "disabled"))
    monkeypatch.setenv("STAGE_IMAGE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("STAGE_IMAGE_REFERENCE_2", "of the job that submits")
    return path


def test_images_are_pinned_and_told(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    became = _submit("-N", "x", f"--stage-image={image}", "job.sh", "y")
    pinned, wish = f"{image}@sha256:{HEX}", f"*@{HEX[:12]};*"
    ours = [
        "-soft",
        "-l",
        f"stage_images={wish},stage_images2={wish}",
        "-hard",
        "-v",
        f"STAGE_IMAGE_REFERENCE={pinned}",
    ]
    assert became.words == ["/usr/bin/qsub", "-N", "x", *ours, "job.sh", "y"]
    assert became.environ["STAGE_IMAGE_REFERENCE"] == pinned
    assert "STAGE_IMAGE_REFERENCE_2" not in became.environ
    assert capsys.readouterr().out == ""


def test_a_script_names_its_image(image: Path, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(f"#$ -cwd\n#STAGE-IMAGE {image}\necho\n#STAGE-IMAGE /other\n", encoding="utf-8")
    assert f"STAGE_IMAGE_REFERENCE={image}@sha256:{HEX}" in _submit(str(script)).words
    assert _submit("-b", "y", str(script)).words == ["/usr/bin/qsub", "-b", "y", str(script)]


def test_without_a_qmaster_there_is_no_wish(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: Sequence[str], *, timeout: float) -> str:
        raise ProgramFailed(argv, 1, f"no answer in {timeout:g} s")

    monkeypatch.setattr(gridengine_submit, "run_program", fail)
    assert "-l" not in _submit(f"--stage-image={image}", "job.sh").words


def test_switched_off(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disabled").touch()
    monkeypatch.setattr(hook, "is_off", lambda: os.path.lexists(tmp_path / "disabled"))
    assert _submit(f"--stage-image={image}", "job.sh").words == ["/usr/bin/qsub", "job.sh"]


def test_a_task_of_a_job_cannot_ask(image: Path) -> None:
    arguments = parse(["gridengine", "submit", "--real", "qrsh", "--", "-inherit", "h", f"--stage-image={image}"])
    arguments.line = ["-inherit", f"--stage-image={image}", "h", "true"]
    with pytest.raises(UsageError):
        gridengine_submit.run(arguments)


def test_a_shell_cannot_be_told(image: Path) -> None:
    arguments = parse(["gridengine", "submit", "--real", "/usr/bin/qrsh", "--", f"--stage-image={image}"])
    with pytest.raises(UsageError):
        gridengine_submit.run(arguments)
    became = _submit(f"--stage-image={image}", "-pty", "y", "bash", real="/usr/bin/qrsh")
    assert became.words[-1] == "bash"


@pytest.mark.parametrize("text", ["/nowhere/x.sif", "https://h/x?token=1", "/a;b"])
@pytest.mark.usefixtures("image")
def test_nothing_is_submitted_without_its_image(text: str) -> None:
    arguments = parse(["gridengine", "submit", "--real", "/usr/bin/qsub", "--", f"--stage-image={text}", "job.sh"])
    with pytest.raises(StageImageError):
        gridengine_submit.run(arguments)
