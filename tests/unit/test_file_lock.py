from __future__ import annotations

import fcntl
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from stager.election.file_lock import FileLockElection
from stager.errors import StoreUnusable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "locks").mkdir()
    return tmp_path / "locks"


def election(folder: Path, *, locks: bool = True) -> FileLockElection:
    return FileLockElection(lambda name: f"{folder}/{name}.lock", locks=locks)


def test_one_of_two_leads_and_neither_waits(folder: Path) -> None:
    begun = time.monotonic()
    with election(folder).lead("a") as first, election(folder).lead("a") as second:
        assert (first, second) == (True, False)
    assert time.monotonic() - begun < 1


def test_names_do_not_know_each_other(folder: Path) -> None:
    with election(folder).lead("a") as first, election(folder).lead("b") as second:
        assert (first, second) == (True, True)


@pytest.mark.parametrize("fails", [False, True])
def test_leading_ends_with_the_context(folder: Path, *, fails: bool) -> None:
    with pytest.raises(RuntimeError) if fails else election(folder).lead("other"), election(folder).lead("a"):
        if fails:
            raise RuntimeError
    with election(folder).lead("a") as again:
        assert again


def test_who_did_not_win_frees_nothing(folder: Path) -> None:
    with election(folder).lead("a"):
        with election(folder).lead("a"):
            pass
        with election(folder).lead("a") as third:
            assert not third


def test_leading_ends_with_the_process(folder: Path) -> None:
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        with election(folder).lead("a") as leads:
            os.write(told, b"1" if leads else b"0")
            os.kill(os.getpid(), signal.SIGSTOP)
    os.close(told)
    assert os.read(ready, 1) == b"1"
    os.close(ready)
    os.waitpid(pid, os.WUNTRACED)
    with election(folder).lead("a") as leads:
        assert not leads
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with election(folder).lead("a") as leads:
        assert leads


def test_the_lock_file_stays_and_is_ours_alone(folder: Path) -> None:
    with election(folder).lead("a"):
        pass
    assert (folder / "a.lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("successor", [False, True])
@pytest.mark.parametrize("removed", [False, True])
def test_a_lock_file_taken_away_leads_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, successor: bool, removed: bool
) -> None:
    """Who removes or renames it while it is being locked makes room for a second lock on a second inode."""
    real, path = fcntl.flock, folder / "a.lock"

    def cleaned(fd: int, how: int) -> None:
        real(fd, how)
        if how & fcntl.LOCK_EX:
            path.unlink() if removed else path.rename(f"{path}.old")
            if successor:
                path.touch()

    monkeypatch.setattr(fcntl, "flock", cleaned)
    with election(folder).lead("a") as leads:
        assert not leads


def test_without_locks_everybody_leads_and_nothing_is_made(folder: Path) -> None:
    with election(folder, locks=False).lead("a") as first, election(folder, locks=False).lead("a") as second:
        assert (first, second) == (True, True)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("obstacle", ["no folder", "directory", "link"])
def test_a_lock_that_cannot_be_opened_makes_the_store_unusable(folder: Path, tmp_path: Path, obstacle: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    if obstacle == "directory":
        (folder / "a.lock").mkdir()
    if obstacle == "link":
        (folder / "a.lock").symlink_to(victim)
    where = victim if obstacle == "no folder" else folder
    with pytest.raises(StoreUnusable, match=r"the lock file .*a\.lock cannot be used: "), election(where).lead("a"):
        pass
    assert victim.read_text() == "mine"
