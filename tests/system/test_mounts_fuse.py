"""FUSE: as root and as an ordinary user, servers that outlive us, die, hang or speak old dialects."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stager.errors import InUse, MountFailed, MountUnavailable
from stager.interfaces import ImageInfo, Partition
from stager.mounts import fuse, linux, server
from stager.mounts.fuse import FuseMounter, is_dead
from stager.mounts.fuse_setting import FuseSetting, of_environment, setuid_obstacle
from stager.mounts.loop import LoopMounter
from stager.process import ProcessIdentity
from tests.support import image_factory as factory
from tests.support import mounting
from tests.support.mounting import NOBODY, apart, content, described, open_fuse_to_all, shows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.clock import Clock

pytestmark = [
    pytest.mark.needs("root", "fuse", "squashfuse_ll", "mksquashfs"),
    pytest.mark.usefixtures("leaves_nothing"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def image(tmp_path: Path, tree: Path) -> Path:
    return factory.squashfs(tmp_path / "x.sqsh", tree)


@pytest.fixture
def mounted(image: Path, mountpoint: Path) -> Iterator[int]:
    """The image on the mountpoint; the server's pid."""
    report = FuseMounter().mount(str(image), described(image), str(mountpoint))
    yield report.server
    FuseMounter().unmount(str(mountpoint), lazy=True)


def gone(pid: int) -> bool:
    for _ in range(500):
        if ProcessIdentity.of(pid) is None:
            return True
        time.sleep(0.01)
    return False


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)


@pytest.mark.parametrize("compression", ["gzip", "xz", "zstd", "lz4"])
def test_squashfs(tmp_path: Path, tree: Path, mountpoint: Path, compression: str) -> None:
    image = factory.squashfs(tmp_path / "x.sqsh", tree, compression)
    assert shows(FuseMounter(), image, mountpoint) == content(tree)


@pytest.mark.needs("siftool")
def test_a_sif_at_its_offset(tmp_path: Path, tree: Path, image: Path, mountpoint: Path) -> None:
    assert shows(FuseMounter(), factory.sif(tmp_path / "x.sif", image), mountpoint) == content(tree)


def test_an_image_without_padding(tmp_path: Path, tree: Path, mountpoint: Path) -> None:
    image = factory.squashfs(tmp_path / "x.sqsh", tree, "gzip", "-nopad")
    assert shows(FuseMounter(), image, mountpoint) == content(tree)


@pytest.mark.parametrize("name", ["with blank", "a,b", "a\\b", "a\\,b", "line\nbreak", "-dash", "\udcff"])
def test_odd_names(tmp_path: Path, tree: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "mountpoint").mkdir()
    image = factory.squashfs(folder / "x.sqsh", tree)
    report = FuseMounter().mount(str(image), described(image), str(folder / "mountpoint"))
    there = linux.mounted(str(folder / "mountpoint"))
    FuseMounter().unmount(str(folder / "mountpoint"))
    assert there is not None
    assert (there.source, there.fstype) == (str(image), "fuse.squashfuse_ll")
    assert gone(report.server), "a server goes with its mount"


def test_a_relative_path(image: Path, mountpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image.parent)
    FuseMounter().mount(image.name, described(image), mountpoint.name)
    assert content(mountpoint)
    FuseMounter().unmount(mountpoint.name)
    assert linux.mounted(str(mountpoint)) is None


def test_many_open_descriptors_are_no_obstacle(image: Path, tree: Path, mountpoint: Path) -> None:
    """The shell has its own use for descriptors from 10 on."""
    fds = [os.dup(0) for _ in range(20)]
    try:
        assert shows(FuseMounter(), image, mountpoint) == content(tree)
    finally:
        for fd in fds:
            os.close(fd)


def test_the_server_is_nobodys_child(mounted: int) -> None:
    stat = Path(f"/proc/{mounted}/stat").read_text().rpartition(") ")[2].split()
    parent, session = int(stat[1]), int(stat[3])
    assert parent != os.getpid()
    assert session not in {os.getsid(0), mounted}
    assert Path(f"/proc/{mounted}/cwd").readlink() == Path("/")
    streams = [str(Path(f"/proc/{mounted}/fd/{number}").readlink()) for number in range(3)]
    assert streams[:2] == ["/dev/null", "/dev/null"]
    assert streams[2].startswith("pipe:")
    ours = {os.readlink(f"/proc/self/fd/{number}") for number in range(3)}
    assert streams[2] not in ours


