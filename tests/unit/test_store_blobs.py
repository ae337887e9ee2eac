"""The cache of layers: what is found in it is right, what is hostile is removed and never followed, holders keep."""

from __future__ import annotations

import errno
import os
import stat
import threading
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from stager import filesystem, process
from stager.errors import DigestMismatch, LeaderLost, OriginUnavailable, StoreUnusable
from stager.reference import Digest
from stager.store import blob_files, folder
from stager.store.blob_reading import Restarted
from stager.store.blobs import Blobs
from tests.support.within import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stager.store.blob_partial import BlobPartial
    from stager.store.blob_reading import Growing

CONTENT = bytes(range(250)) * 8
SIZE = len(CONTENT)
DIGEST = Digest(sha256(CONTENT).hexdigest())
PRECIOUS = b"somebody else's"


@pytest.fixture(autouse=True)
def _bound() -> Iterator[None]:
    with within(10):
        yield


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(folder.open_store(str(tmp_path / "store")))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that a hostile link leads to, in a directory of its own."""
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "precious"
    path.write_bytes(PRECIOUS)
    return path


def claimed(blobs: Blobs, *, aside: bool = False) -> BlobPartial:
    copy = blobs.claim(DIGEST, SIZE, aside=aside)
    assert copy is not None
    return copy


def claimed_other(blobs: Blobs) -> BlobPartial:
    copy = blobs.claim(Digest("ab" * 32), SIZE)
    assert copy is not None
    return copy


def kept(blobs: Blobs, content: bytes = CONTENT) -> Path:
    """Put a blob into the cache that nobody holds."""
    digest = Digest(sha256(content).hexdigest())
    copy = blobs.claim(digest, len(content))
    assert copy is not None
    copy.append(content)
    copy.commit().close()
    return Path(blobs.layout.blob(digest))


def tree(root: str) -> list[str]:
    """Return the files below `root`."""
    return sorted(f"{parent}/{name}"[len(root) + 1 :] for parent, _, names in os.walk(root) for name in names)


def test_a_store_without_blobs_has_none_and_gets_no_folder_by_looking(blobs: Blobs) -> None:
    assert blobs.find(DIGEST, SIZE) is None
    assert blobs.hold(DIGEST, SIZE) is None
    assert (blobs.all(), blobs.spare(), blobs.total_size(), blobs.drop(DIGEST)) == ([], [], 0, 0)
    assert not os.path.exists(blobs.layout.blobs)


def test_a_blob_is_fetched_once_and_found(blobs: Blobs) -> None:
    copy = claimed(blobs)
    assert (copy.held, copy.resumed, copy.complete) == (0, False, False)
    copy.append(CONTENT[:700])
    assert blobs.find(DIGEST, SIZE) is None
    copy.append(CONTENT[700:])
    assert copy.complete
    with copy.commit() as hold:
        assert Path(hold.path).read_bytes() == CONTENT
    assert blobs.find(DIGEST, SIZE) == blobs.layout.blob(DIGEST)
    assert blobs.claim(DIGEST, SIZE) is None, "it is there"
    assert tree(blobs.layout.blobs) == [f"sha256/{DIGEST.hex[:2]}/{DIGEST.hex}"]
    assert stat.S_IMODE(os.stat(hold.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(blobs.layout.blobs).st_mode) == 0o700


def test_an_empty_blob(blobs: Blobs) -> None:
    assert kept(blobs, b"").read_bytes() == b""
    hold = blobs.hold(Digest(sha256(b"").hexdigest()), 0)
    assert hold is not None
    with hold, hold.open() as file:
        assert file.read() == b""


def test_one_fills_it_at_a_time(blobs: Blobs) -> None:
    with claimed(blobs) as first:
        assert blobs.claim(DIGEST, SIZE) is None
        assert blobs.arrived(DIGEST) == 0
        first.append(CONTENT[:300])
        assert blobs.arrived(DIGEST) == 300
        with claimed(blobs, aside=True) as second:
            assert second.folder != first.folder
    assert blobs.claim(DIGEST, SIZE) is not None


def test_what_was_given_up_is_gone_on_with(blobs: Blobs) -> None:
    for aside in (False, True):
        with claimed(blobs, aside=aside) as copy:
            copy.append(CONTENT[:500])
        with claimed(blobs, aside=aside) as copy:
            assert (copy.held, copy.resumed) == (500, True)
            copy.append(CONTENT[500:600])
        with claimed(blobs, aside=aside) as copy:
            assert copy.held == 600
            copy.discard()
    assert tree(blobs.layout.blobs) == []


def test_who_was_passed_over_does_no_harm_and_comes_to_no_harm(blobs: Blobs) -> None:
    slow, fast = claimed(blobs), claimed(blobs, aside=True)
    slow.append(CONTENT[:10])
    fast.append(CONTENT)
    hold = fast.commit()
    slow.append(CONTENT[10:])
    with slow.commit() as other, hold, hold.open() as old, other.open() as new:
        assert old.read() == new.read() == CONTENT


def test_no_byte_too_many(blobs: Blobs) -> None:
    with claimed(blobs) as copy:
        copy.append(CONTENT[:-1])
        with pytest.raises(DigestMismatch, match=f"blob {DIGEST} is longer than the {SIZE} bytes"):
            copy.append(b"xy")
        copy.append(CONTENT[-1:])
        copy.commit().close()


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"?", CONTENT[:-1]], ids=["others", "too few"])
def test_wrong_bytes_never_become_a_blob(blobs: Blobs, content: bytes) -> None:
    with claimed(blobs) as copy:
        copy.append(content)
        with pytest.raises(DigestMismatch, match=f"blob {DIGEST} "):
            copy.commit()
        assert blobs.find(DIGEST, SIZE) is None
        copy.restart()
        copy.append(CONTENT)
        copy.commit().close()


def test_wrong_bytes_are_not_gone_on_with(blobs: Blobs) -> None:
    with claimed(blobs) as copy:
        copy.append(b"?" * SIZE)
    assert claimed(blobs).held == 0


@pytest.mark.parametrize("held", [700, SIZE], ids=["a part", "all"])
@pytest.mark.parametrize("cut", [False, True], ids=["zeros", "cut"])
def test_after_a_power_loss_what_was_synced_counts(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch, held: int, *, cut: bool
) -> None:
    with claimed(blobs) as copy:
        copy.append(CONTENT[:500])
        copy.sync()
        assert copy.synced == 500
        copy.append(CONTENT[500:held])
        data = f"{copy.folder}/data"
    os.truncate(data, 400 if cut else 500)
    os.truncate(data, 400 if cut else held)
    monkeypatch.setattr(process, "_boot", "another1")
    with claimed(blobs) as copy:
        assert copy.held == (400 if cut else 500)
        copy.append(CONTENT[copy.held :])
        copy.commit().close()


def test_what_is_whole_is_right_whoever_synced_it(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    with claimed(blobs) as copy:
        copy.append(CONTENT)
    monkeypatch.setattr(process, "_boot", "another1")
    assert claimed(blobs).commit().size == SIZE


def test_a_sync_that_comes_late_says_nothing_of_the_new_bytes(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    with claimed(blobs) as copy:
        copy.append(b"?" * 500)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", lambda _fd: copy.restart())
            copy.sync()
        assert copy.synced == 0
        copy.append(CONTENT[:500])
    monkeypatch.setattr(process, "_boot", "another1")
    assert claimed(blobs).held == 0


def test_who_locks_what_has_become_the_blob_writes_nothing_to_it(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    first = claimed(blobs)
    first.append(CONTENT)
    real = blob_files.lock

    def overtaken(fd: int, kind: int) -> bool:
        monkeypatch.setattr(blob_files, "lock", real)
        first.commit().close()
        return real(fd, kind)

    monkeypatch.setattr(blob_files, "lock", overtaken)
    assert blobs.claim(DIGEST, SIZE) is None
    assert Path(blobs.layout.blob(DIGEST)).read_bytes() == CONTENT
    assert tree(blobs.layout.blob_partials) == []


def test_it_is_safe_before_it_is_seen(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name in ("fdatasync", "rename", "fsync"):
        monkeypatch.setattr(os, name, partial(_noted, order, name, getattr(os, name)))
    copy = claimed(blobs)
    copy.append(CONTENT)
    order.clear()
    copy.commit().close()
    assert [name for name in order if name != "fsync"] == ["fdatasync", "rename"]
    assert order[-1] == "fsync", "a name in a directory may be lost until that is synced"


def _noted(order: list[str], name: str, real: Callable[..., object], *arguments: object) -> object:
    order.append(name)
    return real(*arguments)


class TestHolding:
    def test_what_is_held_stays(self, blobs: Blobs) -> None:
        path = kept(blobs)
        first, second = blobs.hold(DIGEST, SIZE), blobs.hold(DIGEST, SIZE)
        assert first is not None
        assert second is not None
        first.close()
        first.close()
        assert (blobs.drop(DIGEST), blobs.idle(), blobs.spare()) == (0, [], [])
        file = second.open()
        second.close()
        assert blobs.drop(DIGEST) == 0, "a file that is read from keeps it, too"
        file.close()
        assert [blob.digest for blob in blobs.idle()] == [DIGEST]
        assert blobs.drop(DIGEST) == SIZE
        assert not path.exists()

    def test_committing_holds(self, blobs: Blobs) -> None:
        copy = claimed(blobs)
        copy.append(CONTENT)
        with copy.commit():
            assert blobs.drop(DIGEST) == 0
            other = blobs.hold(DIGEST, SIZE)
            assert other is not None, "one who has fetched it keeps nobody else from it"
            other.close()
        assert blobs.drop(DIGEST) == SIZE

    def test_what_is_removed_by_hand_is_still_read(self, blobs: Blobs) -> None:
        path = kept(blobs)
        hold = blobs.hold(DIGEST, SIZE)
        assert hold is not None
        path.unlink()
        with hold, hold.open() as file:
            file.seek(-5, os.SEEK_END)
            assert file.read() == CONTENT[-5:]
            file.seek(3)
            assert file.read(4) == CONTENT[3:7]

    def test_files_are_independent(self, blobs: Blobs) -> None:
        kept(blobs)
        hold = blobs.hold(DIGEST, SIZE)
        assert hold is not None
        with hold, hold.open() as one, hold.open() as other:
            assert (one.read(10), other.read(20), one.read(10)) == (CONTENT[:10], CONTENT[:20], CONTENT[10:20])

    def test_holding_is_using_and_looking_is_not(self, blobs: Blobs) -> None:
        path = kept(blobs)
        os.utime(path, (1000, 1000))
        blobs.find(DIGEST, SIZE)
        blobs.verify(blobs.all()[0])
        assert [blob.last_used for blob in blobs.idle()] == [1000]
        hold = blobs.hold(DIGEST, SIZE)
        assert hold is not None
        hold.close()
        assert blobs.all()[0].last_used > 1000

    def test_one_that_is_being_dropped_is_none(self, blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
        kept(blobs)
        seen: list[object] = []
        monkeypatch.setattr("stager.store.blobs.PATIENCE", 0.0)
        dropping = Blobs(blobs.layout, trace=lambda _point: seen.append(blobs.hold(DIGEST, SIZE)))
        assert dropping.drop(DIGEST) == SIZE
        assert seen == [None]

    def test_the_lock_of_one_that_was_replaced_means_nothing(self, blobs: Blobs) -> None:
        path = kept(blobs)
        fd = blob_files.open_own(str(path), os.O_RDONLY)
        assert fd is not None
        blobs.drop(DIGEST)
        with claimed(blobs) as copy:
            copy.append(CONTENT)
            copy.commit().close()
        assert not blob_files.is_same(os.fstat(fd), str(path))
        os.close(fd)


class TestFollowing:
    def read(self, file: Growing, into: list[object]) -> threading.Thread:
        def run() -> None:
            try:
                into.append(file.readall())
            except Exception as error:  # noqa: BLE001 - what it is, is the matter
                into.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def test_bytes_are_there_as_they_come_and_the_end_when_they_are_right(self, blobs: Blobs) -> None:
        got: list[object] = []
        with claimed(blobs) as copy, copy.follow() as file:
            copy.append(CONTENT[:100])
            assert file.read(1000) == CONTENT[:100]
            assert file.seek(0) == 0
            thread = self.read(file, got)
            copy.append(CONTENT[100:])
            thread.join(0.05)
            assert got == [], "nobody knows yet whether these are the right bytes"
            copy.commit().close()
            thread.join()
        assert got == [CONTENT]

    def test_one_that_was_begun_by_another(self, blobs: Blobs) -> None:
        with claimed(blobs) as copy:
            copy.append(CONTENT[:100])
        with claimed(blobs) as copy, copy.follow() as file:
            assert file.read(1000) == CONTENT[:100]

    @pytest.mark.parametrize(
        ("act", "error"),
        [
            (lambda copy: copy.fail(OriginUnavailable("it went away")), OriginUnavailable),
            (lambda copy: copy.restart(), Restarted),
            (lambda copy: copy.close(), LeaderLost),
            (lambda copy: copy.discard(), LeaderLost),
        ],
        ids=["failed", "begun anew", "given up", "discarded"],
    )
    def test_whoever_waits_is_told(
        self, blobs: Blobs, act: Callable[[BlobPartial], None], error: type[Exception]
    ) -> None:
        got: list[object] = []
        with claimed(blobs) as copy, copy.follow() as file:
            copy.append(CONTENT[:100])
            thread = self.read(file, got)
            act(copy)
            thread.join()
        assert [type(one) for one in got] == [error]

    def test_who_begins_anew_reads_the_new_bytes_only(self, blobs: Blobs) -> None:
        with claimed(blobs) as copy:
            copy.append(b"?" * 10)
            old = copy.follow()
            copy.restart()
            copy.append(CONTENT)
            with copy.follow() as new, copy.commit():
                assert new.readall() == CONTENT
                with pytest.raises(Restarted):
                    old.read(1)
            old.close()
            old.close()

    def test_who_follows_late_reads_what_was_committed_or_is_told_why_there_is_nothing(self, blobs: Blobs) -> None:
        failed, committed = claimed(blobs, aside=True), claimed(blobs)
        failed.fail(OriginUnavailable("it went away"))
        failed.close()
        failed.sync()
        with pytest.raises(OriginUnavailable):
            failed.follow()
        committed.append(CONTENT)
        hold = committed.commit()
        with committed.follow() as file, hold:
            assert file.read(SIZE) == CONTENT
        with pytest.raises(OSError, match="Bad file descriptor"):
            committed.follow()

    def test_a_file_that_somebody_cut_is_an_error_and_no_end(self, blobs: Blobs) -> None:
        path = kept(blobs)
        hold = blobs.hold(DIGEST, SIZE)
        assert hold is not None
        os.truncate(path, 10)
        with hold, hold.open() as file, pytest.raises(StoreUnusable, match="cut"):
            file.read()


def _opened_to_all(path: str) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, CONTENT)
    os.fchmod(fd, 0o666)
    return fd


HOSTILE: dict[str, Callable[[str, Path], object]] = {
    "link to a file": lambda path, victim: os.symlink(victim, path),
    "link to a folder": lambda path, victim: os.symlink(victim.parent, path),
    "link to nowhere": lambda path, victim: os.symlink(f"{victim}.gone", path),
    "FIFO": lambda path, _victim: os.mkfifo(path),
    "folder": lambda path, _victim: os.makedirs(f"{path}/deep/er"),
    "hard link": lambda path, victim: os.link(victim, path),
    "open to others": lambda path, _victim: os.close(_opened_to_all(path)),
    "too short": lambda path, _victim: Path(path).write_bytes(b"x"),
}
hostile = pytest.mark.parametrize("kind", list(HOSTILE))


def plant(kind: str, path: str, victim: Path) -> None:
    """Put something hostile at `path`."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    HOSTILE[kind](path, victim)


