"""Mounts and the shell wrapper: it answers for those that are there, and nobody unmounts what it answered."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stager import mountinfo, warm
from stager.store.folder import open_store
from tests.support import image_factory as factory
from tests.support.mounting import NOBODY, apart, mount_new
from tests.support.tasks import until
from tests.support.warm_scene import CLI, set_up, shells
from tests.support.warm_site import ALL, Site, a_site

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("loop", "mksquashfs")

SHELL = next(iter(shells()))
EXEC = ("exec", "--mount=loop", "--runtime=none")


@pytest.fixture
def site(tmp_path: Path, store_path: Path) -> Iterator[Site]:
    content = factory.squashfs(tmp_path / "x.sqsh", factory.small_tree(tmp_path / "tree")).read_bytes()
    with a_site(tmp_path, store_path, content) as site:
        yield site
        site.tasks.run("umount", "--all", "--force")


def asked(site: Site, *words: str, entry: str = SHELL) -> tuple[str, int]:
    """Return the mountpoint that is answered, and how often Python was started for it."""
    before = site.pythons
    answer = site.tasks.run(*words, program=site.entry(entry)).answer
    assert is_mounted(answer)
    return answer, site.pythons - before


def is_mounted(root: str) -> bool:
    return any(mount.mountpoint == root for mount in mountinfo.read())


@pytest.mark.parametrize("kind", ["loop", pytest.param("fuse", marks=pytest.mark.needs("fuse", "squashfuse_ll"))])
def test_the_first_call_mounts_and_the_next_needs_no_python(site: Site, kind: str) -> None:
    words = ("mount", f"--mount={kind}", site.reference)
    root, started = asked(site, *words)
    assert started == 1
    assert set(os.listdir(root)) == set(os.listdir(site.starts.parent / "tree"))
    for shell in shells():
        assert asked(site, *words, entry=shell) == (root, 0)


@pytest.mark.parametrize("entry", ALL)
def test_exec_on_a_mount(site: Site, entry: str) -> None:
    words = (*EXEC, site.reference, "--", "sh", "-c", 'cat "$STAGE_IMAGE_ROOT/text"')
    site.warmed(*words)
    assert site.run(entry, *words).stdout == (site.starts.parent / "tree" / "text").read_bytes()


def test_a_mount_that_root_took_away_is_made_again(site: Site) -> None:
    words = ("mount", "--mount=loop", site.reference)
    root, _ = asked(site, *words)
    subprocess.run(["umount", root], check=True)
    assert asked(site, *words) == (root, 1)
    assert asked(site, *words) == (root, 0)


def test_a_mount_that_was_released_is_made_again(site: Site) -> None:
    words = ("mount", "--mount=loop", site.reference)
    root, _ = asked(site, *words)
    assert site.tasks.run("umount", site.reference).done() == 0
    assert not is_mounted(root)
    assert asked(site, *words)[1] == 1


@pytest.mark.needs("fuse", "squashfuse_ll")
def test_a_mount_whose_server_is_dead_is_made_again(site: Site) -> None:
    words = ("mount", "--mount=fuse", site.reference)
    root, _ = asked(site, *words)
    ready = dict(line.split(" ", 1) for line in Path(root).with_name("ready").read_text().splitlines())
    os.kill(int(ready["server"]), signal.SIGKILL)
    until(lambda: not Path("/proc", ready["server"]).exists(), "the server to be gone")
    assert asked(site, *words)[1] == 1
    assert Path(root, "text").read_bytes()
    assert asked(site, *words)[1] == 0


def test_a_namespace_that_does_not_see_the_mount(site: Site) -> None:
    words = ("mount", "--mount=loop", site.reference)
    root, _ = asked(site, *words)
    script = 'umount "$1" && shift && exec "$@"'
    before = site.pythons
    task = site.tasks.run("sh", "-c", script, "sh", root, *site.entry(SHELL), *words, program=("unshare", "--mount"))
    assert site.pythons == before + 1, task.err


def test_what_a_command_runs_on_is_not_unmounted(site: Site) -> None:
    words = (*EXEC, site.reference, "--")
    site.warmed(*words, "true")
    task = site.tasks.start(*words, "sh", "-c", "echo $STAGE_IMAGE_ROOT; exec sleep 60", program=site.entry(SHELL))
    until(lambda: task.out, "the command to run")
    assert site.tasks.run("umount", "--all").done() == 79
    assert is_mounted(task.answer)
    task.kill()
    assert site.tasks.run("umount", "--all").done() == 0
    assert not is_mounted(task.answer)


@pytest.mark.needs("user-switch")
def test_the_store_of_those_who_name_none(public_path: Path) -> None:
    def by_both() -> tuple[str, str, str]:
        public_path.joinpath("work").mkdir()
        scene = set_up(public_path / "work", default=True)
        return scene.answer, scene.by_python(), scene.by_wrapper(SHELL)

    answer, by_python, by_wrapper = apart(by_both, user=NOBODY, prepare=_empty_var_tmp)
    assert answer.startswith(f"/var/tmp/stage-image-{NOBODY}/")
    assert (by_python, by_wrapper) == (answer, answer)


@pytest.mark.needs("user-switch")
def test_a_store_of_roots(public_path: Path) -> None:
    """Its images are answered from records that users keep at home, which root does not know of when it evicts."""
    scene = set_up(public_path)

    def by_both() -> list[str]:
        own = Path(open_store(warm.base({})).root)
        scene.record = own / scene.record.relative_to(public_path / "store")
        scene.leave()
        leases = Path(scene.image.leases)
        return [scene.by_wrapper(SHELL), *(path.owner() for path in leases.iterdir()), scene.by_python()]

    assert apart(by_both, user=NOBODY, prepare=_empty_var_tmp) == [scene.answer, "nobody", scene.answer]
    scene.path.with_name("image.json").rename(public_path / "hidden")
    assert apart(by_both, user=NOBODY, prepare=_empty_var_tmp) == [CLI, "nobody", CLI]


def _empty_var_tmp() -> None:
    mount_new("tmpfs", Path("/var/tmp"))
    os.chmod("/var/tmp", 0o1777)
