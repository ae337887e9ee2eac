"""What a user may do to a node's hooks, and what a hook that was cut leaves: other jobs do not pay for it."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stager import lease
from stager.cli.as_user import LAST_SECONDS, as_user
from stager.errors import InUse
from stager.lease import Lease
from stager.process import ProcessIdentity, boot_id, current
from stager.schedulers import private
from stager.schedulers.removal import AT_A_TIME
from tests.support.fake_clock import FakeClock
from tests.support.slurm_hooks import ALICE, MALLORY, Node, Ran, Started, node
from tests.support.tasks import ROOT, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs("mount", "user-switch", "user-python")

SPANK = {"SPANK_STAGE_IMAGE_PRIVATE_TMP": "1"}
NEVER = "http://127.0.0.1:9/x"
PIN = "/run/stage-image/jobs/slurm-7/ns/mnt"
PATH = {"PATH": "/usr/local/sbin:/usr/bin:/bin"}
SHORT = 2.0
"""Seconds that an Epilog has here, instead of 20."""
QUICK = SHORT + 2 * LAST_SECONDS + 4
"""Seconds in which it has ended, on a loaded machine, too."""


def settings(n1: Node) -> dict[str, Any]:
    return {"store": n1.store, "slurm_private": [f"/var/tmp={n1.disk}/private/tmp"]}


@pytest.fixture
def n1(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path) as booted:
        booted.configure(**settings(booted))
        booted.view(f"{booted.disk}/private").mkdir(mode=0o755)
        yield booted


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A directory of leases."""
    (tmp_path / "leases").mkdir()
    return str(tmp_path / "leases")


def python(n1: Node, code: str, env: dict[str, str], user: int = 0) -> Started:
    return n1.start(sys.executable, "-c", code, user=user, env={"PYTHONPATH": str(ROOT)} | env)


def cut_prolog(n1: Node, function: str) -> Ran:
    """Run the Prolog of job 7, killed as it comes to a function of the namespaces' module."""
    code = (
        f"import os\nfrom stager.mounts import namespace\nnamespace.{function} = lambda *_: os.kill(os.getpid(), 9)\n"
    )
    code += "from stager.cli import slurm_prolog\nslurm_prolog.run(None)"
    return python(n1, code, n1.told_by_slurmd(7, ALICE, "prolog_slurmd") | SPANK).end()


def short_epilog(n1: Node, job: int, user: int = ALICE) -> Ran:
    """Run an Epilog of little patience."""
    code = f"import argparse\nfrom stager.cli import slurm_epilog\nslurm_epilog.PATIENCE = {SHORT}\n"
    code += "raise SystemExit(slurm_epilog.run(argparse.Namespace(job='')))"
    return python(n1, code, n1.told_by_slurmd(job, user, "epilog_slurmd")).end()


def unrecorded(n1: Node) -> None:
    """Have the Prolog of job 7 fail before it could record anything."""
    n1.configure("store = [broken\n")
    assert n1.prolog(7, NEVER).code == 0
    n1.configure(**settings(n1))
    assert (n1.state(7), n1.record(7)) == ("failed", {})


def silence(n1: Node, user: int) -> Started:
    """Have a user's own store never answer whoever looks for its images."""
    own = f"/var/tmp/stage-image-{user}"
    assert n1.stage_image("list", user=user).code == 0
    n1.run("/bin/mkdir", "-p", f"{own}/mounts", f"{own}/images", user=user)
    words = (sys.executable, "-m", "tests.support.silent_fuse", f"{own}/images")
    server = n1.start(*words, user=user, env=PATH | {"PYTHONPATH": str(ROOT)})
    server.says("mounted")
    return server


def locked_by_nobody(n1: Node, job: int) -> bool:
    lock = f"{n1.store}/locks/job.slurm-{job}.lock"
    return not n1.view(lock).exists() or n1.run("/usr/bin/flock", "-n", lock, "/bin/true").code == 0


@pytest.mark.needs("fuse")
def test_a_store_that_does_not_answer_does_not_hold_the_epilog(n1: Node) -> None:
    server = silence(n1, ALICE)
    ran = short_epilog(n1, 7)
    server.says("asked")
    assert (ran.code, ran.seconds < QUICK) == (0, True), ran
    assert "does not answer" in ran.err
    left = [line for line in n1.processes() if "silent_fuse" not in line]
    assert len(left) == 1, "who waits there cannot be killed"
    assert locked_by_nobody(n1, 7)
    n1.kill(int(next(line for line in n1.processes() if "silent_fuse" in line).split(":")[0]))
    assert n1.left() == []


@pytest.mark.needs("fuse")
def test_an_epilog_that_is_killed_while_it_waits_there_leaves_the_lock_to_the_next(n1: Node) -> None:
    server = silence(n1, ALICE)
    epilog = n1.start_epilog(7)
    server.says("asked")
    epilog.send(signal.SIGKILL)
    epilog.end()
    assert n1.view(f"{n1.store}/locks/job.slurm-7.lock").exists()
    until(lambda: locked_by_nobody(n1, 7), "the lock to be free", 5)
    n1.kill(int(next(line for line in n1.processes() if "silent_fuse" in line).split(":")[0]))
    assert n1.left() == []


