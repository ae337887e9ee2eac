"""The tools of the mount tests can tell right from wrong."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stager import mountinfo
from stager.errors import MountFailed
from tests.support import mounting
from tests.support.mounting import NOBODY, apart, cached, content, forget, forked, on_disk, size_for, together

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs("mount")


def test_a_child_returns_and_raises() -> None:
    assert forked(os.getpid) != os.getpid()

    def fail() -> None:
        raise MountFailed("no", hint="try")

    with pytest.raises(MountFailed, match="no") as caught:
        forked(fail)
    assert caught.value.hint == "try"


def test_mounts_of_a_child_are_its_own(tmp_path: Path) -> None:
    def mount() -> str:
        mounting.mount_new("tmpfs", tmp_path)
        return os.readlink("/proc/self/ns/mnt")

    assert apart(mount) != os.readlink("/proc/self/ns/mnt")
    assert mountinfo.at(mountinfo.read(), str(tmp_path)) is None


@pytest.mark.needs("user-switch")
def test_a_child_may_be_somebody_else_after_preparing() -> None:
    prepared: list[int] = []

    def look() -> tuple[list[int], tuple[int, int, int], list[int]]:
        return prepared, os.getresuid(), os.getgroups()

    found = apart(look, user=NOBODY, prepare=lambda: prepared.append(os.getuid()))
    assert found == ([0], (NOBODY, NOBODY, NOBODY), [])


@pytest.mark.needs("userns", "user-switch")
def test_a_user_namespace_makes_root() -> None:
    def enter() -> tuple[int, int]:
        before = os.getuid()
        mounting.enter_user_namespace()
        return before, os.getuid()

    assert apart(enter, user=NOBODY) == (NOBODY, 0)


def test_together_reports_who_failed(tmp_path: Path) -> None:
    def write(number: int) -> None:
        (tmp_path / str(number)).touch()
        if number == 2:
            raise MountFailed("I am 2")

    assert together(4, write) == ["MountFailed('I am 2')"]
    assert sorted(os.listdir(tmp_path)) >= ["0", "1", "2", "3"]


def test_cached_sees_what_is_read_and_forgotten(tmp_path: Path) -> None:
    on_disk(tmp_path)
    file = tmp_path / "x"
    file.write_bytes(os.urandom(100_000))
    forget(file)
    assert cached(file) == 0
    file.read_bytes()
    assert cached(file) == 1


def test_content_tells_modes_links_and_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "file").write_bytes(b"x")
        (folder / "link").symlink_to("file")
    assert content(one) == content(two)
    (two / "file").chmod(0o600)
    assert content(one) != content(two)
    (two / "file").chmod((one / "file").stat().st_mode)
    (two / "link").unlink()
    (two / "link").symlink_to("other")
    assert content(one) != content(two)


@pytest.mark.parametrize(("length", "size"), [(1, 512), (512, 512), (513, 1536), (1024, 1536)])
def test_odd_sizes(tmp_path: Path, length: int, size: int) -> None:
    (tmp_path / "x").write_bytes(b"x" * length)
    assert size_for(tmp_path / "x", 512, never=1024) == size
