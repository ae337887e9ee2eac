"""The fake mounter keeps the contract of a Mounter."""

from __future__ import annotations

import pytest

from stager.errors import InUse, MountFailed
from stager.interfaces import ImageInfo, Partition
from tests.support.fake_mounter import FakeMounter

INFO = ImageInfo("squashfs", 10, "gzip", Partition(0, 10, "squashfs"))


def test_it_remembers_what_is_mounted() -> None:
    way = FakeMounter(note="a note")
    report = way.mount("/image", INFO, "/point")
    assert (report.kind, report.note) == ("loop", "a note")
    assert way.ismount("/point")
    way.unmount("/point")
    way.unmount("/point")
    assert not way.ismount("/point")
    assert way.log == [("mount", "/point"), ("unmount", "/point")]


def test_what_is_busy_goes_lazily_only() -> None:
    way = FakeMounter(mounted={"/point": "/image"}, busy={"/point"})
    with pytest.raises(InUse):
        way.unmount("/point")
    way.unmount("/point", lazy=True)
    assert not way.ismount("/point")


def test_it_fails_as_told() -> None:
    way = FakeMounter(blocked="no devices", failures=[MountFailed("no")])
    assert way.obstacle(INFO) == "no devices"
    with pytest.raises(MountFailed):
        way.mount("/image", INFO, "/point")
    assert not way.ismount("/point")
