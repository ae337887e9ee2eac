"""The front of sbatch in every shell, with a real one that says what it was given; and Slurm's own, where it is."""

from __future__ import annotations

import os
import shutil
import subprocess
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager.schedulers.submit_options import NOT_OF_SBATCH, PLAIN, VALUED, takes_value
from tests.support.tasks import COMMAND, ROOT, Tasks, image
from tests.support.warm_scene import TOOLS, program, shells

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FRONT = ROOT / "sbatch-wrapper" / "sbatch"
CONTENT = image(10_000)
DIGEST = sha256(CONTENT).hexdigest()
ODD = ["", " ", "a  b", "'", '"', "\\", "*", "$HOME", "a\nb", "\n", "--", "-c", "a=b", "\udcff", "ä", "!"]
OWN = {"_", "SHLVL", "PWD", "OLDPWD"}
"""Variables that shells keep for themselves."""

ECHO = 'printf \'%s\\0\' "$0" "$@" >"$ECHO"; exit 7'


@pytest.fixture
def site(tmp_path: Path, store_path: Path) -> Iterator[Site]:
    with Tasks(tmp_path, STAGE_IMAGE_STORE=str(store_path)) as tasks:
        yield Site(tmp_path, tasks)


def absolute(shell: str) -> list[str]:
    """Return the command of a shell, for any PATH."""
    first, *others = shells()[shell]
    return [str(shutil.which(first)), *others]


class Site:
    """A login node: `front` and `slurm` on the PATH, and an image."""

    def __init__(self, folder: Path, tasks: Tasks) -> None:
        self.folder = folder
        self.front, self.slurm = folder / "front", folder / "slurm"
        self.front.mkdir()
        for name in ("sbatch", "srun", "salloc"):
            (self.front / name).symlink_to(FRONT)
            program(self.slurm / name, ECHO)
        program(self.front / "stage-image", f'echo "$*" >>{folder}/asked', f'exec {" ".join(COMMAND)} "$@"')
        self.image = folder / "a.sqsh"
        self.image.write_bytes(CONTENT)
        self.environ = tasks.environ({"PATH": f"{self.front}:{self.slurm}:{TOOLS}", "ECHO": str(folder / "got")})

    @property
    def pinned(self) -> str:
        return f"{self.image}@sha256:{DIGEST}"

    @property
    def asked(self) -> bool:
        """Whether Python had to be started."""
        return (self.folder / "asked").exists()

    def run(self, shell: str, *words: str, stdin: bytes | None = None, name: str = "sbatch", **env: str) -> list[str]:
        """Run the front in a shell; return what the real one was given, its own name first."""
        done = self.call(shell, *words, stdin=stdin, name=name, **env)
        assert done.returncode == 7, done.stderr
        return os.fsdecode((self.folder / "got").read_bytes()).split("\0")[:-1]

    def call(
        self, shell: str, *words: str, stdin: bytes | None = None, name: str = "sbatch", **env: str
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*absolute(shell), str(self.front / name), *words],
            input=b"" if stdin is None else stdin,
            env=self.environ | env,
            cwd=self.folder,
            capture_output=True,
            timeout=40,
            check=False,
        )

    def script(self, *lines: str) -> str:
        (self.folder / "job.sh").write_text("\n".join(("#!/bin/sh", *lines, "")))
        return "job.sh"


@pytest.mark.parametrize("shell", shells())
@pytest.mark.parametrize("name", ["sbatch", "srun", "salloc"])
def test_without_the_option_it_is_not_there(site: Site, shell: str, name: str) -> None:
    assert site.run(shell, "-N2", *ODD, name=name) == [str(site.slurm / name), "-N2", *ODD]
    assert site.run(shell, name=name) == [str(site.slurm / name)]
    assert not site.asked


@pytest.mark.parametrize("shell", shells())
def test_with_the_option_the_image_is_pinned(site: Site, shell: str) -> None:
    words = ("--comment", "my own", "--stage-image=a.sqsh", "job.sh", *ODD)
    told = f"--comment=stage-image={site.pinned} my own"
    assert site.run(shell, *words) == [str(site.slurm / "sbatch"), "--comment", "my own", told, "job.sh", *ODD]
    assert site.run(shell, "--stage-image", site.pinned, "-n4", "./app", name="srun")[1:] == [
        "-n4",
        f"--comment=stage-image={site.pinned}",
        "./app",
    ]


@pytest.mark.parametrize("shell", shells())
def test_the_option_of_a_script_is_the_scripts(site: Site, shell: str) -> None:
    assert site.run(shell, site.script("ls"), "--stage-image=/nope")[1:] == ["job.sh", "--stage-image=/nope"]


@pytest.mark.parametrize("shell", shells())
def test_a_line_of_the_script(site: Site, shell: str) -> None:
    script = site.script("#SBATCH --comment='my own'", "", "#STAGE-IMAGE a.sqsh", "ls")
    told = f"--comment=stage-image={site.pinned} my own"
    (site.folder / "out.log").write_text("of the last run\n#STAGE-IMAGE /nope\n")
    assert site.run(shell, "-o", "out.log", script, "x")[1:] == ["-o", "out.log", told, "job.sh", "x"]


