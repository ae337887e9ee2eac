from __future__ import annotations

import os

import pytest

from stager import mountinfo

TABLE = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
22 21 0:5 / /proc rw,nosuid - proc proc rw
30 21 0:30 /export/home /home rw shared:2 master:1 propagate_from:1 - nfs4 server:/export rw,vers=4.2
31 21 8:2 /a\040b /mnt/with\040blank\011tab ro - xfs /dev/mapper/vg-a\134b rw
32 21 0:31 / /mnt/nameless rw - tmpfs  rw,size=4k
33 21 0:32 / /cvmfs/a.cern.ch ro,nodev - fuse cvmfs2 ro,user_id=0
"""


def the(mountpoint: str, table: str = TABLE) -> mountinfo.Mount:
    found = mountinfo.at(mountinfo.parse(table), mountpoint)
    assert found is not None
    return found


def test_fields_have_their_names() -> None:
    home = the("/home")
    assert (home.id, home.parent, home.device, home.root) == (30, 21, "0:30", "/export/home")
    assert (home.fstype, home.source) == ("nfs4", "server:/export")
    assert home.options == ["rw"]
    assert home.super_options == ["rw", "vers=4.2"]


def test_escapes_are_resolved() -> None:
    odd = the("/mnt/with blank\ttab")
    assert (odd.root, odd.source) == ("/a b", "/dev/mapper/vg-a\\b")


def test_a_source_may_be_empty() -> None:
    nameless = the("/mnt/nameless")
    assert (nameless.fstype, nameless.source, nameless.super_options) == ("tmpfs", "", ["rw", "size=4k"])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "21 1 8:1 / / rw,relatime shared:1",
        "21 1 8:1 / / rw - ext4",
        "x 1 8:1 / / rw - ext4 /dev/sda1 rw",
        "21 1 8:1 / - ext4 /dev/sda1 rw",
    ],
)
def test_what_is_no_mount_is_passed_over(line: str) -> None:
    assert mountinfo.parse(f"{line}\n22 21 0:5 / /proc rw - proc proc rw\n")[-1].mountpoint == "/proc"
    assert len(mountinfo.parse(line)) == 0


@pytest.mark.parametrize(
    ("path", "mountpoint"),
    [
        ("/", "/"),
        ("/home", "/home"),
        ("/home/user/x", "/home"),
        ("/homes", "/"),
        ("/mnt/with blank\ttab/x", "/mnt/with blank\ttab"),
        ("/cvmfs", "/"),
    ],
)
def test_a_path_lies_on_the_mount_above_it(path: str, mountpoint: str) -> None:
    found = mountinfo.covering(mountinfo.parse(TABLE), path)
    assert found is not None
    assert found.mountpoint == mountpoint


def test_the_last_of_two_on_one_mountpoint_covers() -> None:
    table = TABLE + "40 30 0:40 / /home rw - tmpfs later rw\n"
    assert the("/home", table).source == "later"
    twins = TABLE + "40 21 0:40 / /srv rw - tmpfs first rw\n41 21 0:41 / /srv rw - tmpfs second rw\n"
    assert the("/srv", twins).source == "second"


def test_a_mount_on_a_parent_hides_what_was_mounted_below() -> None:
    table = TABLE + "40 21 0:40 / /mnt rw - tmpfs above rw\n"
    found = mountinfo.covering(mountinfo.parse(table), "/mnt/nameless/file")
    assert found is not None
    assert found.source == "above"
    assert mountinfo.at(mountinfo.parse(table), "/mnt/nameless") is None


def test_a_chroot_into_a_plain_directory_shows_no_root() -> None:
    table = mountinfo.parse("22 21 0:5 / /proc rw - proc proc rw\n23 22 0:6 / /proc/fs rw - nfsd nfsd rw\n")
    assert mountinfo.covering(table, "/etc") is None
    found = mountinfo.covering(table, "/proc/fs/x")
    assert found is not None
    assert found.fstype == "nfsd"


def test_a_mount_that_is_its_own_parent_ends_the_walk() -> None:
    table = mountinfo.parse("1 1 0:1 / / rw - rootfs rootfs rw\n2 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    found = mountinfo.covering(table, "/x")
    assert found is not None
    assert found.fstype == "ext4"


@pytest.mark.parametrize(
    ("mountpoint", "path", "inside"),
    [
        ("/", "/", "/"),
        ("/", "/x/y", "/x/y"),
        ("/home", "/home", "/export/home"),
        ("/home", "/home/x", "/export/home/x"),
        ("/proc", "/proc/1", "/1"),
    ],
)
def test_where_a_path_is_inside_the_file_system(mountpoint: str, path: str, inside: str) -> None:
    assert the(mountpoint).inside(path) == inside


def test_our_own_table_has_a_root() -> None:
    root = mountinfo.at(mountinfo.read(), "/")
    assert root is not None
    assert root.id == mountinfo.at(mountinfo.read(os.getpid()), "/").id  # type: ignore[union-attr]


def test_a_process_that_is_not_there() -> None:
    with pytest.raises(OSError, match="No such"):
        mountinfo.read(2**22 + 1)  # above the largest pid_max of Linux


def test_a_mount_can_be_printed() -> None:
    assert repr(the("/proc")) == "<proc 'proc' 0:5:'/' on '/proc'>"
