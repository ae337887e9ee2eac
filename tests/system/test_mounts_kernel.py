"""Mounts by the kernel: what is read, how it is held in memory, what is left when it goes wrong."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stager import mounts
from stager.errors import InUse, MountFailed, MountUnavailable
from stager.interfaces import ImageInfo, MountReport, Partition
from stager.mounts import linux
from stager.mounts.erofs import ErofsMounter
from stager.mounts.loop import LoopMounter
from tests.support import image_factory as factory
from tests.support import mounting
from tests.support.leftovers import Traces
from tests.support.mounting import (
    apart,
    cached,
    content,
    described,
    forget,
    held_twice,
    on_disk,
    padded,
    shows,
    size_for,
)

if TYPE_CHECKING:
    from pathlib import Path

    from stager.interfaces import Mounter

pytestmark = [pytest.mark.needs("loop"), pytest.mark.usefixtures("leaves_nothing")]
needs_squashfs = pytest.mark.needs("mksquashfs")
needs_erofs = pytest.mark.needs("erofs", "mkfs.erofs")


@needs_squashfs
@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd", "lz4", "lzo"])
def test_squashfs(tmp_path: Path, tree: Path, mountpoint: Path, compression: str) -> None:
    image = factory.squashfs(tmp_path / "x.sqsh", tree, compression)
    assert shows(LoopMounter(), image, mountpoint) == content(tree)


@pytest.mark.needs("mksquashfs", "siftool")
def test_a_sif_at_its_offset(tmp_path: Path, tree: Path, mountpoint: Path) -> None:
    image = factory.sif(tmp_path / "x.sif", factory.squashfs(tmp_path / "x.sqsh", tree))
    assert described(image).root.offset > 0
    assert shows(LoopMounter(), image, mountpoint) == content(tree)


@needs_erofs
@pytest.mark.parametrize("way", [LoopMounter(), ErofsMounter()], ids=["loop", "file"])
@pytest.mark.parametrize("options", [(), ("-zlz4",)], ids=["plain", "lz4"])
def test_erofs(tmp_path: Path, tree: Path, mountpoint: Path, way: Mounter, options: tuple[str, ...]) -> None:
    image = factory.erofs(tmp_path / "x.erofs", tree, *options)
    assert shows(way, image, mountpoint) == content(tree)


@needs_erofs
@pytest.mark.parametrize("way", [LoopMounter(), ErofsMounter()], ids=["loop", "file"])
def test_erofs_in_a_sif(tmp_path: Path, tree: Path, mountpoint: Path, way: Mounter) -> None:
    inner = factory.erofs(tmp_path / "x.erofs", tree).read_bytes()
    image = padded(tmp_path / "x.sif", factory.minimal_sif(inner))
    assert described(image).root.kind == "erofs"
    assert shows(way, image, mountpoint) == content(tree)


@needs_erofs
def test_erofs_from_a_file_takes_no_loop_device(tmp_path: Path, tree: Path, mountpoint: Path) -> None:
    image = factory.erofs(tmp_path / "x.erofs", tree)
    report = ErofsMounter().mount(str(image), described(image), str(mountpoint))
    try:
        assert report.device == ""
        assert Traces("none", (str(tmp_path),)).loops() == {}
    finally:
        ErofsMounter().unmount(str(mountpoint))


@needs_squashfs
@pytest.mark.parametrize("name", ["with blank", "a,b", "a\\b", "line\nbreak", "\udcff"])
def test_odd_names(tmp_path: Path, tree: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    point = folder / "mountpoint"
    point.mkdir()
    assert shows(LoopMounter(), factory.squashfs(folder / "x.sqsh", tree), point) == content(tree)


@needs_squashfs
def test_a_mountpoint_behind_a_link(tmp_path: Path, tree: Path, mountpoint: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    image = factory.squashfs(tmp_path / "x.sqsh", tree)
    assert shows(LoopMounter(), image, tmp_path / "link" / mountpoint.name) == content(tree)


@needs_squashfs
def test_direct_io_keeps_the_file_out_of_memory(tmp_path: Path, tree: Path, mountpoint: Path) -> None:
    on_disk(tmp_path)
    image = factory.squashfs(tmp_path / "x.sqsh", tree)
    assert held_twice(image, LoopMounter(), mountpoint) == 0


@needs_erofs
def test_direct_io_on_erofs_files(tmp_path: Path, tree: Path, mountpoint: Path) -> None:
    on_disk(tmp_path)
    image = factory.erofs(tmp_path / "x.erofs", tree)
    # Its metadata are read through the page cache of the file, with directio, too.
    assert held_twice(image, ErofsMounter(), mountpoint) < 0.05


@needs_squashfs
def test_without_direct_io_the_file_is_held_twice(tmp_path: Path, tree: Path) -> None:
    on_disk(tmp_path)
    image = factory.squashfs(tmp_path / "x.sqsh", tree)
    forget(image)
    image.read_bytes()
    assert cached(image) == 1, "what the two tests above rely on"


@needs_squashfs
@needs_erofs
@pytest.mark.parametrize("memory", ["tmpfs", "ramfs"])
def test_a_store_in_memory(tmp_path: Path, tree: Path, mountpoint: Path, memory: str) -> None:
    """Linux < 6.6 has no direct I/O on tmpfs, and no Linux has it on ramfs: it works without, and says so."""
    (tmp_path / "memory").mkdir()
    refused: list[str] = []

    def run() -> tuple[list[MountReport], list[str]]:
        mounting.mount_new(memory, tmp_path / "memory")
        squashfs = factory.squashfs(tmp_path / "memory" / "x.sqsh", tree)
        erofs = factory.erofs(tmp_path / "memory" / "x.erofs", tree)
        return [mounted_and_read(image) for image in (squashfs, erofs)], refused

    def mounted_and_read(image: Path) -> MountReport:
        for way in mounts.order("loop", described(image)):
            try:
                report = way.mount(str(image), described(image), str(mountpoint))
            except MountUnavailable:
                refused.append(way.kind)
                continue
            assert content(mountpoint) == content(tree)
            way.unmount(str(mountpoint))
            return report
        pytest.fail(f"no way to mount {image}")

    reports, ways = apart(run)
    assert ways == (["erofs"] if memory == "tmpfs" else []), "EROFS takes no files of tmpfs, which a loop device does"
    for report in reports:
        assert report.direct_io is (report.note == "")
        assert not report.direct_io or memory == "tmpfs"
        assert report.direct_io or "no direct I/O" in report.note


@needs_squashfs
def test_an_image_that_is_not_padded(tmp_path: Path, tree: Path, mountpoint: Path) -> None:
    image = factory.squashfs(tmp_path / "x.sqsh", tree, "gzip", "-nopad")
    os.truncate(image, size_for(image, 512, never=1024))
    with pytest.raises(MountUnavailable, match="not padded to 1024 bytes") as caught:
        LoopMounter().mount(str(image), described(image), str(mountpoint))
    assert "-nopad" in caught.value.hint


@pytest.mark.needs("mksquashfs", "siftool")
def test_a_partition_that_is_not_padded_but_followed_by_something(tmp_path: Path, tree: Path, mountpoint: Path) -> None:
    inner = factory.squashfs(tmp_path / "x.sqsh", tree, "gzip", "-nopad")
    image = factory.sif(tmp_path / "x.sif", inner)
    with image.open("ab") as file:
        file.write(b"signature" * 1000)
    assert shows(LoopMounter(), image, mountpoint) == content(tree)


def broken(path: Path, offset: int, value: bytes) -> Path:
    """A squashfs with other bytes in its superblock."""
    image = factory.minimal_squashfs()
    return padded(path, image[:offset] + value + image[offset + len(value) :])


def squashfs_info(image: Path, compression: str = "gzip") -> ImageInfo:
    size = image.stat().st_size
    return ImageInfo("squashfs", size, compression, Partition(0, size, "squashfs", primary=True))


def test_what_the_kernel_refuses_leaves_no_device(tmp_path: Path, mountpoint: Path) -> None:
    image = broken(tmp_path / "x.sqsh", 40, b"\xff\xff\xff\x7f")  # promises more bytes than there are
    with pytest.raises(MountFailed, match="the kernel refuses the squashfs: Invalid argument") as caught:
        LoopMounter().mount(str(image), squashfs_info(image), str(mountpoint))
    assert "dmesg" in caught.value.hint
    assert Traces("none", (str(tmp_path),)).after_grace() == []


def test_a_compression_that_the_kernel_lacks_closes_this_way_only(tmp_path: Path, mountpoint: Path) -> None:
    image = broken(tmp_path / "x.sqsh", 20, b"\2\0")  # LZMA: no released kernel has it
    with pytest.raises(MountUnavailable, match="built without lzma"):
        LoopMounter().mount(str(image), squashfs_info(image, "lzma"), str(mountpoint))


@pytest.mark.needs("erofs")
def test_a_broken_erofs_is_left_to_the_loop_device_to_judge(tmp_path: Path, mountpoint: Path) -> None:
    image = padded(tmp_path / "x.erofs", factory.minimal_erofs())
    info = described(image)
    with image.open("r+b") as file:
        file.seek(1024)
        file.write(b"\0\0\0\0")
    with pytest.raises(MountUnavailable, match="does not mount EROFS from this file"):
        ErofsMounter().mount(str(image), info, str(mountpoint))
    with pytest.raises(MountFailed, match="the kernel refuses the erofs"):
        LoopMounter().mount(str(image), info, str(mountpoint))


def test_unmounting_what_is_not_mounted(tmp_path: Path, mountpoint: Path) -> None:
    for way in (LoopMounter(), ErofsMounter()):
        way.unmount(str(mountpoint))
        way.unmount(str(mountpoint), lazy=True)
        way.unmount(str(tmp_path / "nowhere" / "at all"))


def test_all_that_is_stacked_goes(tmp_path: Path, mountpoint: Path) -> None:
    image = padded(tmp_path / "x.sqsh", factory.minimal_squashfs())
    for _ in range(3):
        LoopMounter().mount(str(image), described(image), str(mountpoint))
    LoopMounter().unmount(str(mountpoint))
    assert linux.mounted(str(mountpoint)) is None


@needs_squashfs
def test_busy(tmp_path: Path, tree: Path, mountpoint: Path) -> None:
    image = factory.squashfs(tmp_path / "x.sqsh", tree)
    way = LoopMounter()
    way.mount(str(image), described(image), str(mountpoint))
    with (mountpoint / "text").open("rb") as file:
        with pytest.raises(InUse, match="while programs use it"):
            way.unmount(str(mountpoint))
        assert linux.mounted(str(mountpoint)) is not None
        way.unmount(str(mountpoint), lazy=True)
        assert linux.mounted(str(mountpoint)) is None
        assert file.read() == (tree / "text").read_bytes(), "who has it open may go on"