def test_the_server_outlives_us_and_holds_no_stream_of_ours(image: Path, tree: Path, mountpoint: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.support.mounting import described\n"
        "from stager.mounts.fuse import FuseMounter\n"
        "print(FuseMounter().mount(sys.argv[1], described(Path(sys.argv[1])), sys.argv[2]).server)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", code, str(image), str(mountpoint)]
    # As in $(stage-image mount REF): ends when nobody holds the pipes any more.
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=30, env=env, cwd=ROOT)
    assert done.stderr == ""
    assert ProcessIdentity.of(int(done.stdout)) is not None
    assert content(mountpoint) == content(tree)
    FuseMounter().unmount(str(mountpoint))
    assert gone(int(done.stdout))


def test_no_descriptor_of_ours_stays_open(image: Path, tree: Path, mountpoint: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert shows(FuseMounter(), image, mountpoint) == content(tree)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_dead_server_is_found_and_replaced(image: Path, tree: Path, mountpoint: Path, mounted: int) -> None:
    assert content(mountpoint) == content(tree)
    assert not is_dead(str(mountpoint))
    killed(mounted)
    assert mountpoint.stat().st_ino, "stat does not notice"
    assert is_dead(str(mountpoint))
    FuseMounter().unmount(str(mountpoint), lazy=True)
    assert not is_dead(str(mountpoint))
    assert shows(FuseMounter(), image, mountpoint) == content(tree)


def test_a_dead_mount_that_is_still_open(mountpoint: Path, mounted: int) -> None:
    fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        killed(mounted)
        with pytest.raises(InUse):
            FuseMounter().unmount(str(mountpoint))
        FuseMounter().unmount(str(mountpoint), lazy=True)
        assert linux.mounted(str(mountpoint)) is None
    finally:
        os.close(fd)


def test_a_stopped_server_is_not_dead_and_holds_nobody_up(
    mountpoint: Path, mounted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuse, "ANSWER_PATIENCE", 0.2)
    os.kill(mounted, signal.SIGSTOP)
    try:
        assert not is_dead(str(mountpoint))
        assert linux.mounted(str(mountpoint)) is not None, "looking at the table does not ask the server"
    finally:
        os.kill(mounted, signal.SIGCONT)


def test_what_is_no_fuse_mount_is_not_dead(tmp_path: Path) -> None:
    assert not is_dead(str(tmp_path))
    assert not is_dead(str(tmp_path / "nowhere"))


def test_busy(tree: Path, mountpoint: Path, mounted: int) -> None:
    with (mountpoint / "text").open("rb") as file:
        with pytest.raises(InUse, match="while programs use it"):
            FuseMounter().unmount(str(mountpoint))
        FuseMounter().unmount(str(mountpoint), lazy=True)
        assert linux.mounted(str(mountpoint)) is None
        assert file.read() == (tree / "text").read_bytes()
    assert gone(mounted)


def test_unmounting_what_is_not_mounted(tmp_path: Path, mountpoint: Path) -> None:
    FuseMounter().unmount(str(mountpoint))
    FuseMounter().unmount(str(mountpoint), lazy=True)
    FuseMounter().unmount(str(tmp_path / "nowhere" / "at all"))


def test_roots_mounts_are_for_all_as_their_modes_say(tmp_path: Path, tree: Path, public_path: Path) -> None:
    (tree / "secret").write_text("x")
    (tree / "secret").chmod(0o600)
    (public_path / "mountpoint").mkdir()
    image = factory.squashfs(tmp_path / "y.sqsh", tree)
    FuseMounter().mount(str(image), described(image), str(public_path / "mountpoint"))
    point = public_path / "mountpoint"

    def look() -> tuple[bytes, int | None]:
        with pytest.raises(OSError, match="secret") as caught:
            (point / "secret").read_bytes()
        return (point / "text").read_bytes(), caught.value.errno

    try:
        assert apart(look, user=NOBODY) == ((tree / "text").read_bytes(), errno.EACCES)
    finally:
        FuseMounter().unmount(str(point))


@pytest.fixture
def own(public_path: Path, image: Path) -> Path:
    """A directory of an ordinary user, with an image and a mountpoint."""
    (public_path / "x.sqsh").write_bytes(image.read_bytes())
    (public_path / "mountpoint").mkdir()
    for path in (public_path / "x.sqsh", public_path / "mountpoint"):
        os.chown(path, NOBODY, NOBODY)
    return public_path


def as_user(own: Path, tree: Path) -> None:
    image, point, way = own / "x.sqsh", own / "mountpoint", FuseMounter()
    assert shows(way, image, point) == content(tree)
    way.unmount(str(point))

    report = way.mount(str(image), described(image), str(point))
    with (point / "text").open("rb"):
        with pytest.raises(InUse):
            way.unmount(str(point))
        way.unmount(str(point), lazy=True)
    assert gone(report.server)

    report = way.mount(str(image), described(image), str(point))
    killed(report.server)
    assert is_dead(str(point))
    way.unmount(str(point))
    assert linux.mounted(str(point)) is None


@pytest.mark.needs("user-switch")
def test_as_an_ordinary_user(own: Path, tree: Path) -> None:
    copy = own / "tree"
    subprocess.run(["cp", "-a", str(tree), str(copy)], check=True)
    apart(lambda: as_user(own, copy), user=NOBODY, prepare=open_fuse_to_all)


@pytest.mark.needs("user-switch", "userns")
def test_in_a_user_namespace(own: Path, tree: Path) -> None:
    copy = own / "tree"
    subprocess.run(["cp", "-a", str(tree), str(copy)], check=True)

    def run() -> None:
        mounting.enter_user_namespace()
        assert not linux.privileged()
        as_user(own, copy)

    apart(run, user=NOBODY, prepare=open_fuse_to_all)


@pytest.mark.needs("user-switch")
def test_what_a_user_may_not_unmount(own: Path) -> None:
    def run() -> str:
        mount_as_root(own)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with pytest.raises(MountFailed) as caught:
            FuseMounter().unmount(str(own / "mountpoint"))
        return caught.value.message

    def mount_as_root(own: Path) -> None:
        os.chown(own / "mountpoint", 0, 0)
        os.chown(own / "x.sqsh", 0, 0)
        FuseMounter().mount(str(own / "x.sqsh"), described(own / "x.sqsh"), str(own / "mountpoint"))

    try:
        assert "cannot be unmounted: fusermount3 failed with exit code 1" in mounting.forked(run)
    finally:
        FuseMounter().unmount(str(own / "mountpoint"))


@pytest.mark.needs("user-switch")
def test_a_device_for_root_alone(own: Path) -> None:
    def close_fuse() -> None:
        open_fuse_to_all()
        os.chmod("/dev/fuse", 0o600)

    info = described(own / "x.sqsh")

    def run() -> tuple[str, str]:
        with pytest.raises(MountUnavailable) as caught:
            FuseMounter().mount(str(own / "x.sqsh"), info, str(own / "mountpoint"))
        return FuseMounter().obstacle(info), caught.value.message

    why = "this user may not open /dev/fuse"
    assert apart(run, user=NOBODY, prepare=close_fuse) == (why, why)


def pretend(folder: Path, script: str) -> FuseSetting:
    """Put a squashfuse_ll in front of the real one."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "squashfuse_ll"
    program.write_text(f"#!/bin/sh\nreal={of_environment().server('squashfs')}\n{script}\n")
    program.chmod(0o755)
    return FuseSetting(str(folder / "bin"))


LIBFUSE_2 = """
case "$3" in
*,nonempty,*) exec "$real" "$1" "$2" "$(echo "$3" | sed s/,nonempty//)" "$4" "$5" ;;
esac
echo "fuse: mountpoint is not empty" >&2
echo "fuse: if you are sure this is safe, use the 'nonempty' mount option" >&2
exit 1
"""


def test_libfuse_2_on_a_directory_that_is_not_empty(tmp_path: Path, image: Path, tree: Path, mountpoint: Path) -> None:
    (mountpoint / "placeholder").touch()
    assert shows(FuseMounter(setting=pretend(tmp_path, LIBFUSE_2)), image, mountpoint) == content(tree)


def test_libfuse_3_on_a_directory_that_is_not_empty(image: Path, tree: Path, mountpoint: Path) -> None:
    (mountpoint / "placeholder").touch()
    assert shows(FuseMounter(), image, mountpoint) == content(tree)


def test_a_server_that_never_mounts_is_ended(
    tmp_path: Path, image: Path, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.4)
    setting = pretend(tmp_path, f"echo dozing >&2; echo $$ >{tmp_path}/pid; exec sleep 60")
    with pytest.raises(MountFailed, match=r"squashfuse_ll did not mount within 0.4 s: dozing"):
        FuseMounter(setting=setting).mount(str(image), described(image), str(mountpoint))
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_server_that_mounts_and_dies(image: Path, mountpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_mounted = server.Server.has_mounted

    def and_dies(self: server.Server, mountpoint: str, before: int, clock: Clock) -> bool:
        there = has_mounted(self, mountpoint, before, clock)
        killed(self.pid)
        return there

    monkeypatch.setattr(server.Server, "has_mounted", and_dies)
    with pytest.raises(MountFailed, match="squashfuse_ll died as soon as it had mounted"):
        FuseMounter().mount(str(image), described(image), str(mountpoint))
    assert linux.mounted(str(mountpoint)) is None


def test_a_server_may_go_on_complaining(tmp_path: Path, image: Path, tree: Path, mountpoint: Path) -> None:
    """Nobody reads its stderr any more once it has mounted."""
    script = f"""