@pytest.mark.parametrize("shell", shells())
def test_a_script_without_such_a_line_needs_no_python(site: Site, shell: str) -> None:
    script = site.script("#SBATCH -N2", "# STAGE-IMAGE a.sqsh", "ls", "#STAGE-IMAGE a.sqsh")
    assert site.run(shell, script)[1:] == ["job.sh"]
    assert not site.asked


@pytest.mark.parametrize("shell", shells())
def test_a_script_on_stdin(site: Site, shell: str) -> None:
    script = site.folder / site.script("#STAGE-IMAGE a.sqsh", "ls")
    program(site.slurm / "sbatch", 'cat >"$ECHO.stdin"', ECHO)
    with script.open("rb") as stdin:
        command = [*shells()[shell], str(site.front / "sbatch")]
        subprocess.run(command, stdin=stdin, env=site.environ, cwd=site.folder, timeout=40, check=False)
    assert f"stage-image={site.pinned}" in (site.folder / "got").read_text()
    assert (site.folder / "got.stdin").read_bytes() == script.read_bytes()
    text = b"#!/bin/sh\n#SBATCH --comment=mine\n"
    assert site.run(shell, "--stage-image=a.sqsh", stdin=text)[1:] == [f"--comment=stage-image={site.pinned} mine"]
    assert (site.folder / "got.stdin").read_bytes() == text


@pytest.mark.parametrize("shell", shells())
def test_what_fails_is_not_submitted(site: Site, shell: str) -> None:
    done = site.call(shell, "--stage-image=/nope.sqsh", "job.sh")
    assert (done.returncode, done.stdout) == (66, b"")
    assert b"/nope.sqsh" in done.stderr
    assert not (site.folder / "got").exists()


@pytest.mark.parametrize("shell", shells())
def test_where_the_real_one_is(site: Site, shell: str) -> None:
    other = program(site.folder / "other" / "sbatch-22", ECHO)
    assert site.run(shell, "x", SBATCH_REAL=str(other)) == [str(other), "x"]
    assert site.run(shell, "x", SBATCH_REAL=str(other), name="srun") == [str(site.slurm / "srun"), "x"]
    (site.folder / "copy").mkdir()
    (site.folder / "copy" / "sbatch").write_bytes(FRONT.read_bytes())
    (site.folder / "copy" / "sbatch").chmod(0o755)
    path = f"{site.front}:{site.folder}/copy:{site.slurm}:{TOOLS}"
    assert site.run(shell, "x", PATH=path) == [str(site.slurm / "sbatch"), "x"]
    done = site.call(shell, "x", PATH=f"{site.front}")
    assert (done.returncode, b"no other sbatch" in done.stderr) == (127, True)


@pytest.mark.parametrize("shell", shells())
def test_it_never_becomes_itself(site: Site, shell: str) -> None:
    for real in ("sbatch", "front/sbatch", str(site.front / "sbatch")):
        for words in (("x",), ("--stage-image=a.sqsh", "x")):
            done = site.call(shell, *words, SBATCH_REAL=real)
            assert (done.returncode, real.encode() in done.stderr) == (127, True)
    assert site.call(shell, "x", SBATCH_REAL="/nope/sbatch").returncode == 127


@pytest.mark.parametrize("shell", shells())
def test_without_the_cli(site: Site, shell: str) -> None:
    (site.front / "stage-image").unlink()
    assert site.run(shell, "x")[1:] == ["x"]
    done = site.call(shell, "--stage-image=a.sqsh", "x")
    assert (done.returncode, b"not on the PATH" in done.stderr) == (127, True)


@pytest.mark.parametrize("shell", shells())
def test_the_job_inherits_what_was_there(site: Site, shell: str) -> None:
    program(site.slurm / "sbatch", 'env -0 >"$ECHO"')
    found = []
    for words in ((), ("--stage-image=a.sqsh",)):
        site.call(shell, *words, "x", STAGE_IMAGE_REFERENCE="outer")
        lines = os.fsdecode((site.folder / "got").read_bytes()).split("\0")[:-1]
        found.append({name: value for name, _, value in (line.partition("=") for line in lines) if name not in OWN})
    expected = {name: value for name, value in site.environ.items() if name not in OWN}
    assert found == [expected | {"STAGE_IMAGE_REFERENCE": value} for value in ("outer", site.pinned)]


@pytest.mark.needs("slurm")
def test_the_real_sbatch_reads_options_likewise(tmp_path: Path) -> None:
    (tmp_path / "slurm.conf").write_text(
        "ClusterName=x\nSlurmctldHost=localhost(127.0.0.1)\nNodeName=n1\nPartitionName=p Nodes=ALL\n"
    )
    environ = {**os.environ, "SLURM_CONF": str(tmp_path / "slurm.conf")}
    wrong, known = {}, 0
    for name in sorted((VALUED | PLAIN | {"wait"}) - NOT_OF_SBATCH - {"help", "usage", "version"}):
        command = ["sbatch", f"--{name}", "/nope/1", "/nope/2"]
        done = subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        text = done.stderr.decode()
        known += "unrecognized option" not in text
        is_script = "Unable to open file /nope/1" in text
        if is_script is bool(takes_value(name, "sbatch")) and "unrecognized option" not in text:
            wrong[name] = text
    assert wrong == {}
    assert known > 90
