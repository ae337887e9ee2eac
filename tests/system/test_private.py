"""Jobs' own directories, made and removed as root where users do their worst: links, mounts, and writing meanwhile."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.errors import InUse, StageImageError, StoreUnusable
from stager.mounts.namespace import Namespace
from stager.schedulers import private
from stager.schedulers.private import Directory, Made, Place
from tests.support.fake_clock import FakeClock
from tests.support.mounting import apart, bind, mount_new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.needs("root", "mount", "user-switch"), pytest.mark.usefixtures("leaves_nothing")]

USER, OTHER = 20001, 20002

Tree = dict[str, "Tree | str"]
"""Name → what is there: a directory, or one of KINDS."""
KINDS = ("file", "link", "link to file", "hard link", "fifo", "dangling")
trees = st.recursive(
    st.just(cast("Tree", {})),
    lambda below: st.dictionaries(
        st.text("ab\n é.-", min_size=1, max_size=4).filter(lambda name: name not in {".", ".."}),
        st.one_of(st.sampled_from(KINDS), below),
        max_size=5,
    ),
    max_leaves=12,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """What slurm.private would name; its directory is root's."""
    return tmp_path / "scratch" / "tmp"


@pytest.fixture
def directory(base: Path) -> Directory:
    base.parent.mkdir()
    (directory,) = private.directories(private.parse((f"/tmp={base}",)), "7", 0)
    return directory


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Somebody else's directory, of which nothing may change."""
    victim = tmp_path / "victim"
    (victim / "below").mkdir(parents=True)
    (victim / "file").write_text("precious")
    (victim / "below" / "file").write_text("precious")
    return victim


@contextmanager
def unharmed(victim: Path) -> Iterator[None]:
    def seen() -> dict[str, tuple[int, int, str]]:
        found = {str(path): path.lstat() for path in (victim, *victim.rglob("*"))}
        return {
            name: (s.st_mode, s.st_uid, Path(name).read_text() if stat.S_ISREG(s.st_mode) else "")
            for name, s in found.items()
        }

    before = seen()
    yield
    assert seen() == before


class Ticking(FakeClock):
    """Every look at it takes a tenth of a second."""

    TICK = 0.1

    def now(self) -> float:
        self.advance(self.TICK)
        return super().now()


def as_user(place: str, function: Callable[[], object]) -> int:
    """Start doing something as an ordinary user in a directory that he may not be able to reach; return the pid."""
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(place)
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            function()
        finally:
            os._exit(0)
    return pid


def plant(folder: Path, tree: Tree, victim: Path) -> None:
    for name, what in tree.items():
        path = folder / name
        match what:
            case "file":
                path.write_text("x")
            case "link":
                path.symlink_to(victim)
            case "link to file":
                path.symlink_to(victim / "file")
            case "hard link":
                path.hardlink_to(victim / "file")
            case "fifo":
                os.mkfifo(path)
            case "dangling":
                path.symlink_to("nowhere")
            case str():
                raise AssertionError(what)
            case below:
                path.mkdir()
                plant(path, below, victim)
                path.chmod(0)


def removed(made: Made) -> None:
    private.remove(made.path, made.dev, made.ino)
    assert not Path(made.path).parent.exists()


def test_it_is_the_users_alone(directory: Directory) -> None:
    before = os.umask(0)
    try:
        made = private.make(directory, USER, USER)
    finally:
        os.umask(before)
    found = Path(directory.path).stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (USER, USER, 0o700)
    assert made == Made(directory.path, found.st_dev, found.st_ino)
    outer = Path(directory.path).parent.stat()
    assert (outer.st_uid, stat.S_IMODE(outer.st_mode)) == (0, 0o700)


def test_the_same_users_is_taken_as_it_is_but_closed_again(directory: Directory) -> None:
    made = private.make(directory, USER, USER)
    (Path(made.path) / "kept").touch()
    Path(made.path).chmod(0o777)
    assert private.make(directory, USER, USER) == made
    assert (Path(made.path) / "kept").exists()
    assert stat.S_IMODE(Path(made.path).stat().st_mode) == 0o700


def test_what_is_left_half_made_is_made_anew(directory: Directory) -> None:
    Path(directory.path).mkdir(parents=True, mode=0o700)
    private.make(directory, USER, USER)
    assert Path(directory.path).stat().st_uid == USER


@pytest.mark.parametrize("owner", [0, OTHER])
def test_others_content_is_not_given_away(directory: Directory, owner: int) -> None:
    made = private.make(directory, owner, owner)
    (Path(made.path) / "secret").touch()
    with pytest.raises(StoreUnusable, match=f"it is there, and belongs to uid {owner}"):
        private.make(directory, USER, USER)
    assert Path(made.path).stat().st_uid == owner


def _file(place: Path, victim: Path) -> None:
    place.touch()


