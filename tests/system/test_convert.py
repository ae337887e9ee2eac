"""`convert` for real: layouts, archives and a registry become files, the same every time, and nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.layered_images import (
    directory,
    docker_archive,
    file,
    image,
    layer,
    oci_archive,
    oci_layout,
    symlink,
    whiteout,
)
from tests.support.registry import Registry
from tests.support.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.layered_images import BuiltImage
    from tests.support.tasks import Task

pytestmark = pytest.mark.needs("mksquashfs", "unsquashfs")

BASE = layer([directory("etc"), file("etc/motd", b"hello\n" * 5000), file("etc/gone", b"x")])
UPPER = layer([whiteout("etc/gone"), symlink("etc/issue", "motd"), file("etc/more", bytes(range(256)) * 99)])
AMD64 = image([BASE, UPPER], env=["A=b"], entrypoint=["/bin/tool"], working_dir="/w")
ARM64 = image([BASE], platform="linux/arm64")


class Site:
    """Where something is converted, with a store of its own; `out` is where results go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.out = folder / "out"
        self.out.mkdir()
        self.layout = oci_layout(folder / "layout", [AMD64, ARM64])
        self.tasks = Tasks(folder, STAGE_IMAGE_STORE=str(self.store))

    @property
    def source(self) -> str:
        return f"oci:{self.layout}"

    def convert(self, name: str, *words: str, source: str = "", **environ: str) -> Task:
        return self.tasks.run("convert", source or self.source, str(self.out / name), *words, env=environ)

    def made(self, name: str, *words: str, source: str = "", **environ: str) -> bytes:
        task = self.convert(name, *words, source=source, **environ)
        assert task.done() == 0, task.err
        assert task.answer == str(self.out / name)
        return (self.out / name).read_bytes()

    def refused(self, name: str, *words: str, source: str = "", code: int) -> str:
        """Return what was said of it; nothing is left, neither at the result nor of the work."""
        before = sorted(os.listdir(self.out))
        task = self.convert(name, *words, source=source)
        assert (task.done(), task.out) == (code, ""), task.err
        assert sorted(os.listdir(self.out)) == before
        assert self.leftovers == []
        return task.err

    @property
    def leftovers(self) -> list[str]:
        """What lies in the store's folders for work."""
        found = [*self.store.glob("partial/*"), *self.store.glob("partial/work/*")]
        return [str(path) for path in found if path != self.store / "partial" / "work"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    with made.tasks:
        yield made


def files_of(path: Path) -> set[str]:
    listed = subprocess.run(["unsquashfs", "-lc", str(path)], capture_output=True, check=True, text=True).stdout
    return {line.removeprefix("squashfs-root/") for line in listed.splitlines()} - {"squashfs-root"}


def test_the_layers_are_one_file_system_and_its_configuration_is_kept(site: Site) -> None:
    site.made("a.sqsh")
    assert files_of(site.out / "a.sqsh") >= {"etc/motd", "etc/issue", "etc/more"}
    assert "etc/gone" not in files_of(site.out / "a.sqsh")
    told = json.loads(site.tasks.run("inspect", "--json", str(site.out / "a.sqsh")).out)
    assert told["config"]["Entrypoint"] == ["/bin/tool"]
    assert told["config"]["Platform"] == "linux/amd64"
    assert (site.leftovers, list(site.store.glob("images/sha256/*/*"))) == ([], [])


def test_the_same_layers_give_the_same_bytes_wherever_they_come_from(site: Site) -> None:
    first = site.made("a.sqsh")
    assert site.made("b.sqsh", STAGE_IMAGE_STORE=str(site.folder / "other")) == first
    archive = oci_archive(site.folder / "oci.tar", [AMD64, ARM64])
    assert site.made("c.sqsh", source=f"oci-archive:{archive}") == first
    saved = docker_archive(site.folder / "docker.tar", {"tool:1": AMD64})
    assert site.made("d.sqsh", source=f"docker-archive:{saved}") == first


def test_options_change_the_bytes_and_nothing_else(site: Site) -> None:
    made = [site.made("0.sqsh")]
    for options in (("--compression=gzip",), ("--level=19",), ("--platform=linux/arm64",)):
        made.append(site.made(f"{len(made)}.sqsh", *options))
    assert len({sha256(content).digest() for content in made}) == len(made)
    assert files_of(site.out / "1.sqsh") == files_of(site.out / "2.sqsh") == files_of(site.out / "0.sqsh")
    assert "etc/gone" in files_of(site.out / "3.sqsh"), "the other platform's image has one layer"


def test_what_is_staged_is_what_is_converted(site: Site) -> None:
    content = site.made("a.sqsh")
    staged = site.tasks.run(site.source)
    assert staged.done() == 0, staged.err
    assert Path(staged.answer).read_bytes() == content


def test_the_answer_says_what_was_made(site: Site) -> None:
    task = site.convert("a.sqsh", "--json")
    told = json.loads(task.out)
    content = (site.out / "a.sqsh").read_bytes()
    assert told["path"] == str(site.out / "a.sqsh")
    assert (told["digest"], told["size"]) == (f"sha256:{sha256(content).hexdigest()}", len(content))
    assert "zstd" in told["parameters"]
    assert told["manifest"].startswith("sha256:")


def test_what_is_there_is_kept_or_replaced(site: Site) -> None:
    (site.out / "a.sqsh").write_bytes(b"old")
    assert "is there already" in site.refused("a.sqsh", code=2)
    assert (site.out / "a.sqsh").read_bytes() == b"old"
    assert site.made("a.sqsh", "--force") == site.made("b.sqsh")


def damaged(folder: Path) -> str:
    layout = oci_layout(folder / "damaged", [AMD64])
    (layout / "blobs/sha256" / BASE.digest.removeprefix("sha256:")).write_bytes(b"other" + BASE.blob[5:])
    return f"oci:{layout}"


def incomplete(folder: Path) -> str:
    layout = oci_layout(folder / "incomplete", [AMD64])
    (layout / "blobs/sha256" / UPPER.digest.removeprefix("sha256:")).unlink()
    return f"oci:{layout}"


def lying(folder: Path) -> str:
    other = image([layer(BASE.tar), layer(UPPER.tar)])
    config = json.loads(other.config)
    config["rootfs"]["diff_ids"].pop()
    manifest = json.loads(other.manifest)
    data = json.dumps(config).encode()
    digest = sha256(data).hexdigest()
    manifest["config"] |= {"digest": f"sha256:{digest}", "size": len(data)}
    built = type(other)(other.layers, data, json.dumps(manifest).encode(), other.platform)
    return f"oci:{oci_layout(folder / 'lying', [built])}"


def test_errors_have_their_exit_codes_and_leave_nothing(site: Site) -> None:
    site.refused("a", source=f"oci:{site.folder}/nowhere", code=66)
    site.refused("a", source=f"{site.source}:nope", code=66)
    site.refused("a", "--platform=linux/s390x", code=66)
    assert site.convert("a", source=damaged(site.folder)).done() == 71
    assert site.convert("a", source=incomplete(site.folder)).done() == 73
    assert site.convert("a", source=lying(site.folder)).done() == 72
    site.refused("a", source="/shared/tool.sif", code=2)
    site.refused("a", "--compression=rar", code=64)
    assert "cannot be made" in site.refused("no/such/a", code=67)
    assert (os.listdir(site.out), site.leftovers) == ([], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("point", ["pulled", "converted"])
def test_a_signal_leaves_nothing(site: Site, number: signal.Signals, point: str) -> None:
    stop = {"STAGE_IMAGE_TEST_STOP_AT": point}
    task = site.tasks.start("convert", site.source, str(site.out / "a.sqsh"), env=stop)
    task.stops()
    task.send(number)
    task.send(signal.SIGCONT)
    assert task.done() == -number, task.err
    assert (os.listdir(site.out), site.leftovers) == ([], [])
    site.made("a.sqsh")


def test_a_death_is_no_obstacle(site: Site) -> None:
    task = site.convert("a.sqsh", STAGE_IMAGE_TEST_CRASH_AT="converted")
    assert task.done() == -signal.SIGKILL
    assert os.listdir(site.out) == []
    site.made("a.sqsh")


def test_many_at_once_make_one_file(site: Site) -> None:
    tasks = site.tasks.many(4, "convert", "--force", site.source, str(site.out / "a.sqsh"))
    assert [task.done() for task in tasks] == [0] * 4, [task.err for task in tasks]
    assert os.listdir(site.out) == ["a.sqsh"]
    assert (site.out / "a.sqsh").read_bytes() == site.made("b.sqsh")


@pytest.mark.needs("docker-registry", "skopeo")
def test_a_registrys_image_is_fetched_once_and_gives_the_same_bytes(site: Site) -> None:
    built: BuiltImage = AMD64
    layout = oci_layout(site.folder / "single", [built])
    with Registry() as registry:
        registry.push_layout(layout, "latest", "lab/tool", "2")
        source = f"docker://{registry.host}/lab/tool:2"
        since = len(registry.log)
        first = site.made("a.sqsh", source=source)
        asked = registry.asked("GET", "blobs", since)
        assert site.made("b.sqsh", "--compression=gzip", source=source) != first
        layers_again = registry.asked("GET", "blobs", since) - asked
        assert layers_again <= 1, "the configuration, while the layers are kept"
        assert site.refused("c.sqsh", source=f"docker://{registry.host}/lab/tool:3", code=66)
    assert first == site.made("d.sqsh", source=f"oci:{layout}")
    assert not any(path.name.startswith(".") for path in site.out.iterdir())
