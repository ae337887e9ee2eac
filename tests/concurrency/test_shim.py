"""A command that is a link to the shim runs in an image, in every shell: with its words, its streams, and its end."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.tasks import COMMAND, ROOT, Tasks, image
from tests.support.warm_scene import TOOLS, program, shells

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHIM = ROOT / "sbatch-wrapper" / "shim"
NAMES = ("tool", "other", "third")
ODD = ["", " ", "a  b", "'", '"', "\\", "*", "$HOME", "a\nb", "\n", "--", "-c", "a=b", "\udcff", "ä", "!"]


class Site:
    """A directory of links before the real commands, and an image for them."""

    def __init__(self, folder: Path, tasks: Tasks) -> None:
        self.folder, self.links, self.tools = folder, folder / "links", folder / "tools"
        self.links.mkdir()
        for name in NAMES:
            (self.links / name).symlink_to(SHIM)
        self.image = folder / "a.sqsh"
        self.image.write_bytes(image(10_000))
        self.lines(f"tool {self.image}", f"* {self.image}")
        program(self.tools / "stage-image", f'exec {" ".join(COMMAND)} "$@"')
        program(self.tools / "tool", 'printf \'%s\\0\' "$STAGE_IMAGE_PATH" "$PATH" "$@"')
        path = f"{self.links}:{self.tools}:{TOOLS}"
        self.environ = tasks.environ({"PATH": path, "STAGE_IMAGE_RUNTIME": "none", "STAGE_IMAGE_MOUNT": "none"})

    def lines(self, *lines: str) -> None:
        (self.links / "shims.conf").write_text("\n".join((*lines, "")))

    def call(
        self, shell: str, *words: str, name: str = "tool", stdin: bytes = b"", **env: str
    ) -> subprocess.CompletedProcess[bytes]:
        first, *others = shells()[shell]
        return subprocess.run(
            [str(shutil.which(first)), *others, str(self.links / name), *words],
            input=stdin,
            env=self.environ | env,
            cwd=self.folder,
            capture_output=True,
            timeout=40,
            check=False,
        )


@pytest.fixture
def site(tmp_path: Path, store_path: Path) -> Iterator[Site]:
    with Tasks(tmp_path, STAGE_IMAGE_STORE=str(store_path)) as tasks:
        yield Site(tmp_path, tasks)


@pytest.mark.parametrize("shell", shells())
def test_it_runs_in_the_image_with_its_words(site: Site, shell: str, store_path: Path) -> None:
    done = site.call(shell, *ODD)
    assert done.returncode == 0, done.stderr
    path, found, *words = os.fsdecode(done.stdout).split("\0")[:-1]
    assert path.startswith(str(store_path))
    assert found == f"{site.tools}:{TOOLS}"
    assert words == ODD


@pytest.mark.parametrize("shell", shells())
def test_streams_and_exit_code_are_its_own(site: Site, shell: str) -> None:
    program(site.tools / "tool", 'cat; echo "to stderr" >&2; exit 42')
    content = bytes(range(256)) * 100
    done = site.call(shell, stdin=content)
    assert (done.returncode, done.stdout) == (42, content)
    assert done.stderr.endswith(b"to stderr\n")


@pytest.mark.parametrize("shell", shells())
def test_a_signal_is_its_own(site: Site, shell: str) -> None:
    program(site.tools / "tool", "kill -TERM $$")
    assert site.call(shell).returncode == -signal.SIGTERM


@pytest.mark.parametrize("shell", shells())
@pytest.mark.parametrize(
    ("lines", "image"),
    [
        (["# comment", "", "tool {a}"], "a"),
        (["* {b}", "tool {a}"], "a"),
        (["  tool   {a}  "], "a"),
        (["tool {a}", "tool {b}"], "a"),
        (["toolbox {b}", "* {a}", "* {b}"], "a"),
        (["tool\t{a}"], "a"),
    ],
)
def test_which_line_counts(site: Site, shell: str, lines: list[str], image: str) -> None:
    program(site.tools / "stage-image", 'printf "%s\\n" "$@"')
    names = {"a": "/images/a", "b": "https://host/b"}
    site.lines(*(line.format(**names) for line in lines))
    done = site.call(shell, "x")
    assert done.stdout.decode().splitlines() == ["exec", names[image], "--", "tool", "x"]


@pytest.mark.parametrize("shell", shells())
def test_the_last_line_needs_no_end(site: Site, shell: str) -> None:
    program(site.tools / "stage-image", 'printf "%s\\n" "$@"')
    (site.links / "shims.conf").write_text("tool /images/a")
    assert site.call(shell).stdout.decode().splitlines()[1] == "/images/a"


@pytest.mark.parametrize("shell", shells())
def test_a_name_in_no_line(site: Site, shell: str) -> None:
    site.lines("other /images/a", "#* /images/a", "tool")
    done = site.call(shell)
    assert (done.returncode, done.stdout) == (127, b"")
    assert b"no line for tool" in done.stderr


@pytest.mark.parametrize("shell", shells())
def test_no_list(site: Site, shell: str) -> None:
    (site.links / "shims.conf").unlink()
    done = site.call(shell)
    assert (done.returncode, b"shims.conf cannot be read" in done.stderr) == (127, True)


@pytest.mark.parametrize("shell", shells())
def test_a_relative_path_is_refused(site: Site, shell: str) -> None:
    for reference in ("a.sqsh", "oci:a", "docker:a", "ftp://h/x"):
        site.lines(f"tool {reference}")
        assert site.call(shell).returncode == 64


@pytest.mark.parametrize("shell", shells())
def test_images_of_registries_and_layouts(site: Site, shell: str) -> None:
    program(site.tools / "stage-image", 'printf "%s\\n" "$2"')
    for reference in ("docker://ubuntu:24.04", "oras://h.x/a", "library://e/c/x", "oci:/a:b", "docker-archive:/a.tar"):
        site.lines(f"tool {reference}")
        assert site.call(shell).stdout.decode() == f"{reference}\n"


@pytest.mark.parametrize("shell", shells())
def test_without_stage_image(site: Site, shell: str) -> None:
    done = site.call(shell, PATH=str(site.links))
    assert (done.returncode, b"not on the PATH" in done.stderr) == (127, True)


@pytest.mark.parametrize("shell", shells())
def test_it_never_finds_itself_again(site: Site, shell: str) -> None:
    # However often, and by whatever name, the directory is on the PATH.
    (site.folder / "again").symlink_to(site.links)
    path = f"{site.links}:{site.folder}/again:links:{site.links}/.:{site.tools}::{TOOLS}"
    program(site.tools / "stage-image", 'echo >>"$CALLS"', f'exec {" ".join(COMMAND)} "$@"')
    calls = site.folder / "calls"
    done = site.call(shell, "x", PATH=path, CALLS=str(calls))
    assert calls.read_text() == "\n"
    assert os.fsdecode(done.stdout).split("\0")[1:3] == [f"{site.tools}::{TOOLS}", "x"], done.stderr
    gone = site.call(shell, name="third", PATH=path, CALLS=str(calls))
    assert (gone.returncode, b"not found" in gone.stderr) == (127, True)


@pytest.mark.parametrize("shell", shells())
def test_the_current_directory_may_be_that_of_the_links(site: Site, shell: str) -> None:
    command = [str(shutil.which(shells()[shell][0])), *shells()[shell][1:], "tool", "x"]
    environ = site.environ | {"PATH": f".:{site.tools}:{TOOLS}"}
    done = subprocess.run(command, env=environ, cwd=site.links, capture_output=True, timeout=40, check=False)
    assert os.fsdecode(done.stdout).split("\0")[1:3] == [f"{site.tools}:{TOOLS}", "x"], done.stderr


def test_it_is_found_like_any_command(site: Site) -> None:
    done = subprocess.run(["tool", "x"], env=site.environ, capture_output=True, timeout=40, check=False)
    assert done.stdout.endswith(b"\0x\0"), done.stderr


def test_the_how_to(site: Site) -> None:
    text = (ROOT / "docs" / "how-to" / "command-shims.md").read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    image = f"file://{site.image}"
    script = "\n".join(("set -e", *blocks[:3])).replace("/opt/stage-image/share/stage-image/shim", str(SHIM))
    script = script.replace("https://images.example.org/r.sif", image)
    program(site.tools / "Rscript", 'printf "%s|" "$STAGE_IMAGE_DIGEST" "$@"')
    environ = site.environ | {"HOME": str(site.folder)}
    done = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, timeout=40, check=False)
    assert done.returncode == 0, done.stderr
    resolved, said = done.stdout.decode().splitlines()
    assert resolved.startswith(f"{site.image}@sha256:")
    assert said == f"{resolved.partition('@')[2]}|-e|cat(R.version.string)|"


@pytest.mark.parametrize("shell", shells())
def test_the_messages_of_the_how_to(site: Site, shell: str) -> None:
    text = (ROOT / "docs" / "how-to" / "command-shims.md").read_text("utf-8")
    rows = re.findall(r"^\| `(?:… )?([^`]*?)` \((\d+)\)", text, re.MULTILINE)
    site.lines("other x", "third /nope")
    said = {
        (site.call(shell, name=name).returncode, name): site.call(shell, name=name).stderr.decode() for name in NAMES
    }
    assert len(rows) == 5
    assert rows[0][0].replace("python", "tool") in said[127, "tool"]
    assert rows[2][0] in said[64, "other"]