def test_a_child_that_is_the_users_has_nothing_of_roots(tmp_path: Path) -> None:
    """It may outlive us: neither a lock nor the hook's output, of which slurmd awaits the end, may stay open in it."""
    with open(tmp_path / "lock", "wb") as ours:
        number = ours.fileno()

        def seen() -> int:
            null = os.stat(os.devnull)
            streams = sum(not os.path.samestat(os.fstat(fd), null) for fd in (0, 1, 2))
            return streams + 8 * is_open(number)

        assert as_user(ALICE, ALICE, seen) == 0


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.needs("fuse")
def test_one_users_remains_cost_another_users_epilog_one_patience(n1: Node) -> None:
    for job in (1, 2, 3, 4):
        assert n1.prolog(job, user=MALLORY, env=SPANK).code == 0
        n1.rewrite_record(job, over=True)
    assert n1.prolog(9, env=SPANK).code == 0
    server = silence(n1, MALLORY)
    ran = short_epilog(n1, 9)
    server.says("asked")
    assert (ran.code, ran.seconds < QUICK) == (0, True), ran
    assert n1.record(9) == {}, "the job's own come first"
    server.send(signal.SIGKILL)
    for job in (10, 11):
        assert n1.epilog(job).code == 0
    assert n1.left() == []


class Impatient(FakeClock):
    """Goes on by a second whenever somebody looks at it."""

    def now(self) -> float:
        self.advance(1)
        return super().now()


def test_a_directory_of_many_files_is_left_when_the_time_is_over(tmp_path: Path) -> None:
    (directory,) = private.directories(private.parse((f"/tmp={tmp_path}/base",)), "7", 0)
    made = private.make(directory, ALICE, ALICE)
    many = tmp_path / "base.7.0" / "_tmp" / "many"
    many.mkdir()
    for number in range(5 * AT_A_TIME):
        (many / str(number)).touch()
    with pytest.raises(InUse, match="not empty yet"):
        private.remove(made.path, made.dev, made.ino, clock=Impatient(), patience=3.5)
    assert AT_A_TIME <= len(list(many.iterdir())) < 5 * AT_A_TIME
    private.remove(made.path, made.dev, made.ino)
    assert not (tmp_path / "base.7.0").exists()


@pytest.mark.parametrize("there", ["a link", "a user's directory", "a user's file"])
def test_what_a_user_leaves_where_a_directory_is_shown_costs_nobody_a_namespace(n1: Node, there: str) -> None:
    shown = ["/var/tmp/.X11-unix", "/var/tmp/.sound"]
    n1.configure(**settings(n1), slurm_private_shows=shown)
    n1.view("/var/tmp/.sound").mkdir()
    make = {
        "a link": "mkdir m; ln -s m .X11-unix",
        "a user's directory": "mkdir .X11-unix",
        "a user's file": "touch .X11-unix",
    }
    n1.run("/bin/sh", "-c", f"cd /var/tmp && {make[there]}", user=MALLORY, env=PATH)
    assert (n1.prolog(7, env=SPANK).code, n1.told(7)) == (0, [])
    inside = n1.run("/usr/bin/nsenter", f"--mount={PIN}", "/bin/cat", "/proc/self/mountinfo").out.splitlines()
    points = {line.split(" ")[4] for line in inside}
    assert ("/var/tmp" in points, points.intersection(shown)) == (True, {"/var/tmp/.sound"})
    assert n1.epilog(7).code == 0
    assert n1.left() == []


@pytest.mark.parametrize("function", ["Namespace.pin", "_pin"])
def test_a_prolog_that_was_killed_before_the_pin_is_made_good_by_its_repetition(n1: Node, function: str) -> None:
    assert cut_prolog(n1, function).code != 0
    assert n1.record(7)["namespace"]
    assert PIN not in n1.all_mounts()
    assert n1.prolog(7, env=SPANK).code == 0
    assert PIN in n1.all_mounts()
    before = n1.view(PIN).stat().st_ino
    assert n1.prolog(7, env=SPANK).code == 0
    assert n1.view(PIN).stat().st_ino == before, "tasks may be in it"
    assert n1.epilog(7).code == 0
    assert n1.left() == []


def test_an_epilog_that_does_not_get_the_lock_leaves_it_to_another_jobs(n1: Node) -> None:
    n1.prolog(7, env=SPANK)
    lock = f"{n1.store}/locks/job.slurm-7.lock"
    holder = n1.start("/usr/bin/flock", lock, "/bin/sh", "-c", "echo held >&2; exec sleep 100", env=PATH)
    holder.says("held")
    ran = short_epilog(n1, 7)
    assert (ran.code, "does not end" in ran.err, ran.seconds < QUICK) == (0, True, True), ran
    n1.prolog(8, env=SPANK)
    holder.send(signal.SIGKILL)
    assert n1.epilog(8).code == 0
    assert n1.left() == []


