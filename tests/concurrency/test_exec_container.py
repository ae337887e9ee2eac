"""`exec` with images that say how they are to be run, and with a runtime that only tells what it was told."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from stager.oci import ContainerConfig
from stager.trailer import pack
from tests.support.image_factory import minimal_squashfs
from tests.support.tasks import Tasks, published
from tests.support.warm_scene import TOOLS, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.tasks import Task

ENV = ("A=b", "LD_PRELOAD=/evil.so", "HOME=/root", "PATH=/opt/bin", "P=$HOME", "BASH_ENV=/evil", "not-a-name=1")
CONFIG = ContainerConfig(ENV, ("/bin/tool", "-e"), ("a  b",), "/work", "joe")


def image(config: ContainerConfig | None) -> bytes:
    squashfs = minimal_squashfs(b"layers" * 1000)
    return squashfs + b"\0" * (-len(squashfs) % 4096) + (pack(config) if config else b"")


def told_by(task: Task) -> tuple[list[str], list[str]]:
    """Return the words that the runtime got, and its environment line by line."""
    folder, count, *rest = task.out.split("\0")
    assert folder == os.path.dirname(task.files), "a runtime starts where the caller is"
    return rest[: int(count)], rest[int(count) : -1]


class Site:
    """A node with a container runtime of the name `runtime`, and an image in a file."""

    def __init__(self, folder: Path, runtime: str) -> None:
        self.folder = folder
        self.content = b""
        self.store = folder / "store"
        tell = 'printf "%s\\0" "$PWD" $# "$@"; exec cat /proc/self/environ'
        if runtime:
            program(folder / "bin" / runtime, tell)
        # Without the machine's own runtimes, if it has any: what is on their PATH alone is found here.
        path = f"{folder}/bin:{os.path.dirname(sys.executable)}:{TOOLS}"
        self.tasks = Tasks(folder, STAGE_IMAGE_STORE=str(self.store), PATH=path)

    def has(self, config: ContainerConfig | None) -> None:
        self.content = image(config)
        (self.folder / "tool.sqsh").write_bytes(self.content)

    def run(self, *words: str, **environ: str) -> Task:
        cut = words.index("--") if "--" in words else len(words)
        return self.tasks.run("exec", *words[:cut], str(self.folder / "tool.sqsh"), *words[cut:], env=environ)

    def told(self, *words: str, **environ: str) -> tuple[list[str], dict[str, str]]:
        """Return what the runtime was told: its words from `exec` on, and its environment."""
        task = self.run(*words, **environ)
        assert task.done() == 0, task.err
        told, lines = told_by(task)
        return told, dict(line.split("=", 1) for line in lines)

    @property
    def path(self) -> str:
        return str(published(self.store, self.content))

    @property
    def records(self) -> list[str]:
        return sorted(path.name.split(",")[0] for path in self.store.glob("warm/*/*"))


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(tmp_path, getattr(request, "param", "apptainer"))
    made.has(CONFIG)
    with made.tasks:
        yield made


@pytest.mark.parametrize("site", ["apptainer", "singularity"], indirect=True)
def test_a_command_runs_as_it_is_with_the_images_environment(site: Site) -> None:
    words, environ = site.told("--", "printenv", "A")
    assert words == ["exec", site.path, "printenv", "A"]
    prefix = "APPTAINERENV_" if (site.folder / "bin" / "apptainer").exists() else "SINGULARITYENV_"
    inside = {name.removeprefix(prefix): value for name, value in environ.items() if name.startswith(prefix)}
    assert inside == {
        "A": "b",
        "LD_PRELOAD": "/evil.so",
        "BASH_ENV": "/evil",
        "P": "\\$HOME",
        "PATH": "/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "STAGE_IMAGE_PATH": site.path,
        "STAGE_IMAGE_DIGEST": f"sha256:{os.path.basename(os.path.dirname(site.path))}",
        "STAGE_IMAGE_ROOT": "/",
    }
    assert not {"A", "LD_PRELOAD", "BASH_ENV", "P"} & environ.keys(), "the runtime is a program of the host"


def test_what_the_user_says_of_a_container_stands(site: Site) -> None:
    own = {"APPTAINERENV_A": "mine", "SINGULARITYENV_P": "theirs", "APPTAINERENV_APPEND_PATH": "/me", "B": "plain"}
    _, environ = site.told("--", "true", **own)
    assert own.items() <= environ.items()
    assert "APPTAINERENV_P" not in environ
    assert environ["APPTAINERENV_PATH"].startswith("/opt/bin:")
    assert environ["APPTAINERENV_PATH"].endswith(":/me")


@pytest.mark.parametrize("dashes", [[], ["--"]])
@pytest.mark.parametrize("option", [[], ["--entrypoint"]])
def test_without_a_command_the_maker_decides(site: Site, dashes: list[str], option: list[str]) -> None:
    task = site.run(*option, *dashes)
    assert (task.done(), told_by(task)[0]) == (0, ["exec", "--pwd=/work", site.path, "/bin/tool", "-e", "a  b"])
    assert "stage-image: the image is made to run as the user joe; it runs as you\n" in task.err


def test_of_many_tasks_the_first_tells_of_the_user(site: Site) -> None:
    assert "joe" not in site.run(SLURM_JOB_ID="1", SLURM_LOCALID="3", SLURM_PROCID="3").err
    assert "joe" in site.run(SLURM_JOB_ID="1", SLURM_LOCALID="0", SLURM_PROCID="0").err
    assert "joe" not in site.run("--", "true").err


def test_the_entrypoint_takes_the_given_arguments(site: Site) -> None:
    words, _ = site.told("--entrypoint", "--", "--entrypoint", "x y", "")
    assert words == ["exec", "--pwd=/work", site.path, "/bin/tool", "-e", "--entrypoint", "x y", ""]


@pytest.mark.parametrize("config", [None, ContainerConfig(env=("A=b",))])
def test_an_image_that_does_not_say_what_to_run_needs_a_command(site: Site, config: ContainerConfig | None) -> None:
    site.has(config)
    task = site.run()
    assert (task.done(), task.out) == (2, "")
    assert "exec needs a command after `--`: the image " in task.err
    assert site.told("--", "true")[0] == ["exec", site.path, "true"]


@pytest.mark.parametrize("site", ["", "apptainer"], indirect=True)
def test_on_the_host_nothing_of_the_image_is_in_the_environment(site: Site) -> None:
    bare = site.tasks.environ()
    task = site.run("--runtime=none", "--mount=none", "--", "cat", "/proc/self/environ")
    assert task.done() == 0, task.err
    names = {line.partition("=")[0] for line in task.out.split("\0") if line}
    assert names == bare.keys() | {"STAGE_IMAGE_PATH", "STAGE_IMAGE_DIGEST"}


@pytest.mark.parametrize("site", ["", "apptainer"], indirect=True)
@pytest.mark.parametrize("words", [[], ["--"], ["--entrypoint", "--", "x"]])
def test_on_the_host_only_a_command_runs(site: Site, words: list[str]) -> None:
    task = site.run("--runtime=none", *words)
    assert (task.done(), task.out) == (83, "")
    assert "Entrypoint and Cmd run in a container only" in task.err
    assert not site.store.exists(), "that is known before anything is staged"


def test_only_what_a_record_can_answer_leaves_one(site: Site) -> None:
    job = {"SLURM_JOB_ID": "7"}
    for words in ([], ["--", "true"], ["--mount=none", "--", "true"]):
        assert site.run(*words, **job).done() == 0
    assert site.records == []
    site.run("--runtime=none", "--mount=none", "--", "true", **job)
    assert site.records == ["exec"]
    site.tasks.run(str(site.folder / "tool.sqsh"), env=job)
    assert site.records == ["exec", "path"]
    site.has(ContainerConfig(cmd=("true",)))
    for _ in range(2):
        assert site.told("--", "true", SLURM_JOB_ID="8")[0] == ["exec", site.path, "true"]
    assert site.records == ["exec", "exec", "path"]
