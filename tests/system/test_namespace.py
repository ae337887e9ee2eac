"""Pinned mount namespaces: seen by who enters, by nobody else, and gone without a trace."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stager import mountinfo
from stager.errors import CommandNotFound, CommandNotRunnable, MountFailed, MountUnavailable
from stager.mounts import linux, namespace
from stager.mounts.namespace import Namespace
from tests.support.mounting import apart, forked, mount_new
from tests.support.tasks import until

if TYPE_CHECKING:
    from collections.abc import Callable

    Host = Callable[[Callable[[], object]], object]

pytestmark = [pytest.mark.needs("root", "mount"), pytest.mark.usefixtures("leaves_nothing")]

MS_REC, MS_SHARED = 16384, 1 << 20


def share_all() -> None:
    """Mount as systemd leaves it: what is mounted on the host appears in all namespaces made of it."""
    assert ctypes.CDLL(None).mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_SHARED), None) == 0


@pytest.fixture(params=[True, False], ids=["shared", "private"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """A node to run a function on, as init left its mounts: shared (systemd) or private; `run` and `jobs` are tmpfs."""

    def boot() -> None:
        if request.param:
            share_all()
        for name in ("run", "host"):
            (tmp_path / name).mkdir()
        mount_new("tmpfs", tmp_path / "run")
        for name in ("run/jobs/1", "run/jobs/2", "base/mine", "base/other", "host/tmp", "host/opt", "image", "late"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "host" / "tmp" / "hosts").touch()
        (tmp_path / "base" / "mine" / "jobs").touch()

    return lambda function: apart(function, prepare=boot)


@pytest.fixture
def pin(tmp_path: Path) -> str:
    """Where namespaces are pinned; on a host only."""
    return str(tmp_path / "run" / "jobs" / "1" / "ns")


@pytest.fixture
def binds(tmp_path: Path) -> list[tuple[str, str]]:
    """What a job's own /tmp would be."""
    return [(str(tmp_path / "base" / "mine"), str(tmp_path / "host" / "tmp"))]


def table() -> list[str]:
    """Return this process's mounts, without numbers that change."""
    return sorted(f"{mount!r} {mount.options}" for mount in mountinfo.read())


def inside(path: str, *command: str) -> str:
    """Return what a command says in a namespace."""
    ours, theirs = os.pipe()
    kept = os.dup(1)
    os.dup2(theirs, 1)
    os.close(theirs)
    try:
        code = Namespace().run_in(path, command)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    with os.fdopen(ours) as said:
        assert code == 0
        return said.read()


def mounts_inside(path: str) -> list[mountinfo.Mount]:
    return mountinfo.parse(inside(path, "cat", "/proc/self/mountinfo"))


def test_the_job_sees_its_own_and_the_host_its_own(
    host: Host, tmp_path: Path, pin: str, binds: list[tuple[str, str]]
) -> None:
    target = binds[0][1]

    def job() -> None:
        before = table()
        Namespace().pin(pin, binds)
        assert os.listdir(target) == ["hosts"]
        assert inside(pin, "ls", target) == "jobs\n"
        inside(pin, "touch", f"{target}/new")
        assert sorted(os.listdir(tmp_path / "base" / "mine")) == ["jobs", "new"]
        added = [mount for mount in mountinfo.read() if f"{mount!r} {mount.options}" not in before]
        assert [(mount.fstype, mount.mountpoint) for mount in added] == [("tmpfs", pin), ("nsfs", f"{pin}/mnt")]
        Namespace().unpin(pin)
        assert table() == before
        assert os.listdir(os.path.dirname(pin)) == []

    host(job)


def test_nobody_else_can_hold_it(host: Host, pin: str, tmp_path: Path) -> None:
    """A descriptor would keep the namespace, and with it the images that are mounted there, after the job."""

    def job() -> None:
        Namespace().pin(pin, [])
        here = Path(f"{tmp_path}/run/jobs/1")
        assert forked(lambda: opening(here, f"ns/{namespace.PIN}")) == errno.EACCES
        Namespace().unpin(pin)

    host(job)


def opening(folder: Path, name: str) -> int:
    """Return as which error an ordinary user's attempt to open a file ends."""
    os.chdir(folder)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    try:
        os.close(os.open(name, os.O_RDONLY))
    except OSError as error:
        return error.errno or -1
    return 0


def test_neither_setuid_programs_nor_devices(host: Host, tmp_path: Path, pin: str) -> None:
    source, target = tmp_path / "image", str(tmp_path / "host" / "opt")

    def job() -> None:
        mount_new("tmpfs", source, linux.MS_RDONLY | 8)  # MS_NOEXEC
        Namespace().pin(pin, [(str(source), target)])
        (found,) = (mount for mount in mounts_inside(pin) if mount.mountpoint == target)
        assert {"ro", "noexec", "nosuid", "nodev"} <= set(found.options)
        mine = mountinfo.at(mountinfo.read(), str(source))
        assert mine is not None
        assert "nosuid" not in mine.options
        Namespace().unpin(pin)

    host(job)


