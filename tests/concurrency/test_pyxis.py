"""The importer for Pyxis, called as importers/README.md of Pyxis 0.21 says: `get URI`, `release` twice.

Neither Pyxis nor enroot is here: what calls the importer, and `enroot`, are stand-ins. The staging is real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.image_factory import minimal_sif
from tests.support.origin import Origin
from tests.support.switched_off import OFF
from tests.support.tasks import COMMAND, NOTHING, ROOT, Tasks, all_end, image, published
from tests.support.warm_scene import program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

IMPORTER = ROOT / "sbatch-wrapper" / "pyxis" / "importer"
CONTENT = image(100_000)
STEP = {"SLURM_JOB_UID": "1000", "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0", "PYXIS_VERSION": "0.24.0"}


class Site:
    """An importer with a list of images, an origin, and an `enroot` that writes what it was told."""

    def __init__(self, folder: Path, origin: Origin, tasks: Tasks) -> None:
        self.folder, self.origin, self.tasks, self.tools = folder, origin, tasks, folder / "tools"
        self.runtime = folder / "run"
        (folder / "pyxis").mkdir()
        self.importer = str(shutil.copy(IMPORTER, folder / "pyxis"))
        program(self.tools / "stage-image", f'exec {" ".join(COMMAND)} "$@"')
        program(self.tools / "enroot", 'echo "importing $4"', 'printf "%s" "$4" >"$3"')
        self.environ = {**STEP, "PATH": f"{self.tools}:{os.environ['PATH']}", "PYXIS_RUNTIME_PATH": str(self.runtime)}

    def lines(self, *lines: str) -> None:
        (self.folder / "pyxis" / "importer.conf").write_text("\n".join((*lines, "")))

    def call(
        self, *words: str, before: tuple[str, ...] = (), env: Mapping[str, str] = NOTHING
    ) -> subprocess.CompletedProcess[str]:
        environ = self.tasks.environ({**self.environ, **env})
        return subprocess.run(
            [*before, self.importer, *words],
            env=environ,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    @property
    def own(self) -> Path:
        return self.runtime / "1000" / "12.0.squashfs"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Origin() as origin, Tasks(tmp_path) as tasks:
        yield Site(tmp_path, origin, tasks)


def test_an_image_with_a_line_is_staged(site: Site, store_path: Path) -> None:
    site.lines("# images", "", f"docker://ubuntu:24.04   {site.origin.put('/ubuntu.sqsh', CONTENT)}")
    done = site.call("get", "docker://ubuntu:24.04")
    assert (done.returncode, done.stdout) == (0, f"{published(store_path, CONTENT)}\n")
    assert "staged ubuntu.sqsh" in done.stderr
    for _ in range(2):
        assert site.call("release").returncode == 0
    assert published(store_path, CONTENT).read_bytes() == CONTENT
    assert not site.runtime.exists()


def test_all_nodes_steps_and_jobs_share_one_download(site: Site, store_path: Path) -> None:
    site.lines(f"docker://ubuntu:24.04 {site.origin.put('/ubuntu.sqsh', CONTENT)}")
    words = ("get", "docker://ubuntu:24.04")
    steps = [site.environ | {"SLURM_STEP_ID": str(number)} for number in range(12)]
    crowd = [site.tasks.start(*words, program=(site.importer,), env=step) for step in steps]
    all_end(crowd)
    assert {task.answer for task in crowd} == {str(published(store_path, CONTENT))}
    assert len(site.origin.requests) == 1


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("docker://nvcr.io#nvidia/pytorch:24.01-py3", "pytorch+24.01-py3.sqsh"),
        ("docker://nvcr.io#nvidia/a/b", "a+b.sqsh"),
    ],
)
def test_a_star_stands_for_a_name_as_enroot_makes_it(site: Site, store_path: Path, uri: str, name: str) -> None:
    site.origin.put(f"/nvidia/{name}", CONTENT)
    site.lines(f"docker://nvcr.io#nvidia/* {site.origin.url('/nvidia/')}", "docker://nvcr.io#nvidia/* /wrong/")
    done = site.call("get", uri)
    assert (done.returncode, done.stdout) == (0, f"{published(store_path, CONTENT)}\n"), done.stderr


@pytest.mark.parametrize(
    "uri", ["docker://alpine", "docker://ubuntu:24.04x", "docker://nvcr.io#nvidia/", "docker://u*"]
)
def test_others_are_imported_by_enroot_as_before(site: Site, uri: str) -> None:
    site.lines("docker://ubuntu:24.04 /nowhere", "docker://nvcr.io#nvidia/* /nowhere/")
    done = site.call("get", uri)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{site.own}\n", f"importing {uri}\n")
    assert site.own.read_text() == uri
    assert site.own.parent.stat().st_mode & 0o777 == 0o700
    for _ in range(2):
        assert site.call("release").returncode == 0
        assert not site.own.exists()


def test_without_a_list_everything_is_enroots(site: Site) -> None:
    assert site.call("get", "docker://alpine").stdout == f"{site.own}\n"


def test_what_fails_is_said_on_stderr_only(site: Site) -> None:
    site.lines("docker://gone /nowhere/x.sqsh", f"docker://sif {site.folder}/a.sif")
    (site.folder / "a.sif").write_bytes(minimal_sif(CONTENT))
    for uri, words in (("docker://gone", "/nowhere/x.sqsh"), ("docker://sif", "is no squashfs image")):
        done = site.call("get", uri)
        assert done.returncode != 0
        assert done.stdout == ""
        assert words in done.stderr
    program(site.tools / "enroot", "echo no such image >&2", "exit 1")
    done = site.call("get", "docker://other")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "no such image\n")


@pytest.mark.needs("mount")
def test_switched_off_everything_is_enroots(site: Site) -> None:
    site.lines(f"docker://ubuntu:24.04 {site.origin.put('/ubuntu.sqsh', CONTENT)}")
    done = site.call("get", "docker://ubuntu:24.04", before=OFF)
    assert (done.returncode, done.stdout, site.origin.requests) == (0, f"{site.own}\n", [])


@pytest.mark.parametrize("words", [(), ("get",), ("get", "a", "b"), ("put", "a"), ("--help",)])
def test_wrong_calls(site: Site, words: tuple[str, ...]) -> None:
    done = site.call(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("stage-image: error: usage: ")


@pytest.mark.parametrize("name", ["SLURM_JOB_UID", "SLURM_JOB_ID", "SLURM_STEP_ID", "PYXIS_RUNTIME_PATH"])
@pytest.mark.parametrize("value", ["", "..", "../x", "a b"])
def test_outside_of_a_step_nothing_is_removed(site: Site, name: str, value: str) -> None:
    site.own.parent.mkdir(parents=True)
    site.own.write_text("kept")
    assert site.call("release", env={name: value}).returncode == 0
    assert site.own.read_text() == "kept"


@pytest.mark.needs("shellcheck")
def test_shellcheck_finds_nothing() -> None:
    assert os.access(IMPORTER, os.X_OK)
    done = subprocess.run(["shellcheck", str(IMPORTER)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
