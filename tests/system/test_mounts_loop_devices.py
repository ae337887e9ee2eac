"""Loop devices: none to be had, old kernels, large sectors."""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stager import mounts
from stager.errors import MountFailed, MountUnavailable
from stager.mounts import device, linux, loop
from stager.mounts.device import LoopDevice, Stretch, attach
from stager.mounts.loop import LoopMounter
from tests.support import image_factory as factory
from tests.support import mounting
from tests.support.fake_clock import FakeClock
from tests.support.leftovers import Traces
from tests.support.mounting import (
    apart,
    content,
    described,
    held_twice,
    on_disk,
    padded,
    shows,
    size_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


pytestmark = [pytest.mark.needs("loop"), pytest.mark.usefixtures("leaves_nothing")]
needs_squashfs = pytest.mark.needs("mksquashfs")
needs_erofs = pytest.mark.needs("erofs", "mkfs.erofs")


def empty_dev() -> None:
    """A /dev such as containers have, with nothing but the way to ask for loop devices."""
    control = os.stat("/dev/loop-control")
    mounting.mount_new("tmpfs", Path("/dev"))
    os.mknod("/dev/loop-control", control.st_mode, control.st_rdev)


def refused(tmp_path: Path, mountpoint: Path) -> Callable[[], str]:
    image = padded(tmp_path / "x.sqsh", factory.minimal_squashfs())

    def run() -> str:
        with pytest.raises(MountUnavailable) as caught:
            LoopMounter(FakeClock()).mount(str(image), described(image), str(mountpoint))
        return caught.value.message

    return run


def test_sixteen_at_once(tmp_path: Path) -> None:
    for number in range(16):
        padded(tmp_path / f"{number}.sqsh", factory.minimal_squashfs(bytes([number]) * 100))
        (tmp_path / f"on{number}").mkdir()

    def mount(number: int) -> None:
        image = tmp_path / f"{number}.sqsh"
        report = LoopMounter().mount(str(image), described(image), str(tmp_path / f"on{number}"))
        backing = Path(f"/sys/block/{Path(report.device).name}/loop/backing_file").read_text().strip()
        assert backing == str(image)

    try:
        assert mounting.together(16, mount) == []
        assert len(Traces("none", (str(tmp_path),)).loops()) == 16
    finally:
        for number in range(16):
            LoopMounter().unmount(str(tmp_path / f"on{number}"))


def test_a_container_without_nodes_for_loop_devices(tmp_path: Path, mountpoint: Path) -> None:
    why = apart(refused(tmp_path, mountpoint), prepare=empty_dev)
    assert why.startswith("no loop device is to be had: /dev/loop")
    assert why.endswith(": No such file or directory")


def test_a_container_without_loop_control(tmp_path: Path, mountpoint: Path) -> None:
    def prepare() -> None:
        mounting.mount_new("tmpfs", Path("/dev"))

    image = padded(tmp_path / "x.sqsh", factory.minimal_squashfs())
    assert apart(lambda: LoopMounter().obstacle(described(image)), prepare=prepare) == "there is no /dev/loop-control"
    assert "/dev/loop-control" in apart(refused(tmp_path, mountpoint), prepare=prepare)


def test_others_who_are_always_quicker(tmp_path: Path, mountpoint: Path) -> None:
    image = padded(tmp_path / "taken.sqsh", factory.minimal_squashfs())
    with image.open("rb") as file:
        taken = attach(file.fileno(), Stretch(0, 4096, str(image)), FakeClock())
    number = os.stat(taken.path).st_rdev

    def every_device_is_taken() -> None:
        empty_dev()
        for name in range(256):
            os.mknod(f"/dev/loop{name}", 0o60600, number)

    clock = FakeClock()

    def run() -> tuple[str, int, float]:
        with pytest.raises(MountUnavailable) as caught:
            LoopMounter(clock).mount(str(image), described(image), str(mountpoint))
        return caught.value.message, len(clock.sleeps), sum(clock.sleeps)

    try:
        message, sleeps, waited = apart(run, prepare=every_device_is_taken)
    finally:
        taken.close()
    assert message == f"no loop device could be had in {device.ATTEMPTS} attempts"
    assert sleeps == device.ATTEMPTS
    assert waited < device.ATTEMPTS * device.LONGEST_PAUSE


@pytest.mark.needs("user-switch")
def test_ordinary_users_are_told_at_once(public_path: Path) -> None:
    image = padded(public_path / "x.sqsh", factory.minimal_squashfs())
    info = described(image)

    def run() -> tuple[str, str, list[str]]:
        with image.open("rb") as file, pytest.raises(MountUnavailable) as caught:
            attach(file.fileno(), Stretch(0, 4096, "x"), FakeClock())
        return LoopMounter().obstacle(info), caught.value.message, [way.kind for way in mounts.order("auto", info)]

    obstacle, why, ways = apart(run, user=mounting.NOBODY)
    assert obstacle == "loop devices need root"
    assert why == "no loop device is to be had: /dev/loop-control: Permission denied"
    assert ways == ["fuse"]


def test_sectors_stay_small_where_that_does(tmp_path: Path) -> None:
    on_disk(tmp_path)
    image = padded(tmp_path / "x.sqsh", factory.minimal_squashfs())
    with image.open("rb") as file:
        taken = attach(file.fileno(), Stretch(0, 4096, str(image)), FakeClock())
        try:
            sectors = Path(f"/sys/block/{Path(taken.path).name}/queue/logical_block_size").read_text()
            assert taken.direct_io
        finally:
            taken.close()
    assert int(sectors) == loop.sector_size(os.stat(image).st_dev)


@needs_squashfs
def test_a_kernel_that_reads_squashfs_by_4_kib(
    tmp_path: Path, tree: Path, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a one (CONFIG_SQUASHFS_4K_DEVBLK_SIZE) fails behind the last whole 4 KiB."""

    def fail(*args: str, data: str = "") -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(linux, "mount", fail)
    image = factory.squashfs(tmp_path / "x.sqsh", tree)
    with pytest.raises(MountFailed, match="the kernel refuses the squashfs: Input/output error"):
        LoopMounter().mount(str(image), described(image), str(mountpoint))
    os.truncate(image, image.stat().st_size + 1024)
    with pytest.raises(MountUnavailable, match="not padded to 4096 bytes"):
        LoopMounter().mount(str(image), described(image), str(mountpoint))


UNKNOWN = 0x4CFE
"""An ioctl that no kernel knows: refused as LOOP_CONFIGURE is by one before 5.8."""


@needs_squashfs
def test_kernels_without_loop_configure(
    tmp_path: Path, tree: Path, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk(tmp_path)
    image = factory.sif(tmp_path / "x.sif", factory.squashfs(tmp_path / "x.sqsh", tree))
    monkeypatch.setattr(device, "CONFIGURE", UNKNOWN)
    assert held_twice(image, LoopMounter(), mountpoint) == 0
    assert shows(LoopMounter(), image, mountpoint) == content(tree)


@needs_squashfs
def test_kernels_with_loop_configure_need_one_step(
    tmp_path: Path, tree: Path, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = factory.squashfs(tmp_path / "x.sqsh", tree)
    monkeypatch.delattr(LoopDevice, "configure_in_steps")
    assert shows(LoopMounter(), image, mountpoint) == content(tree)


def test_a_device_that_cannot_be_set_up_in_steps_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "CONFIGURE", UNKNOWN)
    monkeypatch.setattr(device, "SET_STATUS64", UNKNOWN)
    image = padded(tmp_path / "x.sqsh", factory.minimal_squashfs())
    with image.open("rb") as file, pytest.raises(MountUnavailable, match="the loop device cannot be set up: "):
        attach(file.fileno(), Stretch(0, 4096, str(image)), FakeClock())


def test_dirty_pages_are_a_reason_to_write_and_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = padded(tmp_path / "x.sqsh", factory.minimal_squashfs())
    events: list[str] = []
    configure, fsync = LoopDevice.configure, os.fsync

    def reluctant(self: LoopDevice, backing: int, part: Stretch) -> None:
        events.append("configure")
        if len(events) == 1:
            raise OSError(errno.EAGAIN, "dirty")
        configure(self, backing, part)

    def counted(fd: int) -> None:
        events.append("fsync")
        fsync(fd)

    monkeypatch.setattr(LoopDevice, "configure", reluctant)
    monkeypatch.setattr(os, "fsync", counted)
    with image.open("rb") as file:
        attach(file.fileno(), Stretch(0, 4096, str(image)), FakeClock()).close()
    assert events == ["configure", "fsync", "configure"]


@pytest.fixture
def disk_of_4k_sectors(tmp_path: Path) -> Iterator[Path]:
    """An ext4 on a disk that takes no smaller reads than 4 KiB."""
    (tmp_path / "disk").write_bytes(b"")
    os.truncate(tmp_path / "disk", 32 << 20)
    made = subprocess.run(
        ["losetup", "--find", "--show", "--sector-size", "4096", str(tmp_path / "disk")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    name = made.stdout.strip()
    folder = tmp_path / "4k"
    folder.mkdir()
    try:
        subprocess.run(["mkfs.ext4", "-q", name], check=True)
        subprocess.run(["mount", name, str(folder)], check=True)
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", name], check=True)


@needs_squashfs
def test_direct_io_on_a_4k_disk(tree: Path, mountpoint: Path, disk_of_4k_sectors: Path) -> None:
    image = factory.squashfs(disk_of_4k_sectors / "x.sqsh", tree)
    assert held_twice(image, LoopMounter(), mountpoint) == 0
    assert shows(LoopMounter(), image, mountpoint) == content(tree)


@needs_squashfs
def test_an_image_of_odd_size_on_a_4k_disk(tree: Path, mountpoint: Path, disk_of_4k_sectors: Path) -> None:
    image = factory.squashfs(disk_of_4k_sectors / "x.sqsh", tree, "gzip", "-nopad")
    size = size_for(image, 1024, never=4096)
    os.truncate(image, size)
    report = LoopMounter().mount(str(image), described(image), str(mountpoint))
    try:
        assert content(mountpoint) == content(tree), "direct I/O would have cut off the tail"
    finally:
        LoopMounter().unmount(str(mountpoint))
    assert not report.direct_io
    assert f"the partition's size {size} is no multiple of the disk's sectors of 4096 bytes" in report.note


@needs_squashfs
def test_larger_sectors_are_tried_where_the_kernel_does_not_choose_them(tree: Path, disk_of_4k_sectors: Path) -> None:
    image = factory.squashfs(disk_of_4k_sectors / "x.sqsh", tree)
    os.truncate(image, image.stat().st_size + 512)
    part = Stretch(0, image.stat().st_size, str(image))
    with image.open("rb") as file:
        assert loop.takes_direct_io(file.fileno())
        taken = attach(file.fileno(), part, FakeClock())
        try:
            assert not taken.direct_io
            taken.prefer_direct_io(replace(part, size=part.size - 512))
            assert taken.direct_io
        finally:
            taken.close()


def test_an_offset_that_no_disk_takes(tmp_path: Path) -> None:
    image = padded(tmp_path / "x", b"\0" * 8192)
    with image.open("rb") as file:
        part = Stretch(300, 4096, str(image))
        assert loop.why_buffered(file.fileno(), part) == (
            "the partition's offset 300 is no multiple of the disk's sectors of 512 bytes"
        )
        assert loop.why_buffered(file.fileno(), Stretch(0, 4096, str(image))) == "the kernel declined"