def test_what_the_host_mounts_later(host: Host, tmp_path: Path, pin: str, request: pytest.FixtureRequest) -> None:
    late = str(tmp_path / "late")

    def job() -> bool:
        Namespace().pin(pin, [])
        mount_new("tmpfs", Path(late))
        (Path(late) / "there").touch()
        seen = inside(pin, "ls", late) == "there\n"
        linux.umount(late)
        assert inside(pin, "ls", late) == ""
        Namespace().unpin(pin)
        return seen

    assert host(job) is ("shared" in request.node.name)


def test_an_image_is_added_whether_mounts_are_shared_or_not(
    host: Host, tmp_path: Path, pin: str, binds: list[tuple[str, str]]
) -> None:
    image, target = tmp_path / "image", str(tmp_path / "host" / "opt")

    def job() -> None:
        Namespace().pin(pin, binds)
        mount_new("tmpfs", image)
        (image / "bin").touch()
        before = table()
        Namespace().bind_in(pin, str(image), target)
        assert inside(pin, "ls", target) == "bin\n"
        assert os.listdir(target) == []
        assert table() == before
        (found,) = (mount for mount in mounts_inside(pin) if mount.mountpoint == target)
        assert {"nosuid", "nodev"} <= set(found.options)
        Namespace().unpin(pin)

    host(job)


