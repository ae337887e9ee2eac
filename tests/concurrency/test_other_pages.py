"""What the pages for other schedulers and for workflow engines tell to type works, as far as it can be had here.

Files are installed below a folder instead of the places that the pages name. Schedulers, engines and the container
runtime are not here: what those are told to run is run by a shell.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Origin
from tests.support.tasks import COMMAND, ROOT, Tasks, image, published
from tests.support.warm_scene import program

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = ROOT / "docs" / "how-to"
INSTALLED = ("openpbs", "lsf", "htcondor", "flux", "pyxis")
ENGINES = (PAGES / "workflow-engines.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHARE = "/usr/local/share/stage-image/"
MOVED = (SHARE, "/var/spool/")
REFERENCE = "https://images.example.org/"
CONTENT = image(10_000)


def blocks(page: str, language: str) -> list[str]:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    return [block for found, block in FENCE.findall(text) if found == language]


def moved(text: str, folder: Path) -> str:
    for place in MOVED:
        text = text.replace(place, f"{folder}{place}")
    return text


def install(page: str, folder: Path) -> None:
    """Do what the page tells root to do."""
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    assert lines
    for line in lines:
        assert re.match(
            r"node# (install -D -m \d+ sbatch-wrapper/\S+|echo \S+ >) /(usr/local/share|var/spool)/\S+$", line
        )
        subprocess.run(["sh", "-ec", moved(line[6:], folder)], cwd=ROOT, check=True, timeout=40)


@pytest.mark.parametrize("page", INSTALLED)
def test_every_file_that_is_named_gets_installed(page: str, tmp_path: Path) -> None:
    install(page, tmp_path)
    text = "".join(blocks(page, "text") + blocks(page, "sh"))
    named = {name for name in re.findall(rf"{SHARE}[\w./-]+", text) if not name.endswith(".conf")}
    assert [name for name in named if not os.access(moved(name, tmp_path), os.R_OK)] == []
    for file in tmp_path.rglob("*"):
        source = next((ROOT / "sbatch-wrapper" / page).glob(file.name), None)
        if file.is_file() and source:
            assert file.read_bytes() == source.read_bytes()
            assert os.access(file, os.X_OK) == os.access(source, os.X_OK)


@pytest.mark.parametrize("page", [*INSTALLED, "workflow-engines"])
def test_every_script_is_one(page: str, tmp_path: Path) -> None:
    for block in blocks(page, "sh"):
        script = tmp_path / "script"
        script.write_text(block)
        done = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), block


def test_the_list_of_the_page_leads_the_importer_where_the_page_says(tmp_path: Path) -> None:
    install("pyxis", tmp_path)
    (conf,) = [block for block in blocks("pyxis", "text") if "importer.conf" in block]
    folder = Path(moved(f"{SHARE}pyxis", tmp_path))
    (folder / "importer.conf").write_text(conf)
    program(tmp_path / "bin" / "stage-image", 'echo "$1"')
    ran = re.findall(r"runs `([^`]+)`", (PAGES / "pyxis.md").read_text(encoding="utf-8"))
    wanted = re.findall(r"--container-image=(\S+)", "".join(blocks("pyxis", "sh")))
    for uri, reference in [
        *(("docker://" + uri, reference) for uri, reference in zip(wanted, ran, strict=True)),
        ("docker://ubuntu:24.04", "https://images.example.org/ubuntu-24.04.sqsh"),
        ("docker://mine.example.org#a/b", "/shared/images/a+b.sqsh"),
    ]:
        done = subprocess.run(
            [str(folder / "importer"), "get", uri],
            env={"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.stdout, done.stderr) == (f"{reference}\n", "")


def test_flux_jobs_name_the_attribute_that_the_prolog_looks_for() -> None:
    prolog = (ROOT / "sbatch-wrapper" / "flux" / "prolog").read_text()
    assert "--setattr=stage_image=" in "".join(blocks("flux", "sh"))
    assert '"stage_image":' in prolog


# --- workflow engines


class Site:
    """Where a task of a workflow runs, with a `bwa` and an `apptainer` that say what they were told."""

    def __init__(self, folder: Path, url: str, tasks: Tasks) -> None:
        tools = folder / "tools"
        for name in ("bwa", "apptainer", "tool"):
            program(tools / name, f"printf '%s\\n' {name} \"$@\"")
        program(tools / "stage-image", f'exec {" ".join(COMMAND)} "$@"')
        self._folder, self._url = folder, url
        self._environ = tasks.environ({"PATH": f"{tools}:{os.environ['PATH']}", "STAGE_IMAGE_MOUNT": "none"})

    def run(self, text: str) -> list[str]:
        """Have a shell do it, with our origin for the page's; return the lines that it wrote."""
        done = subprocess.run(
            [str(shutil.which("sh")), "-ec", text.replace(REFERENCE, self._url)],
            env=self._environ,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Origin() as origin, Tasks(tmp_path) as tasks:
        for name in ("bwa.sif", "tool.sif"):
            origin.put(f"/{name}", CONTENT)
        yield Site(tmp_path, origin.url("/"), tasks)


def test_the_lines_for_any_engine(site: Site, store_path: Path) -> None:
    (lines,) = blocks("workflow-engines", "sh")
    words = site.run(lines)
    assert words == ["apptainer", "exec", str(published(store_path, CONTENT)), "tool", "--version"]


@pytest.mark.parametrize(("engine", "placeholders"), [("Nextflow", {"${reads}": "r.fq"}), ("Snakemake", {})])
def test_a_task_of_an_engine(
    site: Site, engine: str, placeholders: dict[str, str], store_path: Path, tmp_path: Path
) -> None:
    section = ENGINES.partition(f"## {engine}")[2].partition("\n## ")[0]
    (line,) = re.findall(r"stage-image exec https.*? > [^\s\"]+", section)
    for name, value in ({"{input}": "ref.fa s.fq", "{output}": "out.sam"} | placeholders).items():
        line = line.replace(name, value)
    assert site.run(line) == []
    assert (tmp_path / "out.sam").read_text().splitlines()[:4] == [
        *("apptainer", "exec", str(published(store_path, CONTENT)), "bwa")
    ]


def test_what_cromwell_submits(site: Site, store_path: Path) -> None:
    (template,) = re.findall(r"--wrap '\n(.*?)'\n\"\"\"", ENGINES, re.DOTALL)
    for name, value in {
        "docker": "tool",
        "cwd": "/run/c",
        "docker_cwd": "/c",
        "job_shell": "/bin/bash",
        "docker_script": "/c/script",
    }.items():
        template = template.replace(f"${{{name}}}", value)
    path = str(published(store_path, CONTENT))
    bind = ["--containall", "--bind", "/run/c:/c"]
    assert site.run(template) == ["apptainer", "exec", *bind, path, "/bin/bash", "/c/script"]


def test_shims_serve_an_engines_task(site: Site, tmp_path: Path, store_path: Path) -> None:
    (before,) = re.findall(r"beforeScript = '(.*)'", ENGINES)
    (prefix,) = re.findall(r'shell\.prefix\("(.*)"\)', ENGINES)
    shims = tmp_path / "shims"
    shims.mkdir()
    (shims / "bwa").symlink_to(ROOT / "sbatch-wrapper" / "shim")
    (shims / "shims.conf").write_text(f"bwa {REFERENCE}bwa.sif\n".replace(REFERENCE, site._url))
    for line in (f"{before}\nbwa mem", f"{prefix}bwa mem"):
        words = site.run(line.replace("/shared/shims", str(shims)))
        assert words == ["apptainer", "exec", str(published(store_path, CONTENT)), "bwa", "mem"]
