"""What stays to be seen of a directory that a job's own covers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stager.schedulers import visible
from stager.schedulers.registry import Directory

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("path", "covered_by"),
    [
        ("/tmp/.X11-unix", "/tmp"),
        ("/tmp/a/b", "/tmp"),
        ("/tmp", None),
        ("/tmpfs/x", None),
        ("/var/tmp/x", "/var/tmp"),
        ("/etc/x", None),
    ],
)
def test_a_directory_covers_what_is_below_it(path: str, covered_by: str | None) -> None:
    found = visible.covering(path, [Directory("/s.1.0/_tmp", "/tmp"), Directory("/s.1.0/_var_tmp", "/var/tmp")])
    assert (found.mount if found else None) == covered_by


@pytest.fixture
def own(tmp_path: Path) -> Directory:
    (tmp_path / "own").mkdir()
    return Directory(str(tmp_path / "own"), "/tmp")


def test_room_is_made_as_often_as_asked(own: Directory) -> None:
    for _ in range(2):
        visible.make_room("/tmp/deep/down", own)
    visible.make_room("/tmp/deep/here", own)
    assert os.path.isdir(f"{own.path}/deep/down")
    assert os.listdir(f"{own.path}/deep/down") == []
    assert os.path.isdir(f"{own.path}/deep/here")


@pytest.mark.parametrize("at", ["deep", "deep/down"])
def test_a_link_that_the_user_left_is_not_followed(own: Directory, tmp_path: Path, at: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / "own" / at
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(OSError, match="Not a directory"):
        visible.make_room("/tmp/deep/down", own)
    assert list(elsewhere.iterdir()) == []
