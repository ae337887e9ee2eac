"""Leases in a directory where anybody may leave anything."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stager import lease
from stager.lease import Lease
from stager.process import ProcessIdentity, boot_id, current
from tests.support.fake_node import Processes
from tests.support.within import within

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "leases" / "image")


def dead() -> ProcessIdentity:
    return ProcessIdentity(1, 1, boot_id())


def test_a_lease_is_held_by_a_living_process(folder: str) -> None:
    mine = Lease("job-1", current())
    assert lease.living(folder) == []
    lease.acquire(folder, mine)
    lease.acquire(folder, Lease("job-2", dead()))
    assert [str(one) for one in lease.living(folder)] == [str(mine)]
    assert len(os.listdir(folder)) == 2, "looking changes nothing"
    assert len(lease.collect(folder)) == 1
    assert os.listdir(folder) == [str(mine)]


def test_a_process_of_another_boot_is_dead(folder: str) -> None:
    me = current()
    lease.acquire(folder, Lease("job-1", ProcessIdentity(me.pid, me.start, "0" * 8)))
    assert lease.living(folder) == []


def test_a_pid_that_came_round_is_another_process(folder: str) -> None:
    me = current()
    lease.acquire(folder, Lease("job-1", ProcessIdentity(me.pid, me.start - 1, me.boot)))
    assert lease.living(folder) == []


def test_a_job_s_own_lease_lasts_until_it_is_released(folder: str) -> None:
    mine = lease.of_job("slurm-7")
    lease.acquire(folder, mine)
    lease.acquire(folder, Lease("slurm-8", ProcessIdentity(0, 0, "0" * 8)))
    assert [str(one) for one in lease.living(folder)] == [str(mine)]
    assert lease.collect(folder) == ["slurm-8@0.0.00000000"], "of another boot"
    assert lease.release(folder, "slurm-7") == 1
    assert lease.living(folder) == []


@pytest.mark.needs("root")
def test_only_who_owns_the_directory_can_leave_a_job_s_lease(folder: str) -> None:
    lease.acquire(folder, lease.of_job("slurm-7"))
    os.chown(f"{folder}/{lease.of_job('slurm-7')}", NOBODY, NOBODY)
    assert lease.living(folder) == []


def test_a_lease_ends_with_its_process(folder: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        holder = ProcessIdentity.of(child.pid)
        assert holder is not None
        lease.acquire(folder, Lease("job-1", holder))
        assert len(lease.living(folder)) == 1
        child.communicate(b"\n")
    assert lease.living(folder) == []


def test_surveying_changes_nothing(folder: str) -> None:
    lease.acquire(folder, Lease("job-1", dead()))
    alive, others = lease.survey(folder)
    assert (alive, others) == ([], os.listdir(folder))
    assert len(others) == 1


def test_a_scope_releases_its_own(folder: str) -> None:
    for scope in ("job-1", "job-1", "job-10", "job-2"):
        lease.acquire(folder, Lease(scope, current()))
    assert lease.release(folder, "job-1") == 1
    assert sorted(one.scope for one in lease.living(folder)) == ["job-10", "job-2"]
    assert lease.release(f"{folder}/absent", "job-1") == 0


@pytest.mark.parametrize("name", ["new\nline", "@", "x@", "@1.2.aaaaaaaa", "x@1.2", "x@1.2.toolong99", "\udcff", " "])
def test_litter_is_no_lease_and_is_collected(folder: str, name: str) -> None:
    os.makedirs(folder)
    open(f"{folder}/{name}", "w").close()
    assert lease.living(folder) == []
    assert len(lease.collect(folder)) == 1
    assert os.listdir(folder) == []


def test_a_directory_of_leases_that_is_a_link_is_not_followed(tmp_path: Path, folder: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    os.makedirs(os.path.dirname(folder))
    os.symlink(victim, folder)
    assert lease.living(folder) == []
    assert lease.collect(folder) == []
    assert lease.release(folder, "job-1") == 0
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        lease.acquire(folder, Lease("job-1", current()))
    assert os.listdir(victim) == ["precious"]


@pytest.mark.parametrize("kind", ["fifo", "link", "dangling"])
def test_whatever_lies_at_a_leases_name_is_not_opened(tmp_path: Path, folder: str, kind: str) -> None:
    mine = Lease("job-1", current())
    os.makedirs(folder)
    (tmp_path / "precious").write_text("x")
    if kind == "fifo":
        os.mkfifo(f"{folder}/{mine}")
    else:
        os.symlink(tmp_path / ("precious" if kind == "link" else "absent"), f"{folder}/{mine}")
    with within(2):
        lease.acquire(folder, mine)
        assert len(lease.living(folder)) == 1
    assert (tmp_path / "precious").read_text() == "x"
    assert not (tmp_path / "absent").exists()


@pytest.mark.needs("root")
@pytest.mark.parametrize("kind", ["file", "fifo", "folder"])
def test_roots_lease_is_roots_own(folder: str, kind: str) -> None:
    mine = Lease("job-1", current())
    path = f"{folder}/{mine}"
    os.makedirs(folder, mode=0o1777)
    {"file": lambda: open(path, "w").close(), "fifo": lambda: os.mkfifo(path), "folder": lambda: os.mkdir(path)}[kind]()
    os.chown(path, NOBODY, NOBODY)
    with within(2):
        lease.acquire(folder, mine)
    assert os.lstat(path).st_uid == 0
    assert len(lease.living(folder)) == 1


def test_folders_and_trees_among_leases_harm_nobody(folder: str) -> None:
    os.makedirs(f"{folder}/tree/deep")
    mine = Lease("job-1", current())
    lease.acquire(folder, mine)
    assert [str(one) for one in lease.living(folder)] == [str(mine)]


def test_identities_are_thread_local_in_tests(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes()
    processes.install(monkeypatch)
    one, two = processes.start(), processes.start()
    for holder in (one, two):
        lease.acquire(folder, Lease("job-1", holder))
    processes.kill(one)
    assert [found.holder for found in lease.living(folder)] == [two]
