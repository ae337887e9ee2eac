"""What a fork reports, and that nothing of it stays; directories opened without following links."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from stager.errors import CommandNotFound, InUse, MountFailed, MountUnavailable, StageImageError
from stager.mounts.child import Child
from stager.mounts.way import opened, way_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _raise(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def test_all_is_well(tmp_path: Path) -> None:
    with Child((tmp_path / "done").touch) as child:
        child.heard()
        assert (tmp_path / "done").exists()
        assert child.ended() == 0


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (MountUnavailable("why: not\nfor you"), MountUnavailable, "why: not\nfor you"),
        (CommandNotFound("é"), CommandNotFound, "é"),
        (InUse("another kind"), MountFailed, "another kind"),
        (OSError(errno.EBUSY, "busy", "/a"), MountFailed, "/a: busy"),
        (MountFailed("long" * 5000), MountFailed, ("long" * 5000)[:4083]),
        (MountFailed("a\0b"), MountFailed, "ab"),
        (ValueError("a fault of ours"), MountFailed, "the process that was to do it was killed"),
    ],
)
def test_what_it_raises_is_raised_here(raised: Exception, kind: type[StageImageError], message: str) -> None:
    with Child(_raise(raised)) as child:
        with pytest.raises(kind) as told:
            child.heard()
        assert told.value.message == message
        assert child.ended() == 1


def test_killed_is_not_done() -> None:
    with Child(lambda: os.kill(os.getpid(), signal.SIGKILL)) as child:
        with pytest.raises(MountFailed, match="was killed"):
            child.heard()
        assert child.ended() == 128 + signal.SIGKILL


def test_another_program_in_its_place() -> None:
    with Child(lambda: os.execvp("sh", ["sh", "-c", "exit 9"])) as child:
        child.heard(becomes_another=True)
        assert child.ended() == 9


def test_it_waits_until_it_is_let_go() -> None:
    with Child(lambda: None, then_wait=True) as child:
        child.heard()
        pid = child.pid
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_no_descriptor_stays() -> None:
    before = os.listdir("/proc/self/fd")
    for act in (lambda: None, _raise(MountFailed("no"))):
        with Child(act):
            pass
    assert os.listdir("/proc/self/fd") == before


def test_the_way_leads_to_a_directory_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("a")
    (place / "link").symlink_to(".")
    with opened(str(place)) as fd:
        assert os.path.samestat(os.fstat(fd), place.stat())
    before = os.listdir("/proc/self/fd")
    for path, number in (("link", 20), ("link/b", 20), ("a/b/link", 20), ("file", 20), ("file/x", 20), ("c", 2)):
        with pytest.raises(OSError, match=str(tmp_path)) as told:
            way_to(f"{tmp_path}/{path}")
        assert told.value.errno == number
    assert os.listdir("/proc/self/fd") == before


def test_each_directory_on_the_way_is_judged(tmp_path: Path) -> None:
    seen: list[str] = []
    before = os.listdir("/proc/self/fd")
    with opened(str(tmp_path), lambda path, status: seen.append(path)):
        pass
    assert seen == [str(each) for each in reversed([tmp_path, *tmp_path.parents])]

    def judge(path: str, status: os.stat_result) -> None:
        if path == str(tmp_path):
            raise InUse(path)

    with pytest.raises(InUse):
        way_to(str(tmp_path), judge)
    assert os.listdir("/proc/self/fd") == before