def _link(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def _fifo(place: Path, victim: Path) -> None:
    os.mkfifo(place)


@pytest.mark.parametrize("plant", [_file, _link, _fifo])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_nothing_but_a_directory_will_do(
    directory: Directory, victim: Path, plant: Callable[[Path, Path], None], level: int
) -> None:
    place = [Path(directory.path), *Path(directory.path).parents][level]
    if level == 2:
        place.rmdir()
    place.parent.mkdir(exist_ok=True, mode=0o711)
    plant(place, victim)
    before = place.lstat()
    with unharmed(victim), pytest.raises(StoreUnusable):
        private.make(directory, USER, USER)
    with unharmed(victim), suppress(StageImageError):
        private.remove(directory.path, 0, 0)
    assert place.lstat().st_ino == before.st_ino
    assert place.lstat().st_mode == before.st_mode


@pytest.mark.parametrize(
    ("owner", "mode", "fits"), [(0, 0o755, True), (0, 0o777, False), (0, 0o775, False), (USER, 0o755, False)]
)
@pytest.mark.parametrize("level", [1, 2])
def test_the_way_is_roots(directory: Directory, owner: int, mode: int, *, level: int, fits: bool) -> None:
    place = Path(directory.path).parents[level - 1]
    place.mkdir(exist_ok=True)
    os.chown(place, owner, owner)
    place.chmod(mode)
    if fits:
        private.make(directory, USER, USER)
        return
    with pytest.raises(StoreUnusable, match="changed by others than root"):
        private.make(directory, USER, USER)


def test_in_a_sticky_directory_it_is_made_unless_somebody_was_quicker(directory: Directory) -> None:
    outer = Path(directory.path).parent
    outer.parent.chmod(0o1777)
    os.waitpid(as_user(str(outer.parent), Path(outer.name).mkdir), 0)
    with pytest.raises(StoreUnusable, match="changed by others than root"):
        private.make(directory, USER, USER)
    outer.rmdir()
    outer.mkdir()
    outer.chmod(0o1777)
    with pytest.raises(StoreUnusable, match="written by others than root"):
        private.make(directory, USER, USER)
    outer.rmdir()
    removed(private.make(directory, USER, USER))


def test_a_base_on_a_disk_that_is_not_there(directory: Directory) -> None:
    Path(directory.path).parents[1].rmdir()
    with pytest.raises(StoreUnusable, match="No such file"):
        private.make(directory, USER, USER)
    private.remove(directory.path, 1, 1)


def test_what_stands_in_the_way_is_told_before_a_job_comes(tmp_path: Path, base: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (place,) = places = (Place(f"{tmp_path}/tmp", str(base)),)
    assert private.obstacles(places) == (
        f"no directory can be made next to {base}: {base.parent}: No such file or directory",
    )
    base.parent.mkdir()
    assert private.obstacles(places) == ()
    private.make(private.directories(places, "7", 0)[0], USER, USER)
    base.parent.chmod(0o777)
    (told,) = private.obstacles(places)
    assert "can be changed by others than root" in told
    base.parent.chmod(0o1777)
    Path(place.mount).rmdir()
    Path(place.mount).symlink_to(base.parent)
    (told,) = private.obstacles(places)
    assert told.startswith(f"nothing can be mounted on {place.mount}: ")
    assert "symbolic links are not followed" in told


@given(trees)
def test_all_of_a_tree_goes_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, tree: Tree) -> None:
    tmp_path = tmp_path_factory.mktemp("law")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    made = private.make(Directory("/tmp", f"{tmp_path}/tmp.7.0/_tmp"), USER, USER)
    plant(Path(made.path), tree, victim)
    with unharmed(victim):
        removed(made)
    assert os.listdir(tmp_path) == ["victim"]


def test_requeued_jobs_leave_nothing(base: Path) -> None:
    base.parent.mkdir()
    places = private.parse((f"/var/tmp={base}", f"/scratch={base}-other", f"/tmp={base}"))
    made = [private.make(each, USER, USER) for run in range(3) for each in private.directories(places, "7", run)]
    assert len({each.ino for each in made}) == 9
    for each in made:
        (Path(each.path) / "left").touch()
        private.remove(each.path, each.dev, each.ino)
        private.remove(each.path, each.dev, each.ino)
    assert os.listdir(base.parent) == []


def test_deeper_than_descriptors_and_recursion_go(directory: Directory) -> None:
    made = private.make(directory, USER, USER)

    def dig() -> None:
        for _ in range(2500):
            os.mkdir("d")
            os.chdir("d")

    os.waitpid(as_user(made.path, dig), 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 16, hard))
    try:
        removed(made)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _write_on(gate: int) -> None:
    """Go on making files and directories, in the place and further down."""
    number = 0
    while True:
        for act in (partial(os.mkdir, f"d{number}"), Path(f"f{number}").touch):
            with suppress(OSError):
                act()
        if number == 100:
            os.write(gate, b"!")
        number += 1