@hostile
def test_no_blob_and_harmless(blobs: Blobs, victim: Path, kind: str) -> None:
    path = blobs.layout.blob(DIGEST)
    plant(kind, path, victim)
    assert blobs.hold(DIGEST, SIZE) is None
    assert blobs.drop(DIGEST) == 0
    assert not os.path.lexists(path)
    plant(kind, path, victim)
    kept(blobs)
    assert Path(path).read_bytes() == CONTENT
    assert victim.read_bytes() == PRECIOUS


@hostile
@pytest.mark.parametrize("place", ["", "data", "state"])
def test_no_copy_in_flight_and_harmless(blobs: Blobs, victim: Path, kind: str, place: str) -> None:
    path = f"{blobs.layout.blob_partial(DIGEST.hex)}/{place}".rstrip("/")
    plant(kind, path, victim)
    blobs.spare()
    assert kept(blobs).read_bytes() == CONTENT
    assert victim.read_bytes() == PRECIOUS
    assert os.listdir(victim.parent) == ["precious"]
    for one in blobs.spare():
        one.drop()
    assert tree(blobs.layout.blobs) == []


@hostile
@pytest.mark.parametrize("place", ["sha256/ab", "sha256", "partial", f"partial/{'ab' * 32}", "partial/stray"])
def test_whatever_lies_about_is_dropped_and_not_followed(blobs: Blobs, victim: Path, kind: str, place: str) -> None:
    plant(kind, f"{blobs.layout.blobs}/{place}", victim)
    assert blobs.hold(Digest("ab" * 32), 1) is None
    blobs.total_size()
    for one in blobs.spare():
        one.drop()
    assert kept(blobs).read_bytes() == CONTENT
    assert victim.read_bytes() == PRECIOUS
    assert os.listdir(victim.parent) == ["precious"]


