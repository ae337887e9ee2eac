"""Decisions, on made-up mount tables; real file systems are a system test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stager import filesystem, mountinfo

if TYPE_CHECKING:
    from pathlib import Path

NODE = """
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:22 / /dev/shm rw - tmpfs tmpfs rw
23 21 8:2 / /local rw - xfs /dev/sdb1 rw
24 21 0:40 / /scratch rw - lustre mgs@tcp:/scratch rw
"""

SLURM_TMPFS = (
    NODE
    + """
90 21 8:2 /123/.123 /tmp rw - xfs /dev/sdb1 rw
91 22 0:77 / /dev/shm rw - tmpfs tmpfs rw
"""
)
"""Inside a job of job_container/tmpfs with BasePath=/local: /tmp is bound to its own directory, /dev/shm is new."""


def why_private(path: str, job: str, node: str = NODE) -> str:
    return filesystem.privacy(path, mountinfo.parse(job), mountinfo.parse(node))


@pytest.mark.parametrize(
    ("fstype", "source"),
    [
        *((name, "x") for name in ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "fhgfs", "ceph", "cifs", "smb3", "9p")),
        *((name, "x") for name in ("afs", "virtiofs", "orangefs", "pvfs2", "glusterfs", "panfs", "wekafs", "gfs2")),
        ("fuse.sshfs", "me@host:/home"),
        ("fuse.glusterfs", "server:/volume"),
        ("fuse.ceph-fuse", "ceph-fuse"),
        ("fuse.juicefs", "JuiceFS:x"),
        ("fuse", "cvmfs2"),
        ("fuse", "mfs#master:9421"),
    ],
)
def test_file_systems_of_several_nodes(fstype: str, source: str) -> None:
    assert filesystem.is_network(fstype, source)


@pytest.mark.parametrize(
    ("fstype", "source"),
    [
        *(
            (name, "/dev/sda1")
            for name in ("ext4", "xfs", "btrfs", "tmpfs", "ramfs", "overlay", "zfs", "f2fs", "bcachefs")
        ),
        ("ext4", "nfs"),
        ("fuseblk", "/dev/sdb1"),
        ("fuse.squashfuse_ll", "/images/sshfs"),
        ("fuse.fuse-overlayfs", "fuse-overlayfs"),
        ("fuse", "/dev/fuse"),
        ("", ""),
    ],
)
def test_file_systems_of_one_node(fstype: str, source: str) -> None:
    assert not filesystem.is_network(fstype, source)


@pytest.mark.parametrize("path", ["/tmp", "/tmp/store/images", "/dev/shm", "/dev/shm/x"])
def test_what_slurm_makes_private_is_private(path: str) -> None:
    assert why_private(path, SLURM_TMPFS)


def test_the_reason_names_place_and_mount() -> None:
    assert "/tmp is not the node's own here" in why_private("/tmp/x", SLURM_TMPFS)
    assert "/dev/sdb1:/123/.123" in why_private("/tmp/x", SLURM_TMPFS)


@pytest.mark.parametrize("path", ["/var/tmp/x", "/local/x", "/home/x", "/scratch/x", "/tmpx", "/dev/shmx"])
def test_what_slurm_leaves_alone_is_public(path: str) -> None:
    assert why_private(path, SLURM_TMPFS) == ""


@pytest.mark.parametrize("path", ["/tmp/x", "/dev/shm", "/local/x"])
def test_without_a_private_namespace_nothing_is_private(path: str) -> None:
    assert why_private(path, NODE) == ""


@pytest.mark.parametrize("path", ["/tmp/x", "/dev/shm"])
def test_without_a_look_at_init_nobody_knows(path: str) -> None:
    assert why_private(path, SLURM_TMPFS, "") == ""
    assert why_private(path, "", NODE) == ""


def test_a_bind_mount_of_the_same_directory_is_public() -> None:
    container = "50 40 8:1 / / ro - squashfs /dev/loop0 ro\n51 50 8:1 /tmp /tmp rw - ext4 /dev/sda1 rw\n"
    assert why_private("/tmp/x", container) == ""
    assert why_private("/tmp/x", container.replace("/tmp /tmp", "/other /tmp"))


def test_a_private_directory_below_a_shared_one() -> None:
    job = NODE + "90 21 8:1 /tmp/slurm.7.0/_tmp /tmp rw - ext4 /dev/sda1 rw\n"
    assert why_private("/tmp/x", job), "private-tmpdir binds a directory of the same file system"


def test_other_places_may_be_asked_for() -> None:
    job = NODE + "90 24 0:40 /jobs/7 /scratch rw - lustre mgs@tcp:/scratch rw\n"
    tables = mountinfo.parse(job), mountinfo.parse(NODE)
    assert filesystem.privacy("/scratch/x", *tables) == ""
    assert filesystem.privacy("/scratch/x", *tables, places=("/scratch",))


def test_a_path_that_is_not_there_yet(tmp_path: Path) -> None:
    assert filesystem.nearest(f"{tmp_path}/a/b/c") == str(tmp_path)
    assert filesystem.nearest("/no/such/thing") == "/"
    (tmp_path / "dangling").symlink_to("/no/such/thing")
    assert filesystem.inspect(f"{tmp_path}/dangling").fstype == filesystem.inspect("/").fstype


def test_space_is_what_statvfs_says(tmp_path: Path) -> None:
    found, space = filesystem.inspect(str(tmp_path / "new")), os.statvfs(tmp_path)
    assert found.total == space.f_blocks * space.f_frsize
    # Others write to the same disk meanwhile.
    assert abs(found.available - space.f_bavail * space.f_frsize) < 1 << 30


def test_proc_is_neither_network_nor_ram() -> None:
    found = filesystem.inspect("/proc/self")
    assert (found.fstype, found.network, found.ram, found.private) == ("proc", False, False, "")
