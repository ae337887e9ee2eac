"""The starter_method: jobs find their images, and are started as Grid Engine would have started them."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.source_trees import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STARTER = ROOT / "sbatch-wrapper" / "gridengine" / "starter"
HEX = "ab" * 32
STAGED = f"/s/images/sha256/ab/{HEX}/image.sqsh"
PROGRAM = f"""\
#!/bin/sh
echo "$*" >>"$0.calls"
case $1 in *missing*) echo "stage-image: error: it is not there" >&2; exit 66 ;; esac
echo {STAGED}
"""
SHOW = """\
#!/bin/sh
printf '<%s>' "$@"
echo
env | grep -E '^(STAGE_IMAGE|SGE_STARTER|si_)' | sort
"""
JOB = {
    "JOB_ID": "424299",
    "SGE_TASK_ID": "undefined",
    "SGE_STARTER_SHELL_PATH": "/bin/sh",
    "SGE_STARTER_SHELL_START_MODE": "unix_behavior",
    "SHELL": "/bin/sh",
}
"""As 8.1.9 gives it, but for a number that no job of this machine has."""

QRSH = {"SGE_STARTER_SHELL_PATH": "", "SGE_STARTER_USE_LOGIN_SHELL": "false"}


class Host:
    """Where a job is started: its spool directory, its script, and a program that answers for stage-image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "job_scripts" / JOB["JOB_ID"]
        self.program = folder / "bin" / "stage-image"
        for path, text in ((self.script, SHOW), (self.program, PROGRAM)):
            path.parent.mkdir()
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755)

    def config(self, **values: int) -> None:
        lines = [f"{name}={value}\n" for name, value in values.items()]
        (self.folder / "config").write_text("".join(lines), encoding="utf-8")

    def start(self, *words: object, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.program.parent}:{os.environ['PATH']}"
        told = {"PATH": path, "SGE_JOB_SPOOL_DIR": str(self.folder), **JOB, **environ}
        argv = [str(STARTER), *map(str, words)]
        return subprocess.run(argv, env=told, input=stdin, capture_output=True, text=True, check=False)

    @property
    def calls(self) -> list[str]:
        path = self.program.with_name("stage-image.calls")
        return path.read_text("utf-8").splitlines() if path.exists() else []


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_job_without_images(host: Host) -> None:
    ran = host.start(host.script, "a b", "", "$HOME")
    assert (ran.returncode, ran.stdout, ran.stderr, host.calls) == (0, "<a b><><$HOME>\n", "", [])


def test_a_job_with_images(host: Host) -> None:
    told = {"STAGE_IMAGE_REFERENCE": "/a", "STAGE_IMAGE_REFERENCE_2": "https://h/b"}
    ran = host.start(host.script, **told)
    lines = [f"STAGE_IMAGE_{name}{n}={v}" for n in ("", "_2") for name, v in (("DIGEST", f"sha256:{HEX}"),)]
    paths = [f"STAGE_IMAGE_PATH{n}={STAGED}" for n in ("", "_2")]
    asked = [f"{name}={value}" for name, value in told.items()]
    assert sorted(ran.stdout.splitlines()[1:]) == sorted((*lines, *paths, *asked))
    assert host.calls == ["/a", "https://h/b"]


def test_what_cannot_be_staged_keeps_no_job_from_its_start(host: Host) -> None:
    stale = {
        "STAGE_IMAGE_PATH": "/of/another/job",
        "STAGE_IMAGE_REFERENCE": "/missing",
        "STAGE_IMAGE_REFERENCE_2": "/b",
    }
    ran = host.start(host.script, **stale)
    assert ran.returncode == 0
    assert "not there" in ran.stderr
    assert "STAGE_IMAGE_PATH=" not in ran.stdout
    assert f"STAGE_IMAGE_PATH_2={STAGED}" in ran.stdout


@pytest.mark.parametrize("reference", ["-x", "--help"])
def test_options_are_no_references(host: Host, reference: str) -> None:
    assert host.start(host.script, STAGE_IMAGE_REFERENCE=reference).returncode == 0
    assert host.calls == []