@pytest.mark.parametrize("kind", ["link to a folder", "FIFO", "too short"])
def test_a_foreign_cache_is_refused(blobs: Blobs, victim: Path, kind: str) -> None:
    plant(kind, blobs.layout.blobs, victim)
    assert (blobs.all(), blobs.orphans()) == ([], [])
    with pytest.raises(StoreUnusable, match="blobs is not a directory of our own"):
        blobs.claim(DIGEST, SIZE)
    assert os.listdir(victim.parent) == ["precious"]


@pytest.mark.needs("root")
def test_what_belongs_to_somebody_else_is_not_taken(blobs: Blobs) -> None:
    path = kept(blobs)
    os.chown(path, 12345, 12345)
    assert blobs.all() == []
    assert blobs.find(DIGEST, SIZE) is None
    assert not path.exists()
    with claimed(blobs) as copy:
        copy.append(CONTENT[:100])
        data = f"{copy.folder}/data"
    os.chown(data, 12345, 12345)
    assert claimed(blobs).held == 0


def test_a_store_that_is_read_only_tells_what_it_has(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(blobs)
    with claimed_other(blobs) as copy:
        copy.append(b"x" * 100)
    real = os.open

    def read_only(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", read_only)
    assert [blob.digest for blob in blobs.idle()] == [DIGEST]
    assert len(blobs.spare()) == 2
    hold = blobs.hold(DIGEST, SIZE)
    assert hold is not None
    hold.close()
    with pytest.raises(OSError, match="Read-only"):
        blobs.claim(Digest("cd" * 32), SIZE)


def test_a_bad_blob_is_removed_and_a_good_one_stays(blobs: Blobs) -> None:
    good, bad = kept(blobs), kept(blobs, b"other")
    with bad.open("r+b") as file:
        file.write(b"O")
    found = {blob.digest.hex: blobs.verify(blob) for blob in blobs.all()}
    assert found[good.name] == ""
    assert found[bad.name].startswith("its sha256 is ")
    assert (good.exists(), bad.exists()) == (True, False)


class TestWork:
    def test_a_folder_of_our_own_for_a_time(self, blobs: Blobs) -> None:
        with blobs.work_folder() as path:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
            assert path.startswith(f"{blobs.layout.root}/partial/")
            os.mkdir(f"{path}/deep")
            with blobs.work_folder() as other:
                assert other != path
        assert not os.path.exists(path)

    def test_not_on_a_network(self, blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(filesystem, "inspect", lambda _path: SimpleNamespace(network=True, fstype="nfs4"))
        with pytest.raises(StoreUnusable, match="nfs4"), blobs.work_folder():
            pass
        with blobs.work_folder(allow_unsafe=True) as path:
            assert os.path.isdir(path)
