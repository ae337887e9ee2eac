"""What `capabilities` says is what is so, and it leaves nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stager import mountinfo, mounts
from stager.mounts.capability import Capability
from tests.support import mounting
from tests.support.mounting import NOBODY, apart, on_disk, open_fuse_to_all

pytestmark = [pytest.mark.needs("loop", "fuse", "squashfuse_ll"), pytest.mark.usefixtures("leaves_nothing")]

DIRECT_IO, FROM_FILE = "direct I/O through loop devices", "EROFS without a loop device"


def found(folder: Path) -> dict[str, Capability]:
    return {each.name: each for each in mounts.capabilities(str(folder))}


def test_root_on_this_machine(tmp_path: Path) -> None:
    on_disk(tmp_path)
    before = [repr(mount) for mount in mountinfo.read()], sorted(os.listdir("/sys/block")), os.listdir(tmp_path)
    said = found(tmp_path)
    after = [repr(mount) for mount in mountinfo.read()], sorted(os.listdir("/sys/block")), os.listdir(tmp_path)
    assert before == after
    for name in ("squashfs in the kernel", "loop devices", "a free loop device", DIRECT_IO, "FUSE for this user"):
        assert said[name].ok, said[name]
    assert said["a FUSE server for squashfs"].detail.endswith("/squashfuse_ll")
    assert not [each for each in said.values() if each.ok and each.remedy], "nothing to remedy"


@pytest.mark.needs("user-switch")
def test_an_ordinary_user(public_path: Path) -> None:
    said = apart(lambda: found(public_path), user=NOBODY, prepare=open_fuse_to_all)
    assert said["FUSE for this user"].ok
    for name in ("loop devices", DIRECT_IO, FROM_FILE):
        assert not said[name].ok
    assert said["loop devices"].remedy == "mount in the job prolog, as root"


def test_a_container(tmp_path: Path) -> None:
    said = apart(lambda: found(tmp_path), prepare=lambda: mounting.mount_new("tmpfs", Path("/dev")))
    for name in ("loop devices", "a free loop device", "FUSE for this user", DIRECT_IO):
        assert not said[name].ok, name
        assert said[name].remedy


@pytest.mark.needs("erofs")
def test_memory_takes_no_direct_io(tmp_path: Path) -> None:
    """ramfs: loop devices do without direct I/O, EROFS takes its files; tmpfs: the other way round."""
    said = apart(lambda: found(tmp_path), prepare=lambda: mounting.mount_new("ramfs", tmp_path))
    assert not said[DIRECT_IO].ok
    assert said[DIRECT_IO].detail == "off: ramfs has none"
    said = apart(lambda: found(tmp_path), prepare=lambda: mounting.mount_new("tmpfs", tmp_path))
    assert not said[FROM_FILE].ok
    assert "Block device required" in said[FROM_FILE].detail


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    said = found(tmp_path / "nowhere")
    assert not said[DIRECT_IO].ok
    assert "No such file" in said[DIRECT_IO].detail
