"""File systems as the kernel shows them: in memory, read-only, private, by FUSE."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stager import filesystem, mountinfo
from stager.mounts import linux
from tests.support import image_factory as factory
from tests.support import mounting
from tests.support.mounting import NOBODY, apart

pytestmark = [pytest.mark.needs("mount"), pytest.mark.usefixtures("leaves_nothing")]


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_memory(tmp_path: Path, kind: str) -> None:
    def run() -> tuple[str, bool, bool]:
        mounting.mount_new(kind, tmp_path)
        found = filesystem.inspect(str(tmp_path / "not" / "there" / "yet"))
        return found.fstype, found.ram, found.network

    assert apart(run) == (kind, True, False)


def test_read_only(tmp_path: Path) -> None:
    def run() -> tuple[bool, bool]:
        before = filesystem.inspect(str(tmp_path)).read_only
        mounting.mount_new("tmpfs", tmp_path, linux.MS_RDONLY)
        return before, filesystem.inspect(str(tmp_path)).read_only

    assert apart(run) == (False, True)


def slurm_makes_tmp_private(base: Path) -> None:
    """As job_container/tmpfs does it: a directory of the job on /tmp, a new /dev/shm."""
    folder = base / "123" / ".123"
    folder.mkdir(parents=True)
    folder.chmod(0o1777)
    mounting.bind(folder, Path("/tmp"))
    mounting.mount_new("tmpfs", Path("/dev/shm"))


@pytest.mark.needs("user-switch")
@pytest.mark.parametrize("user", [None, NOBODY], ids=["root", "user"])
def test_a_private_tmp(user: int | None) -> None:
    def why() -> list[str]:
        return [filesystem.inspect(path).private for path in ("/tmp/store", "/dev/shm/store", "/var/tmp/x", "/etc")]

    # Below /var/tmp, because pytest's own directories may lie on the very /tmp that is covered here.
    base = Path("/var/tmp") / f"stage-image-test-{os.getpid()}"
    base.mkdir(mode=0o755)
    try:
        assert apart(why, user=user) == [""] * 4
        tmp, shm, var_tmp, etc = apart(why, user=user, prepare=lambda: slurm_makes_tmp_private(base))
    finally:
        for folder in (base / "123" / ".123", base / "123", base):
            folder.rmdir()
    assert "/tmp is not the node's own here" in tmp
    assert "/123/.123" in tmp
    assert "/dev/shm is not the node's own here" in shm
    assert (var_tmp, etc) == ("", "")


def test_without_proc_of_init_nobody_knows(tmp_path: Path) -> None:
    """As with hidepid: nothing is to be seen of other processes."""
    proc = tmp_path / "proc"
    proc.mkdir()

    def hide_init() -> None:
        mounting.mount_new("tmpfs", proc)
        (proc / "1").mkdir()
        mounting.bind(proc / "1", Path("/proc/1"))
        mounting.mount_new("tmpfs", Path("/dev/shm"))

    assert apart(lambda: filesystem.inspect("/dev/shm/x").private, prepare=hide_init) == ""


@pytest.mark.needs("fuse", "squashfuse_ll")
@pytest.mark.parametrize(("subtype", "network"), [("sshfs", True), ("squashfuse_ll", False)])
def test_fuse_file_systems_are_told_apart(tmp_path: Path, mountpoint: Path, subtype: str, *, network: bool) -> None:
    import subprocess

    image = mounting.padded(tmp_path / "x.sqsh", factory.minimal_squashfs())
    command = ["squashfuse_ll", "-o", f"ro,subtype={subtype}", str(image), str(mountpoint)]
    subprocess.run(command, check=True, timeout=30)
    try:
        found = filesystem.inspect(str(mountpoint))
        assert (found.fstype, found.network) == (f"fuse.{subtype}", network)
    finally:
        linux.unmount(str(mountpoint), lazy=False)


def mount_id(path: Path) -> int:
    """What the kernel itself says of the mount that a path lies on (proc_pid_fdinfo(5))."""
    fd = os.open(path, os.O_PATH)
    try:
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
    finally:
        os.close(fd)
    return int(next(line.split()[1] for line in info.splitlines() if line.startswith("mnt_id:")))


def test_the_table_agrees_with_the_kernel(tmp_path: Path) -> None:
    def run() -> list[tuple[int, int]]:
        deep = tmp_path / "a" / "b"
        deep.mkdir(parents=True)
        mounting.mount_new("tmpfs", deep)
        (deep / "hidden").mkdir()
        mounting.mount_new("tmpfs", deep)
        mounting.mount_new("tmpfs", tmp_path / "a")  # hides both
        deep.mkdir()
        (tmp_path / "bound").mkdir()
        mounting.bind(tmp_path / "a", tmp_path / "bound")
        mounting.mount_new("tmpfs", deep)
        table = mountinfo.read()
        pairs = []
        for path in (Path("/"), Path("/proc"), Path("/dev"), tmp_path, tmp_path / "a", deep, tmp_path / "bound" / "b"):
            found = mountinfo.covering(table, str(path.resolve()))
            pairs.append((found.id if found else 0, mount_id(path)))
        return pairs

    for ours, kernels in apart(run):
        assert ours == kernels