@pytest.mark.parametrize("had", ["a directory", "what was refused", "only word why"])
@pytest.mark.parametrize("obstacle", ["settings", "switch"])
def test_what_an_epilog_could_not_even_begin_another_jobs_takes_back(n1: Node, obstacle: str, had: str) -> None:
    if had == "only word why":
        unrecorded(n1)
    else:
        n1.prolog(7, *([NEVER] if had == "what was refused" else []), env=SPANK if had == "a directory" else {})
    n1.prolog(8, env=SPANK)
    if obstacle == "settings":
        n1.configure("store = [broken\n")
    else:
        n1.switch_off()
    assert n1.epilog(7).code == 0
    n1.configure(**settings(n1))
    n1.view("/etc/stage-image/disabled").unlink(missing_ok=True)
    assert n1.epilog(8).code == 0
    assert (n1.left(), list(n1.view("/run/stage-image/ended").iterdir())) == ([], [])


def test_a_job_that_comes_back_is_not_taken_for_the_one_that_ended(n1: Node) -> None:
    """A requeue: what is noted of the run before, which left no record, must not end the one that runs now."""
    unrecorded(n1)
    n1.switch_off()
    assert n1.epilog(7).code == 0
    n1.view("/etc/stage-image/disabled").unlink()
    again = SPANK | {"SLURM_JOB_RESTART_COUNT": "1"}
    assert n1.prolog(7, env=again).code == 0
    assert n1.epilog(8).code == 0
    assert PIN in n1.all_mounts()
    assert n1.epilog(7).code == 0
    assert n1.left() == []


def test_nobody_else_can_note_that_a_job_has_ended(n1: Node) -> None:
    n1.prolog(7, NEVER)
    n1.switch_off()
    environ = n1.told_by_slurmd(7, ALICE, "epilog_slurmd") | PATH
    assert n1.run("/bin/sh", "-c", 'umask 0; exec "$0"', str(n1.hooks / "epilog"), env=environ).code == 0
    status = n1.view("/run/stage-image/ended").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o755)


def test_the_tasks_file_is_the_users_to_read_and_nobodys_to_write(n1: Node) -> None:
    n1.prolog(7, NEVER)
    told = "/run/stage-image/jobs/slurm-7/tasks"
    tries = [["/bin/chmod", "u+w", told], ["/bin/sh", "-c", f"echo x >>{told}"], ["/bin/rm", "-f", told]]
    assert [n1.run(*words, user=ALICE).code == 0 for words in tries] == [False] * 3
    assert n1.run("/bin/cat", told, user=ALICE).out.splitlines() == n1.told(7)
    assert n1.run("/bin/cat", told, user=MALLORY).code != 0
    assert "could not stage it" in n1.task(7).out


def test_leases_are_told_apart_in_one_pass(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Lease] = []

    def is_same(one: Lease, other: object) -> bool:
        compared.append(one)
        return one is other

    monkeypatch.setattr(Lease, "__eq__", is_same)
    dead = ProcessIdentity(1, 1, boot_id())
    for number in range(60):
        lease.acquire(folder, Lease(f"slurm-{number}", current() if number % 2 else dead))
    alive, other = lease.survey(folder)
    assert (len(alive), len(other), len(compared)) == (30, 30, 0)


def test_leases_by_the_thousand_do_not_hold_a_release(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many, under whosever name: so many are looked at, and the job's own always is."""
    monkeypatch.setattr(lease, "MOST", 50)
    for number in range(1, 200):
        (Path(folder) / f"slurm-7@{number}.1.aaaaaaaa").touch()
    mine = lease.of_job("slurm-7")
    lease.acquire(folder, mine)
    assert 1 <= lease.release(folder, "slurm-7") <= 51
    assert not (Path(folder) / str(mine)).exists()
    assert len(list(Path(folder).iterdir())) >= 149


def test_a_release_heeds_only_leases_of_its_scope(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 100):
        (Path(folder) / f"slurm-8@{number}.1.aaaaaaaa").touch()
    lease.acquire(folder, lease.of_job("slurm-7"))
    parsed: list[str] = []
    monkeypatch.setattr(Lease, "parse", parsed.append)
    lease.release(folder, "slurm-7")
    assert parsed == [str(lease.of_job("slurm-7"))]


def test_a_record_of_another_users_job_of_the_same_number_is_not_the_jobs_own(n1: Node) -> None:
    assert n1.prolog(7, user=ALICE, env=SPANK).code == 0
    assert n1.prolog(7, user=MALLORY, env=SPANK).code == 0
    owner = n1.run("/usr/bin/nsenter", f"--mount={PIN}", "/usr/bin/stat", "-c", "%u", "/var/tmp").out
    assert (n1.record(7)["uid"], owner) == (MALLORY, f"{MALLORY}\n")
    assert n1.epilog(7, user=MALLORY).code == 0
    assert n1.left() == []
