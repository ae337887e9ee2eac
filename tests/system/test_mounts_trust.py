"""Root mounts nothing that a user could have made or may change."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from stager.errors import MountFailed, MountUnavailable
from stager.mounts import linux
from stager.mounts.erofs import ErofsMounter
from stager.mounts.fuse import FuseMounter
from stager.mounts.loop import LoopMounter
from tests.support import image_factory as factory
from tests.support.mounting import NOBODY, apart, described, open_fuse_to_all, padded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stager.interfaces import Mounter

pytestmark = [
    pytest.mark.needs("loop", "erofs", "fuse", "squashfuse_ll"),
    pytest.mark.usefixtures("leaves_nothing"),
]

every_way = pytest.mark.parametrize("way", [LoopMounter(), ErofsMounter(), FuseMounter()], ids=lambda way: way.kind)


def image_for(way: Mounter, folder: Path) -> Path:
    minimal = factory.minimal_erofs() if way.kind == "erofs" else factory.minimal_squashfs()
    return padded(folder / "image", minimal)


def link_to(image: Path) -> None:
    image.rename(image.with_suffix(".real"))
    image.symlink_to(image.with_suffix(".real"))


def pipe_instead(image: Path) -> None:
    image.unlink()
    os.mkfifo(image)


def directory_instead(image: Path) -> None:
    image.unlink()
    image.mkdir()


UNTRUSTED = "refusing to mount as root a file which a user can write: "


@every_way
@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [
        (lambda image: os.chown(image, NOBODY, 0), MountUnavailable, UNTRUSTED),
        (lambda image: image.chmod(0o664), MountUnavailable, UNTRUSTED),
        (lambda image: image.chmod(0o646), MountUnavailable, UNTRUSTED),
        (link_to, MountFailed, "cannot be mounted or mounted on: Too many levels of symbolic links"),
        (pipe_instead, MountFailed, "is not a regular file"),
        (directory_instead, MountFailed, "is not a regular file"),
        (lambda image: image.unlink(), MountFailed, "cannot be mounted or mounted on: No such file"),
        (lambda image: os.truncate(image, 4095), MountFailed, "is shorter than the partition that it is said to hold"),
    ],
    ids=["owner", "group", "others", "link", "fifo", "directory", "gone", "short"],
)
def test_images_of_the_wrong_kind(
    tmp_path: Path, mountpoint: Path, way: Mounter, change: Callable[[Path], None], kind: type[Exception], why: str
) -> None:
    image = image_for(way, tmp_path)
    info = described(image)
    change(image)
    with pytest.raises(kind, match=why):
        way.mount(str(image), info, str(mountpoint))
    assert linux.mounted(str(mountpoint)) is None


def someone_elses(mountpoint: Path) -> None:
    os.chown(mountpoint, NOBODY, 0)


def linked(mountpoint: Path) -> None:
    mountpoint.rmdir()
    mountpoint.with_name("elsewhere").mkdir()
    mountpoint.symlink_to("elsewhere")


def a_file(mountpoint: Path) -> None:
    mountpoint.rmdir()
    mountpoint.touch()


@every_way
@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [
        (someone_elses, MountUnavailable, "refusing to mount as root a directory which a user can write: "),
        (lambda point: point.chmod(0o777), MountUnavailable, "refusing to mount as root a directory"),
        (linked, MountFailed, "Not a directory|Too many levels"),
        (a_file, MountFailed, "Not a directory"),
        (lambda point: point.rmdir(), MountFailed, "No such file"),
    ],
    ids=["owner", "others", "link", "file", "gone"],
)
def test_mountpoints_of_the_wrong_kind(
    tmp_path: Path, mountpoint: Path, way: Mounter, change: Callable[[Path], None], kind: type[Exception], why: str
) -> None:
    image = image_for(way, tmp_path)
    change(mountpoint)
    with pytest.raises(kind, match=why):
        way.mount(str(image), described(image), str(mountpoint))


@every_way
def test_what_is_put_in_the_images_place_meanwhile_is_not_mounted(
    tmp_path: Path, mountpoint: Path, way: Mounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the look at the file, its name leads to something that no kernel mounts."""
    image = image_for(way, tmp_path)
    info = described(image)
    privileged = linux.privileged

    def and_swap() -> bool:
        if not image.with_suffix(".old").exists():
            image.rename(image.with_suffix(".old"))
            image.write_bytes(b"x" * 8192)
        return privileged()

    assert way.obstacle(info) == ""
    monkeypatch.setattr(way, "obstacle", lambda info: "", raising=True)
    monkeypatch.setattr(linux, "privileged", and_swap)
    way.mount(str(image), info, str(mountpoint))
    try:
        assert image.read_bytes().startswith(b"xxx"), "the swap took place"
        assert os.listdir(mountpoint) == []
    finally:
        way.unmount(str(mountpoint))


@pytest.mark.parametrize("way", [LoopMounter(), ErofsMounter()], ids=lambda way: way.kind)
def test_what_is_put_in_the_mountpoints_place_meanwhile_is_not_mounted_on(
    tmp_path: Path, mountpoint: Path, way: Mounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, victim, mount = image_for(way, tmp_path), tmp_path / "etc", linux.mount
    victim.mkdir()

    def swap_and_mount(source: str, target: str, fstype: str, *, data: str = "") -> None:
        mountpoint.rename(tmp_path / "moved")
        mountpoint.symlink_to(victim)
        mount(source, target, fstype, data=data)

    monkeypatch.setattr(linux, "mount", swap_and_mount)
    way.mount(str(image), described(image), str(mountpoint))
    try:
        assert linux.mounted(str(victim)) is None
        assert linux.mounted(str(tmp_path / "moved")) is not None
    finally:
        way.unmount(str(tmp_path / "moved"))


@pytest.mark.needs("user-switch")
def test_a_user_may_mount_what_he_can_write(public_path: Path) -> None:
    image = padded(public_path / "image", factory.minimal_squashfs())
    image.chmod(0o666)
    point = public_path / "mountpoint"
    point.mkdir()
    os.chown(point, NOBODY, NOBODY)

    def run() -> str:
        report = FuseMounter().mount(str(image), described(image), str(point))
        FuseMounter().unmount(str(point))
        return report.kind

    assert apart(run, user=NOBODY, prepare=open_fuse_to_all) == "fuse"


def test_a_partition_beyond_the_end(tmp_path: Path, mountpoint: Path) -> None:
    image = padded(tmp_path / "x", factory.minimal_squashfs())
    info = described(image)
    beyond = replace(info, root=replace(info.root, offset=4096))
    with pytest.raises(MountFailed, match="is shorter than"):
        LoopMounter().mount(str(image), beyond, str(mountpoint))
