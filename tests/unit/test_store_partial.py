"""Copies in flight, at the moments that matter: splits, takeovers, publishing, power loss, strangers."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager.interfaces import Validators
from stager.store import copies, files
from stager.store.partial import Partial
from tests.support.fake_node import FakeNode, fake_node
from tests.support.within import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BYTES = bytes(range(200))
VERSION = Validators('"1"', "yesterday", len(BYTES))


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    with fake_node(str(tmp_path / "store"), monkeypatch) as made:
        yield made


@pytest.fixture
def root(node: FakeNode) -> str:
    return node.layout.partials("key")


def begun(root: str, held: int = 0, *, size: int | None = len(BYTES), private: bool = False) -> Partial:
    copy = Partial(copies.own_folder(root))
    copy.begin(Validators(VERSION.etag, VERSION.modified, size), size, "origin", private=private)
    copy.write(copy.segments[0], BYTES[:held])
    return copy


def content(copy: Partial) -> bytes:
    return os.pread(copy.fileno(), 1000, 0)


def orphaned(node: FakeNode, root: str, held: int, *, promised: bool = False, **how: bool) -> str:
    with node.processes.victim():
        copy = begun(root, held, **how)
        if promised:
            copy.promise(copy.digest())
        copy.close()
        return copy.folder


def test_an_account_outlives_the_process(root: str) -> None:
    copy = begun(root, 50, private=True)
    copy.close()
    copy.close()
    again = Partial(copy.folder)
    assert (again.held, again.position, again.size, again.complete) == (50, 50, 200, False)
    assert (again.validators, again.origin, again.private) == (VERSION, "origin", True)
    again.write(again.segments[0], BYTES[50:] + b"too much")
    assert again.complete
    assert content(again) == BYTES
    assert again.digest().hex == sha256(BYTES).hexdigest()
    again.discard()
    assert not os.path.exists(copy.folder)


def test_a_size_learnt_at_the_end_is_remembered(root: str) -> None:
    copy = begun(root, 80, size=None)
    copy.finish()
    copy.close()
    again = Partial(copy.folder)
    assert (again.size, again.complete) == (80, True)
    again.close()


def test_a_split_is_no_loss(root: str) -> None:
    copy = begun(root, 10)
    later = copy.split(copy.segments[0])
    assert (later.start, later.position, later.end) == (105, 105, 200)
    copy.close()
    again = Partial(copy.folder)
    assert again.held == 10, "the second stream had not sent a byte yet"
    again.close()


def test_segments_fill_in_any_order(root: str) -> None:
    copy = begun(root, 10)
    later = copy.split(copy.segments[0])
    copy.write(later, BYTES[105:])
    assert (copy.held, copy.position, copy.complete) == (105, 10, False)
    copy.close()
    again = Partial(copy.folder)
    assert (again.held, again.position) == (105, 10)
    again.write(again.segments[0], BYTES[10:105])
    assert again.complete
    assert again.digest().hex == sha256(BYTES).hexdigest()
    again.close()


def test_the_fullest_orphan_is_adopted_and_only_once(node: FakeNode, root: str) -> None:
    for held in (10, 150, 90):
        orphaned(node, root, held)
    taken = [copies.adopt(root) for _ in range(4)]
    assert [copy.held if copy else None for copy in taken] == [150, 90, 10, None]
    for copy in taken:
        if copy is not None:
            copy.close()


def test_the_living_are_not_robbed(root: str) -> None:
    copy = begun(root, 50)
    assert copies.adopt(root) is None
    copy.close()


def test_who_leaves_politely_can_be_followed_at_once(root: str) -> None:
    copy = begun(root, 50)
    copy.leave()
    copy.leave()
    again = copies.adopt(root)
    assert again is not None
    assert again.held == 50
    again.discard()
    begun(root, 0).leave()
    assert copies.folders(root) == [], "an empty copy is worth nothing"


def test_leaving_never_covers_what_went_wrong(root: str) -> None:
    copy = begun(root, 50)
    files.discard_tree(copy.folder)
    copy.leave()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copy.fileno())


def test_a_stranger_among_the_copies_is_no_copy(node: FakeNode, root: str) -> None:
    folder = orphaned(node, root, 50)
    open(f"{root}/file", "w").close()
    os.symlink("/nonexistent-elsewhere", f"{root}/link")
    os.mkfifo(f"{root}/fifo")
    os.makedirs(f"{root}/empty/data")
    copy = copies.adopt(root)
    assert copy is not None
    assert copy.held == 50
    assert not os.path.exists(folder)
    copy.discard()


@pytest.mark.parametrize("name", ["data", "progress", "state"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/nonexistent-elsewhere", path)])
def test_what_is_no_file_is_not_taken_for_one(
    node: FakeNode, root: str, name: str, make: Callable[[str], None]
) -> None:
    folder = orphaned(node, root, 50)
    os.unlink(f"{folder}/{name}")
    make(f"{folder}/{name}")
    with within(2):
        copy = copies.adopt(root)
    if copy is not None:
        assert copy.held == 0
        copy.close()


class TestPublished:
    """A copy may be the image's own inode: linked, but not yet let go of."""

    def sealed(self, node: FakeNode, root: str, image: str) -> str:
        folder = orphaned(node, root, len(BYTES), promised=True)
        os.chmod(f"{folder}/data", 0o444)
        os.link(f"{folder}/data", image)
        return folder

    def test_it_is_never_written_again(self, node: FakeNode, root: str, tmp_path: Path) -> None:
        image = str(tmp_path / "image")
        self.sealed(node, root, image)
        copy = copies.adopt(root)
        assert copy is not None
        assert copy.complete
        copy.begin(Validators('"2"'), 10, "origin", private=False)
        copy.write(copy.segments[0], b"x" * 10)
        assert (tmp_path / "image").read_bytes() == BYTES
        assert content(copy) == b"x" * 10
        copy.discard()

    def test_it_can_be_published_again(self, node: FakeNode, root: str, tmp_path: Path) -> None:
        self.sealed(node, root, str(tmp_path / "image"))
        copy = copies.adopt(root)
        assert copy is not None
        assert copy.digest().hex == sha256(BYTES).hexdigest()
        copy.discard()
        assert (tmp_path / "image").read_bytes() == BYTES

    def test_damaged_it_is_nothing(self, node: FakeNode, root: str, tmp_path: Path) -> None:
        self.sealed(node, root, str(tmp_path / "image"))
        with (tmp_path / "image").open("r+b") as image:
            image.write(b"?")
        copy = copies.adopt(root)
        assert copy is not None
        assert copy.held == 0, "it would be published as what it has become"
        copy.discard()

    def test_a_part_of_it_is_nothing(self, node: FakeNode, root: str, tmp_path: Path) -> None:
        folder = self.sealed(node, root, str(tmp_path / "image"))
        os.truncate(f"{folder}/data", 100)
        copy = copies.adopt(root)
        assert copy is not None
        assert copy.held == 0
        copy.discard()