"$real" "$@" &
while ! test -e {tmp_path}/go; do sleep 0.01; done
echo late >&2
touch {tmp_path}/survived
wait $!
"""
    way = FuseMounter(setting=pretend(tmp_path, script))
    report = way.mount(str(image), described(image), str(mountpoint))
    try:
        (tmp_path / "go").touch()
        while not (tmp_path / "survived").exists():
            assert ProcessIdentity.of(report.server) is not None, "it died of its complaint"
            time.sleep(0.01)
        assert content(mountpoint) == content(tree)
    finally:
        way.unmount(str(mountpoint))
    assert gone(report.server)


@pytest.mark.needs("loop")
def test_a_mount_upon_another_is_waited_for(tmp_path: Path, image: Path, mountpoint: Path) -> None:
    slow = FuseMounter(setting=pretend(tmp_path, 'sleep 0.2; exec "$real" "$@"'))
    LoopMounter().mount(str(image), described(image), str(mountpoint))
    try:
        slow.mount(str(image), described(image), str(mountpoint))
        upper = linux.mounted(str(mountpoint))
        assert upper is not None
        assert upper.fstype == "fuse.squashfuse_ll"
    finally:
        FuseMounter().unmount(str(mountpoint))
    assert linux.mounted(str(mountpoint)) is None


@pytest.mark.parametrize(
    ("script", "kind", "why"),
    [
        ("echo 'fuse: device not found, try modprobe fuse first' >&2; exit 1", MountUnavailable, "device not found"),
        ("echo 'fusermount3: mount failed: Permission denied' >&2; exit 1", MountUnavailable, "Permission denied"),
        ("echo 'Squashfs image uses (null) compression' >&2; exit 1", MountFailed, "compression"),
        ("exit 1", MountFailed, "it did not say why"),
        ("seq 100000 >&2; exit 1", MountFailed, "failed: "),
    ],
)
def test_a_server_that_refuses(
    tmp_path: Path, image: Path, mountpoint: Path, script: str, kind: type[Exception], why: str
) -> None:
    with pytest.raises(kind, match=why):
        FuseMounter(setting=pretend(tmp_path, script)).mount(str(image), described(image), str(mountpoint))


def test_what_the_real_server_says_of_something_else(tmp_path: Path, mountpoint: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"x" * 8192)
    info = ImageInfo("squashfs", 8192, "gzip", Partition(0, 8192, "squashfs", primary=True))
    with pytest.raises(MountFailed, match="doesn't look like a squashfs image"):
        FuseMounter().mount(str(other), info, str(mountpoint))


def test_a_missing_device(tmp_path: Path) -> None:
    assert FuseSetting(os.defpath, str(tmp_path / "fuse")).obstacle().startswith(f"there is no {tmp_path}/fuse")


def test_why_a_program_does_not_become_root(tmp_path: Path) -> None:
    real = of_environment().fusermount()
    assert setuid_obstacle(real) == ""
    (tmp_path / "copy").write_bytes(Path(real).read_bytes())
    (tmp_path / "copy").chmod(0o755)
    assert setuid_obstacle(str(tmp_path / "copy")) == f"{tmp_path}/copy is not setuid root"

    def on_nosuid() -> str:
        mounting.mount_new("tmpfs", tmp_path, mounting.MS_NOSUID)
        (tmp_path / "copy").write_bytes(b"")
        (tmp_path / "copy").chmod(0o4755)
        return setuid_obstacle(str(tmp_path / "copy"))

    assert "mounted nosuid" in apart(on_nosuid)

    def without_new_privileges() -> str:
        assert mounting.forbid_new_privileges() == 0
        return setuid_obstacle(real)

    assert "no_new_privs" in mounting.forked(without_new_privileges)