def test_a_process_that_goes_on_writing_is_shut_out(directory: Directory) -> None:
    made = private.make(directory, USER, USER)
    ours, theirs = os.pipe()
    writer = as_user(made.path, lambda: _write_on(theirs))
    try:
        assert os.read(ours, 1) == b"!"
        removed(made)
        assert os.waitpid(writer, os.WNOHANG) == (0, 0), "it was there all the time"
    finally:
        os.kill(writer, 9)
        os.waitpid(writer, 0)
        os.close(ours)
        os.close(theirs)


def _dig_on(gate: int) -> None:
    for number in range(1_000_000):
        os.mkdir("d")
        os.chdir("d")
        if number == 100:
            os.write(gate, b"!")


def test_one_who_digs_faster_than_we_remove_does_not_hold_us(directory: Directory) -> None:
    made = private.make(directory, USER, USER)
    ours, theirs = os.pipe()
    digger = as_user(made.path, lambda: _dig_on(theirs))
    try:
        assert os.read(ours, 1) == b"!"
        begun = time.monotonic()
        with suppress(InUse):
            private.remove(made.path, made.dev, made.ino, clock=Ticking())
        assert time.monotonic() - begun < 10
    finally:
        os.kill(digger, 9)
        os.waitpid(digger, 0)
        os.close(ours)
        os.close(theirs)
    removed(made)


def test_too_much_for_its_time_is_left_for_another_time(directory: Directory) -> None:
    made = private.make(directory, USER, USER)
    for number in range(int(private.PATIENCE / Ticking.TICK) + 10):
        (Path(made.path) / str(number)).touch()
    with pytest.raises(InUse, match="not empty yet"):
        private.remove(made.path, made.dev, made.ino, clock=Ticking())
    removed(made)


@pytest.mark.parametrize(
    "cover",
    [
        lambda folder, victim: mount_new("tmpfs", folder),
        lambda folder, victim: bind(victim, folder),
        lambda folder, victim: bind(victim / "file", folder / "file"),
    ],
    ids=["tmpfs", "directory of the same file system", "file"],
)
@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_mounts_are_not_crossed(
    directory: Directory, victim: Path, cover: Callable[[Path, Path], None], below: str
) -> None:
    made = private.make(directory, USER, USER)
    folder = Path(made.path) / below
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").touch()
    (Path(made.path) / "other").touch()

    def under_a_mount() -> None:
        cover(folder, victim)
        with pytest.raises(InUse):
            private.remove(made.path, made.dev, made.ino)

    with unharmed(victim):
        apart(under_a_mount)
    assert Path(made.path).exists()
    removed(made)


def test_mounts_of_the_jobs_own_do_not_hold_it(directory: Directory, tmp_path: Path) -> None:
    """A user's FUSE mount in his namespace, whose server escaped Slurm: the node does not see it."""
    pin = str(tmp_path / "ns")
    script = f"cd {tmp_path}; mkdir tmp/m && mount -t tmpfs own tmp/m && touch tmp/m/f && echo there && read on; ls tmp"
    (tmp_path / "tmp").mkdir()

    def job() -> bytes:
        made = private.make(directory, USER, USER)
        Namespace().pin(pin, [(directory.path, f"{tmp_path}/tmp")])
        words = ("nsenter", f"--mount={pin}/mnt", "sh", "-c", script)
        left = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert left.stdout is not None
        assert left.stdout.readline() == b"there\n"
        Namespace().unpin(pin)
        removed(made)
        return left.communicate(b"go on\n")[0]

    assert apart(job) == b""


def test_something_else_by_now(directory: Directory) -> None:
    made = private.make(directory, USER, USER)
    (Path(made.path) / "kept").touch()
    for dev, ino in ((made.dev + 1, made.ino), (made.dev, made.ino + 1), (0, made.ino + 1)):
        with pytest.raises(StoreUnusable, match="not the directory that was made for the job"):
            private.remove(made.path, dev, ino)
    assert (Path(made.path) / "kept").exists()
    private.remove(made.path, 0, 0)
    assert not Path(made.path).exists()


def test_where_directories_cannot_be_moved(tmp_path: Path) -> None:
    """overlayfs does not rename what comes from below (EXDEV)."""
    path = f"{tmp_path}/merged/tmp.7.0/_tmp"

    def on_an_overlay() -> list[str]:
        mount_new("tmpfs", tmp_path)
        for name in ("lower", "upper", "work", "merged"):
            (tmp_path / name).mkdir()
        made = private.make(Directory("/tmp", path.replace("merged", "lower")), USER, USER)
        (Path(made.path) / "a/b/c").mkdir(parents=True)
        (Path(made.path) / "a/b/file").touch()
        layers = ",".join(f"{name}dir={tmp_path}/{name}" for name in ("lower", "upper", "work"))
        subprocess.run(("mount", "-t", "overlay", "-o", layers, "overlay", str(tmp_path / "merged")), check=True)
        private.remove(path, 0, 0)
        return os.listdir(tmp_path / "merged")

    assert apart(on_an_overlay) == []