class TestPowerLoss:
    """Only what was synced counts in another boot."""

    def test_what_was_not_synced_is_gone(self, node: FakeNode, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        copy = begun(root, 50)
        copy.sync()
        copy.write(copy.segments[0], BYTES[50:90])
        copy.close()
        node.processes.reboot(monkeypatch)
        again = copies.adopt(root)
        assert again is not None
        assert again.held == 50
        again.write(again.segments[0], BYTES[50:70])
        again.close()
        node.processes.kill(node.processes.current())
        third = copies.adopt(root)
        assert third is not None
        assert third.held == 70, "what was fetched in this boot counts in this boot"
        third.discard()

    def test_the_copy_with_most_synced_is_the_fullest(
        self, node: FakeNode, root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun(root, 150).close()
        copy = begun(root, 60)
        copy.sync()
        copy.close()
        node.processes.reboot(monkeypatch)
        again = copies.adopt(root)
        assert again is not None
        assert again.held == 60
        again.discard()

    def test_a_state_that_was_lost_vouches_for_nothing(
        self, node: FakeNode, root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = begun(root, 50, private=True)
        copy.sync()
        copy.close()
        node.processes.reboot(monkeypatch)
        os.truncate(f"{copy.folder}/state", 0)
        again = copies.adopt(root)
        assert again is not None
        assert again.held == 0, "nobody knows of what version, or how private"
        again.discard()

    def test_beginning_anew_during_a_sync_leaves_no_false_account(
        self, node: FakeNode, root: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = begun(root, 150)

        def moved(_fd: int) -> None:
            monkeypatch.setattr(os, "fdatasync", lambda _fd: None)
            copy.begin(Validators('"2"', "today", len(BYTES)), len(BYTES), "origin", private=False)

        monkeypatch.setattr(os, "fdatasync", moved)
        copy.sync()
        os.ftruncate(copy.fileno(), 180)  # written, not synced, zeros after the power loss
        copy.close()
        node.processes.reboot(monkeypatch)
        again = copies.adopt(root)
        assert again is None or again.held == 0
        if again is not None:
            again.discard()


class TestBorrowing:
    """From a leader that lives but no longer moves: its files stay its own."""

    def successor(self, node: FakeNode, root: str) -> tuple[Partial, int]:
        with node.processes.playing(node.processes.start()):
            mine = Partial(copies.own_folder(root))
            return mine, copies.borrow(root, mine)

    def test_the_beginning_is_copied(self, node: FakeNode, root: str) -> None:
        donor = begun(root, 50, private=True)
        donor.write(donor.split(donor.segments[0]), BYTES[125:])
        mine, got = self.successor(node, root)
        assert (got, mine.held, mine.private, mine.validators) == (50, 50, True, VERSION)
        assert content(mine) == BYTES[:50]
        donor.write(donor.segments[0], BYTES[50:60])
        assert mine.held == 50
        assert mine.digest().hex == sha256(BYTES[:50]).hexdigest()
        mine.close()
        donor.close()

    @pytest.mark.parametrize("victim", ["state", "progress", "data", ""])
    def test_a_donor_that_goes_away_gives_nothing(self, node: FakeNode, root: str, victim: str) -> None:
        donor = begun(root, 50)
        files.discard(f"{donor.folder}/{victim}") if victim else files.discard_tree(donor.folder)
        mine, got = self.successor(node, root)
        assert got == mine.held == 0
        mine.close()
        donor.close()

    @pytest.mark.parametrize("look", range(12))
    def test_a_donor_that_begins_anew_gives_one_version_or_nothing(
        self, node: FakeNode, root: str, look: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The donor restarts just before the nth file that its successor opens, or byte that it reads."""
        donor = begun(root, 10)
        donor.write(donor.split(donor.segments[0]), BYTES[105:])  # a hole between 10 and 105
        real = {name: getattr(os, name) for name in ("open", "pread", "read")}
        other, looks = bytes(reversed(BYTES)), [0]

        def restart() -> None:
            looks[0] += 1
            if looks[0] == look + 1:
                donor.begin(Validators('"2"', "today", len(BYTES)), len(BYTES), "origin", private=False)
                donor.write(donor.segments[0], other[:150])

        def spied(name: str) -> Callable[..., object]:
            def call(*args: object, **how: object) -> object:
                mine = looks[0] <= look and (not isinstance(args[0], str) or donor.folder in args[0])
                if mine and not isinstance(args[0], int):
                    restart()
                result = real[name](*args, **how)
                if mine and isinstance(args[0], int):
                    restart()
                return result

            return call

        successor = node.processes.start()
        with node.processes.playing(successor):
            mine = Partial(copies.own_folder(root))
            with monkeypatch.context() as patch:
                for name in real:
                    patch.setattr(os, name, spied(name))
                copies.borrow(root, mine)
        truth = {'"1"': BYTES, '"2"': other}.get(mine.validators.etag, b"")
        assert content(mine)[: mine.held] == truth[: mine.held]
        mine.close()
        donor.close()
