"""The front of Grid Engine's qsub and qrsh in every shell, with real ones that say what they were given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.concurrency.test_sbatch_front import DIGEST, ECHO, ODD, Site
from tests.support.tasks import ROOT, Tasks
from tests.support.warm_scene import program, shells

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FRONT = ROOT / "sbatch-wrapper" / "gridengine" / "qsub"
WISH = ["-soft", "-l", f"stage_images=*@{DIGEST[:12]};*", "-hard"]


@pytest.fixture
def site(tmp_path: Path, store_path: Path) -> Iterator[Site]:
    with Tasks(tmp_path, STAGE_IMAGE_STORE=str(store_path)) as tasks:
        site = Site(tmp_path, tasks)
        for name in ("qsub", "qrsh"):
            (site.front / name).symlink_to(FRONT)
            program(site.slurm / name, ECHO)
        program(site.slurm / "qconf", "echo stage_images simg RESTRING == YES NO NONE 0")
        yield site


def told(site: Site) -> list[str]:
    return [*WISH, "-v", f"STAGE_IMAGE_REFERENCE={site.pinned}"]


@pytest.mark.parametrize("shell", shells())
@pytest.mark.parametrize("name", ["qsub", "qrsh"])
def test_without_the_option_it_is_not_there(site: Site, shell: str, name: str) -> None:
    assert site.run(shell, "-cwd", *ODD, name=name) == [str(site.slurm / name), "-cwd", *ODD]
    assert site.run(shell, name=name) == [str(site.slurm / name)]
    assert not site.asked


@pytest.mark.parametrize("shell", shells())
def test_with_the_option_the_image_is_pinned(site: Site, shell: str) -> None:
    words = ("-N", "my own", "--stage-image=a.sqsh", "job.sh", *ODD)
    assert site.run(shell, *words, name="qsub")[1:] == ["-N", "my own", *told(site), "job.sh", *ODD]
    assert site.run(shell, "--stage-image", "a.sqsh", "ls", name="qrsh")[1:] == [*told(site), "ls"]


@pytest.mark.parametrize("shell", shells())
def test_a_line_of_the_script(site: Site, shell: str) -> None:
    script = site.folder / "job"
    script.write_text("#$ -cwd\n#STAGE-IMAGE a.sqsh\nls\n", encoding="utf-8")
    (site.folder / "out.log").write_text("of the last run\n#STAGE-IMAGE /nope\n", encoding="utf-8")
    assert site.run(shell, "-o", "out.log", "job", "x", name="qsub")[1:] == ["-o", "out.log", *told(site), "job", "x"]
    assert site.run(shell, "-b", "y", "job", name="qsub")[1:] == ["-b", "y", "job"]
    assert site.run(shell, "job", name="qrsh")[1:] == ["job"]


@pytest.mark.parametrize("shell", shells())
def test_a_script_on_stdin(site: Site, shell: str) -> None:
    program(site.slurm / "qsub", 'cat >"$ECHO.stdin"', ECHO)
    text = b"#!/bin/sh\nls\n"
    assert site.run(shell, "--stage-image=a.sqsh", stdin=text, name="qsub")[1:] == told(site)
    assert (site.folder / "got.stdin").read_bytes() == text


@pytest.mark.parametrize("shell", shells())
def test_what_fails_is_not_submitted(site: Site, shell: str) -> None:
    done = site.call(shell, "--stage-image=/nope.sqsh", "job.sh", name="qsub")
    assert (done.returncode, done.stdout) == (66, b"")
    assert not (site.folder / "got").exists()


@pytest.mark.parametrize("shell", shells())
def test_where_the_real_one_is(site: Site, shell: str) -> None:
    other = program(site.folder / "other" / "qsub-8", ECHO)
    assert site.run(shell, "x", name="qsub", QSUB_REAL=str(other)) == [str(other), "x"]
    assert site.run(shell, "x", name="qrsh", QSUB_REAL=str(other)) == [str(site.slurm / "qrsh"), "x"]
    done = site.call(shell, "x", name="qsub", QSUB_REAL=str(site.front / "sbatch"))
    assert (done.returncode, b"no qsub of Grid Engine's" in done.stderr) == (127, True)


@pytest.mark.parametrize("shell", shells())
def test_where_nothing_is_told_of_images_nothing_is_wished_for(site: Site, shell: str) -> None:
    for lines in (["echo arch a RESTRING == YES NO NONE 0"], ["exit 1"]):
        program(site.slurm / "qconf", *lines)
        found = site.run(shell, "--stage-image=a.sqsh", "job.sh", name="qsub")[1:]
        assert found == ["-v", f"STAGE_IMAGE_REFERENCE={site.pinned}", "job.sh"]