def test_an_image_is_added_on_an_old_kernel(
    tmp_path: Path, host: Host, pin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux < 5.2 has no open_tree(2): only what the namespace sees by itself can be added."""
    monkeypatch.setattr(namespace, "OPEN_TREE", 100_000)
    source, target = tmp_path / "base" / "mine", str(tmp_path / "host" / "opt")

    def job() -> None:
        Namespace().pin(pin, [])
        Namespace().bind_in(pin, str(source), target)
        assert inside(pin, "ls", target) == "jobs\n"
        Namespace().unpin(pin)

    host(job)


def test_in_order_and_from_below_a_target(host: Host, tmp_path: Path, pin: str) -> None:
    """A target may lie in what was bound just before, and a source below what is hidden by then."""
    (tmp_path / "whole" / "tmp").mkdir(parents=True)
    pairs = [("whole", "host"), ("base/other", "base"), ("base/mine", "host/tmp")]

    def job() -> None:
        Namespace().pin(pin, [(str(tmp_path / source), str(tmp_path / target)) for source, target in pairs])
        assert inside(pin, "ls", str(tmp_path / "host" / "tmp")) == "jobs\n"
        assert inside(pin, "ls", str(tmp_path / "base")) == ""
        Namespace().unpin(pin)

    host(job)


def test_steps_of_a_job_share_it_and_jobs_do_not(host: Host, tmp_path: Path, binds: list[tuple[str, str]]) -> None:
    first, second = (str(tmp_path / "run" / "jobs" / name / "ns") for name in "12")
    target = binds[0][1]

    def job() -> None:
        Namespace().pin(first, binds)
        Namespace().pin(second, [(str(tmp_path / "base" / "other"), target)])
        assert [inside(path, "readlink", "/proc/self/ns/mnt") for path in (first, first)] == [
            inside(first, "readlink", "/proc/self/ns/mnt")
        ] * 2
        assert [inside(path, "ls", target) for path in (first, second)] == ["jobs\n", ""]
        for path in (first, second):
            assert not [mount for mount in mounts_inside(path) if mount.fstype == "nsfs"], "none holds another"
        Namespace().unpin(second)
        assert not [mount for mount in mounts_inside(first) if mount.mountpoint.startswith(second)]
        Namespace().unpin(first)

    host(job)


def test_it_ends_with_its_last_process(host: Host, tmp_path: Path, pin: str) -> None:
    """A file system lives as long as a mount of it; that one is in the namespace alone."""
    image = tmp_path / "image"

    def job() -> None:
        Namespace().pin(pin, [])
        mount_new("tmpfs", image)
        Namespace().bind_in(pin, str(image), str(tmp_path / "late"))
        linux.umount(str(image))
        left = subprocess.Popen(
            (sys.executable, "-c", _STAY, pin, str(tmp_path / "late")), stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )
        assert left.stdout is not None
        assert left.stdout.readline() == b"in\n"
        Namespace().unpin(pin)
        assert left.poll() is None
        said = left.communicate(b"go on\n")[0]
        assert said == b"still there\n"

    host(job)


_STAY = """
import os, sys
from stager.mounts import linux, namespace
namespace._enter(sys.argv[1])
print("in", flush=True)
input()
open(sys.argv[2] + "/file", "w").close()
print("still there" if os.listdir(sys.argv[2]) == ["file"] else "gone")
"""


def test_pinned_anew_is_a_new_one(host: Host, pin: str, binds: list[tuple[str, str]]) -> None:
    def job() -> None:
        before = table()
        Namespace().pin(pin, [])
        Namespace().pin(pin, binds)
        assert inside(pin, "ls", binds[0][1]) == "jobs\n"
        Namespace().unpin(pin)
        Namespace().unpin(pin)
        assert table() == before

    host(job)


def test_not_the_runs_own_mount(host: Host, tmp_path: Path) -> None:
    """A pin straight in a tmpfs: that mount is not taken for the one that was made."""

    def job() -> None:
        before = table()
        pin = str(tmp_path / "run" / "ns")
        Namespace().unpin(pin)
        assert table() == before
        Namespace().pin(pin, [])
        inside(pin, "true")
        Namespace().unpin(pin)
        assert table() == before

    host(job)


@pytest.mark.parametrize("which", ["source", "target", "way to source", "way to target"])
def test_links_are_not_followed(host: Host, tmp_path: Path, pin: str, which: str) -> None:
    (tmp_path / "link").symlink_to("host")
    (tmp_path / "tmp").symlink_to("host/tmp")
    link = str(tmp_path / ("link/tmp" if which.startswith("way") else "tmp"))
    plain = str(tmp_path / "base" / "mine")

    def job() -> None:
        before = table()
        with pytest.raises(
            MountFailed, match=f"{link.removesuffix('/tmp') if 'way' in which else link}: not a directory"
        ):
            Namespace().pin(pin, [(link, plain) if which.endswith("source") else (plain, link)])
        assert table() == before, "nothing is left half made"
        assert os.listdir(os.path.dirname(pin)) == []

    host(job)


@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_there(host: Host, tmp_path: Path, pin: str, binds: list[tuple[str, str]], which: int) -> None:
    nowhere = str(tmp_path / "nowhere")
    pair = [*binds[0]]
    pair[which] = nowhere

    def job() -> None:
        before = table()
        with pytest.raises(MountFailed, match="nowhere: No such file"):
            Namespace().pin(pin, [(pair[0], pair[1])])
        assert table() == before
        Namespace().pin(pin, [])
        with pytest.raises(MountFailed, match="nowhere: No such file"):
            Namespace().bind_in(pin, pair[0], pair[1])
        Namespace().unpin(pin)
        for act in (lambda: inside(pin, "true"), lambda: Namespace().bind_in(pin, *binds[0])):
            with pytest.raises(MountFailed, match=r"ns cannot be entered: .*No such file"):
                act()

    host(job)


def test_exit_codes_and_commands_that_are_none(host: Host, tmp_path: Path, pin: str) -> None:
    (tmp_path / "none").write_text("")

    def job() -> None:
        Namespace().pin(pin, [])
        run = Namespace().run_in
        assert run(pin, ["sh", "-c", "exit 7"]) == 7
        assert run(pin, ["sh", "-c", "kill -KILL $$"]) == 128 + signal.SIGKILL
        with pytest.raises(CommandNotFound):
            run(pin, ["no-such-command"])
        with pytest.raises(CommandNotRunnable):
            run(pin, [str(tmp_path / "none")])
        Namespace().unpin(pin)

    host(job)


def test_a_namespace_on_every_processor(host: Host, pin: str) -> None:
    """Recent kernels take one that was made on another processor for older, and refuse to pin it (EINVAL)."""

    def from_each() -> None:
        allowed = sorted(os.sched_getaffinity(0))
        for mine in allowed:
            os.sched_setaffinity(0, {mine})
            apart(here)

    def here() -> None:
        for other in sorted(os.sched_getaffinity(0)):
            os.sched_setaffinity(0, {other})
            Namespace().pin(pin, [])
            inside(pin, "true")
            Namespace().unpin(pin)

    host(from_each)


def test_no_processor_will_do(host: Host, pin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that says EINVAL on all; here because what is to be pinned is ours, and none may hold itself."""
    monkeypatch.setattr(namespace, "CLONE_NEWNS", 0)

    def job() -> None:
        before = table()
        with pytest.raises(MountUnavailable, match="refuses to pin"):
            Namespace().pin(pin, [])
        assert table() == before

    host(job)


@pytest.mark.needs("user-switch")
def test_without_privileges_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(MountUnavailable, match="only root of the node"):
        apart(lambda: Namespace().pin(str(tmp_path / "ns"), []), user=65534)


def test_killed_in_the_middle_leaves_no_process(
    host: Host, pin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm kills a Prolog that takes too long; what is half made then goes with `unpin`."""
    bound, killed = tmp_path / "bound", tmp_path / "killed"
    for fifo in (bound, killed):
        os.mkfifo(fifo)

    def hang(_: object) -> None:
        bound.write_text("")
        killed.read_text()

    monkeypatch.setattr(namespace, "_bind", hang)

    def job() -> None:
        before = table()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            Namespace().pin(pin, [])
        bound.read_text()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert is_there(pid), "the child does not die with its parent, in the middle of mounting"
        killed.write_text("")
        until(lambda: not is_there(pid), "the child to end")
        Namespace().unpin(pin)
        assert table() == before

    host(job)


def is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
