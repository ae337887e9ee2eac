"""A store where locks and mounts of one node mean nothing to another is refused, as is one that only one job sees."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support import mounting
from tests.support.image_factory import minimal_squashfs
from tests.support.origin import Origin
from tests.support.tasks import COMMAND, Tasks, image, published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = image()


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        server.put("/tool.sqsh", CONTENT)
        yield server


@pytest.fixture
def remote(tmp_path: Path, mountpoint: Path) -> Iterator[Path]:
    """A FUSE file system that calls itself sshfs: what the kernel then tells of it is what it tells of the real one."""
    inside = mounting.padded(tmp_path / "x.sqsh", minimal_squashfs())
    subprocess.run(["squashfuse_ll", "-o", "ro,subtype=sshfs", str(inside), str(mountpoint)], check=True, timeout=30)
    yield mountpoint
    subprocess.run(["fusermount3", "-u", str(mountpoint)], check=True)


@pytest.mark.needs("fuse", "squashfuse_ll")
class TestANetworkFileSystem:
    def test_it_is_refused_before_anything_is_written_or_asked(
        self, tmp_path: Path, remote: Path, origin: Origin
    ) -> None:
        with Tasks(tmp_path, STAGE_IMAGE_STORE=str(remote / "store")) as tasks:
            task = tasks.run(origin.url("/tool.sqsh"))
            assert (task.done(), task.out) == (75, "")
            assert f"{remote}/store is on a network file system (fuse.sshfs)" in task.err
            assert "STAGE_IMAGE_STORE" in task.err
        assert origin.requests == []

    def test_whoever_insists_is_warned(self, tmp_path: Path, remote: Path, origin: Origin) -> None:
        """This one is read-only, so that it ends there; what matters is that the file system was no reason."""
        env = {"STAGE_IMAGE_STORE": str(remote / "store"), "STAGE_IMAGE_ALLOW_UNSAFE_STORE": "true"}
        with Tasks(tmp_path, **env) as tasks:
            task = tasks.run(origin.url("/tool.sqsh"))
            assert task.done() == 75
            assert "warning: the store" in task.err
            assert "cannot be made: Read-only file system" in task.err

    def test_doctor_names_it(self, tmp_path: Path, remote: Path) -> None:
        with Tasks(tmp_path, STAGE_IMAGE_STORE=str(remote / "store")) as tasks:
            task = tasks.run("doctor")
            assert task.done() == 75
            assert "fuse.sshfs (network)" in task.out

    def test_an_image_on_it_is_staged_like_any_other(self, tmp_path: Path, store_path: Path) -> None:
        """Images may well come from there: only the store may not be there."""
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "tool.sqsh").write_bytes(CONTENT)
        outer, point = tmp_path / "outer.sqsh", tmp_path / "point"
        point.mkdir()
        subprocess.run(["mksquashfs", str(tree), str(outer), "-quiet", "-no-progress"], check=True, timeout=30)
        subprocess.run(["squashfuse_ll", "-o", "ro,subtype=sshfs", str(outer), str(point)], check=True, timeout=30)
        try:
            with Tasks(tmp_path) as tasks:
                assert tasks.run(str(point / "tool.sqsh")).answer == str(published(store_path, CONTENT))
        finally:
            subprocess.run(["fusermount3", "-u", str(point)], check=True)


@pytest.mark.needs("mount")
def test_a_private_tmp_is_refused_and_named(tmp_path: Path, origin: Origin) -> None:
    """As Slurm's job_container/tmpfs makes it: a directory of the job over /tmp, seen by the job alone."""
    private = tmp_path / "private"
    private.mkdir(mode=0o1777)
    script = f'mount --make-rprivate / && mount --bind {private} /dev/shm && exec "$@" {origin.url("/tool.sqsh")}'
    with Tasks(tmp_path, STAGE_IMAGE_STORE="/dev/shm/stage-image-test-store") as tasks:
        task = tasks.run("-c", script, "sh", *COMMAND, program=("unshare", "--mount", "sh"))
        assert (task.done(), task.out) == (75, ""), task.err
        assert "is private to this job" in task.err
    assert not list(private.iterdir())
    assert origin.requests == []


@pytest.mark.needs("mount")
def test_memory_is_no_network(tmp_path: Path, origin: Origin) -> None:
    """Diskless nodes have nothing else."""
    ram = tmp_path / "ram"
    ram.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0755", "tmpfs", str(ram)], check=True)
    try:
        with Tasks(tmp_path, STAGE_IMAGE_STORE=str(ram / "store"), STAGE_IMAGE_MIN_FREE="1MiB") as tasks:
            assert tasks.run(origin.url("/tool.sqsh")).answer == str(published(ram / "store", CONTENT))
    finally:
        subprocess.run(["umount", "--lazy", str(ram)], check=True)