def test_stage_image_takes_nothing_of_the_jobs_input(host: Host) -> None:
    host.program.write_text(f"#!/bin/sh\ncat >&2\necho {STAGED}\n", encoding="utf-8")
    host.script.write_text("#!/bin/sh\ncat\n", encoding="utf-8")
    ran = host.start(host.script, stdin="for the job\n", STAGE_IMAGE_REFERENCE="/a")
    assert (ran.stdout, ran.stderr) == ("for the job\n", "")


@pytest.mark.parametrize("code", [0, 3, 99, 100])
def test_the_jobs_end_is_its_own(host: Host, code: int) -> None:
    host.script.write_text(f"#!/bin/sh\nexit {code}\n", encoding="utf-8")
    assert host.start(host.script).returncode == code


@pytest.mark.parametrize(
    ("words", "environ", "out"),
    [
        (["SCRIPT", "a b"], {}, "<a b>"),
        (["SCRIPT", "a b"], {"SGE_STARTER_SHELL_START_MODE": "raw_exec"}, "<a b>"),
        (["SCRIPT", "a b"], {"SGE_STARTER_SHELL_START_MODE": "posix_compliant"}, "<a b>"),
        (["SCRIPT", "a b"], {"SGE_STARTER_SHELL_START_MODE": "posix_compliant", "LOGIN": "true"}, "<a b>"),
        (["SCRIPT", "a b"], {"SGE_STARTER_SHELL_START_MODE": "start_as_command"}, "<a><b>"),
        (["-s", "a b"], {"SGE_STARTER_SHELL_START_MODE": "script_from_stdin"}, "<a b>"),
        (["SHOW", "a b", "$JOB_ID"], {}, "<a><b><424299>"),
        (["SHOW", "a b", "$JOB_ID"], {"LOGIN": "true"}, "<a><b><424299>"),
        (["SHOW $JOB_ID; SHOW", "c d"], QRSH, "<424299><c><d>"),
    ],
)
def test_how_a_job_is_started(host: Host, words: list[str], environ: Mapping[str, str], out: str) -> None:
    show = host.folder / "show"
    show.write_text(SHOW, encoding="utf-8")
    show.chmod(0o755)
    names = {"LOGIN": "SGE_STARTER_USE_LOGIN_SHELL"}
    given = [word.replace("SCRIPT", str(host.script)).replace("SHOW", str(show)) for word in words]
    told = {names.get(name, name): value for name, value in environ.items()}
    ran = host.start(*given, stdin=SHOW, **told)
    assert (ran.stdout.replace("\n", ""), ran.returncode) == (out, 0), ran.stderr


@pytest.mark.parametrize("environ", [{}, QRSH])
def test_words_that_are_for_no_shell(host: Host, environ: Mapping[str, str]) -> None:
    host.config(handle_as_binary=1, no_shell=1)
    assert host.start("printf", "<%s>", "a b", "$HOME", **environ).stdout == "<a b><$HOME>"
    host.config(handle_as_binary=1, no_shell=0)
    assert host.start("printf", "'<%s>'", "a b", "$JOB_ID", **environ).stdout == "<a><b><424299>"


@pytest.mark.parametrize(("login", "kind"), [("true", "login"), ("false", "plain")])
@pytest.mark.needs("bash")  # which alone can tell that it is a login shell
def test_a_login_shell_is_one(host: Host, login: str, kind: str) -> None:
    host.script.write_text("shopt -q login_shell && echo login || echo plain\necho $0\n", encoding="utf-8")
    told = {"SGE_STARTER_SHELL_START_MODE": "posix_compliant", "SGE_STARTER_USE_LOGIN_SHELL": login, "HOME": "/nowhere"}
    ran = host.start(host.script, SGE_STARTER_SHELL_PATH=shutil.which("bash") or "", **told)
    assert ran.stdout.splitlines() == [kind, str(host.script)]
