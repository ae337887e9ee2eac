"""Collecting: all that is the dead's and nothing that is the living's, whatever lies about."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest

from stager import collect, lease, warm
from stager.collect import DAY, Collected, Collector
from stager.errors import StoreUnusable
from stager.lease import Lease
from stager.mount import Mounting, MountPlace
from stager.reference import Digest
from stager.store import copies, files, images, partial
from stager.store.blobs import WORK, Blobs
from tests.support.fake_mounter import FakeMounter
from tests.support.fake_node import FakeNode, digest_of, fake_node, origin, version
from tests.support.within import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stager.store.images import StagedImage

WAY = FakeMounter()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    WAY.__init__()  # type: ignore[misc]
    with fake_node(str(tmp_path / "store"), monkeypatch) as made:
        monkeypatch.setattr("os.path.ismount", WAY.ismount)
        yield made


@pytest.fixture
def image(node: FakeNode) -> StagedImage:
    return node.staging(origin()).run()


def collected(node: FakeNode, *, dry_run: bool = False) -> Collected:
    with within(5):
        return Collector(node.layout, node.election, lambda _kind: WAY, dry_run=dry_run).run()


def mount(node: FakeNode, image: StagedImage) -> MountPlace:
    """Mount for the calling process's job."""
    Mounting(
        layout=node.layout,
        image=image,
        lease=Lease("job-1", node.processes.current()),
        session="1.2",
        ways=(WAY,),
        election=node.election,
        clock=node.clock,
        tell=node.tell,
        is_dead=lambda _root: False,
    ).run()
    return MountPlace(node.layout, image.digest, "loop")


def age(path: str, days: float) -> None:
    then = time.time() - days * DAY
    for folder, _, names in os.walk(path):
        for name in (folder, *(f"{folder}/{name}" for name in names)):
            os.utime(name, (then, then), follow_symlinks=False)
    os.utime(path, (then, then), follow_symlinks=False)


def tree(root: str) -> set[str]:
    return {f"{folder}/{name}" for folder, folders, names in os.walk(root) for name in (*folders, *names)}


def test_the_living_lose_nothing(node: FakeNode, image: StagedImage) -> None:
    place = mount(node, image)
    copy = partial.Partial(copies.own_folder(node.layout.partials("key")))
    os.mkdir(f"{node.layout.images}/ab")
    os.mkdir(f"{node.layout.images}/ab/.{'ab' * 32}.{files.unique()}")
    before = tree(node.layout.root)
    assert collected(node) == Collected()
    assert tree(node.layout.root) - before <= {f"{node.layout.root}/locks/collect.lock"}
    assert place.mounted() is not None
    copy.close()


def test_the_dead_keep_nothing(node: FakeNode) -> None:
    with node.processes.victim():
        image = node.staging(origin()).run()
        place = mount(node, image)
        aside = f"{node.layout.images}/{image.digest.hex[:2]}/.{image.digest.hex}.{files.unique()}"
        os.mkdir(aside)
    gone = collected(node)
    assert len([what for what in gone.removed if what.startswith(("lease", "mount", "unfinished image"))]) == 3
    assert WAY.mounted == {}
    assert not os.path.exists(place.root)
    assert not os.path.exists(aside)
    assert lease.survey(image.leases) == ([], [])
    assert images.lookup(node.layout, image.digest) == image, "the image itself may be of use to the next job"
    assert collected(node) == Collected()


def test_a_mount_that_others_lease_stays(node: FakeNode, image: StagedImage) -> None:
    with node.processes.victim():
        mount(node, image)
    place = mount(node, image)
    collected(node)
    assert place.mounted() is not None


def test_what_is_busy_is_named(node: FakeNode, image: StagedImage) -> None:
    with node.processes.victim():
        place = mount(node, image)
    WAY.busy.add(place.root)
    assert [what for what in collected(node).kept if place.root in what]
    assert place.mounted() is not None


def test_a_dry_run_changes_nothing(node: FakeNode) -> None:
    with node.processes.victim():
        image = node.staging(origin()).run()
        mount(node, image)
        lease.acquire(image.leases, Lease("job-2", node.processes.current()))
    node.election.lead("collect").__enter__()
    before, times = tree(node.layout.root), os.stat(image.leases).st_mtime_ns
    named = collected(node, dry_run=True)
    assert len(named.removed) >= 3
    assert tree(node.layout.root) - before <= {f"{node.layout.root}/locks/collect.lock"}
    assert before - tree(node.layout.root) == set()
    assert os.stat(image.leases).st_mtime_ns == times
    assert len(collected(node).removed) >= 3


@pytest.mark.parametrize(("days", "stays"), [(6, True), (8, False)])
def test_a_copy_that_nobody_goes_on_with_is_kept_for_a_week(node: FakeNode, days: float, *, stays: bool) -> None:
    assert node.dies_at("fetching", origin())
    (key,) = os.listdir(f"{node.layout.root}/partial")
    (folder,) = copies.folders(node.layout.partials(key))
    age(folder, days)
    collected(node)
    assert os.path.exists(folder) == stays


@pytest.mark.parametrize("kind", ["empty", "file", "link"])
def test_what_is_no_copy_does_not_stay_for_ever(node: FakeNode, kind: str) -> None:
    root = node.layout.partials("key")
    os.makedirs(root)
    path = f"{root}/{kind}"
    make = {
        "empty": lambda: os.mkdir(path),
        "file": lambda: open(path, "w").close(),
        "link": lambda: os.symlink("/nonexistent-elsewhere", path),
    }
    make[kind]()
    age(path, 8) if kind != "link" else os.utime(path, (0, 0), follow_symlinks=False)
    collected(node)
    assert not os.path.lexists(path)


def test_room_is_made_of_what_nobody_fills(node: FakeNode) -> None:
    assert node.dies_at("fetching", origin())
    busy = partial.Partial(copies.own_folder(node.layout.partials("key")))
    assert collect.drop_orphans(node.layout) > 0
    assert copies.folders(node.layout.partials("key")) == [busy.folder]
    busy.close()


@pytest.mark.parametrize(("days", "stays"), [(6, True), (8, False)])
def test_a_layer_that_nobody_goes_on_with_is_kept_for_a_week(node: FakeNode, days: float, *, stays: bool) -> None:
    filled, orphan = (Blobs(node.layout).claim(Digest(name * 32), 100) for name in ("ab", "cd"))
    assert filled is not None
    assert orphan is not None
    for copy in (filled, orphan):
        copy.append(b"x" * 50)
        age(copy.folder, days)
    orphan.close()
    left = orphan.folder
    named = collected(node, dry_run=True).removed
    assert os.path.exists(left)
    assert [what for what in named if "blob" in what] == ([] if stays else [f"old partial blob {left}"])
    collected(node)
    assert os.path.exists(left) == stays
    assert os.path.exists(filled.folder)
    filled.close()


def test_the_folder_of_a_dead_conversion_goes_whatever_it_holds(node: FakeNode) -> None:
    blobs = Blobs(node.layout)
    for collects in (lambda: collected(node), lambda: collect.drop_orphans(node.layout)):
        with blobs.work_folder() as mine:
            with node.processes.victim():
                orphan = copies.own_folder(os.path.dirname(mine))
                files.write_text(f"{orphan}/data", "x" * 9000)
                files.write_text(f"{orphan}/deep/other", "x" * 9000)
            age(orphan, 0.1)
            collects()
            assert not os.path.exists(orphan)
            assert os.path.exists(mine)


def test_room_is_made_of_a_dead_conversion(node: FakeNode) -> None:
    with node.processes.victim():
        orphan = copies.own_folder(node.layout.partials(WORK))
        files.write_text(f"{orphan}/deep/image", "x" * 9000)
    assert collect.drop_orphans(node.layout, dry_run=True) >= 9000
    assert collect.drop_orphans(node.layout) >= 9000


def test_pins_and_answers_end_with_their_session(node: FakeNode) -> None:
    me, dead = node.processes.current(), node.processes.start()
    node.processes.kill(dead)
    scopes = {f"session-{me.pid}-{me.start}": True, f"session-{dead.pid}-{dead.start}": False, "job-1": True,
              "session-x-y": True, "session-1": True}  # fmt: skip
    for scope in scopes:
        files.write_text(node.layout.pin(scope, "key"), "")
        files.write_text(node.layout.warm(scope, "name"), "")
    collected(node)
    for scope, stays in scopes.items():
        assert os.path.exists(node.layout.pin(scope, "key")) == stays, scope
        assert os.path.exists(node.layout.warm(scope, "name")) == stays, scope


def test_pins_of_jobs_end_some_day(node: FakeNode) -> None:
    for scope, days in (("job-1", 29), ("job-2", 31)):
        files.write_text(node.layout.pin(scope, "key"), "")
        age(f"{node.layout.root}/pins/{scope}", days)
    collected(node)
    assert os.listdir(f"{node.layout.root}/pins") == ["job-1"]


@pytest.mark.parametrize("folder", ["refs", "locks", "failures", "mounts"])
def test_what_was_half_written_goes_after_a_day(node: FakeNode, folder: str) -> None:
    path = f"{node.layout.root}/{folder}/record"
    young, old = (files.write_aside(path, "x", 0o600) for _ in range(2))
    age(old, 2)
    collected(node)
    assert os.path.exists(young)
    assert not os.path.exists(old)


HOSTILE: list[Callable[[str], None]] = [
    lambda path: os.symlink("/nonexistent-elsewhere", path),
    lambda path: os.symlink("/nowhere", path),
    os.mkfifo,
    lambda path: open(path, "w").close(),
    lambda path: os.makedirs(f"{path}/deep/er"),
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_whatever_lies_about_nothing_is_raised_and_nothing_followed(
    node: FakeNode, image: StagedImage, tmp_path: Path, hostile: Callable[[str], None]
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    os.utime(precious, (0, 0))
    os.makedirs(node.layout.blob_partials)
    for folder in (
        "images/sha256",
        "partial",
        "blobs/partial",
        "leases",
        "pins",
        "warm",
        "mounts",
        "refs",
        "locks",
        "failures",
    ):
        hostile(f"{node.layout.root}/{folder}/stray")
        hostile(f"{node.layout.root}/{folder}/{'ab' * 32}.loop")
        os.symlink(precious, f"{node.layout.root}/{folder}/{'cd' * 32}")
        os.symlink(precious, f"{node.layout.root}/{folder}/.{'cd' * 32}.1.2.deadbeef.x")
        os.utime(f"{node.layout.root}/{folder}/.{'cd' * 32}.1.2.deadbeef.x", (0, 0), follow_symlinks=False)
    hostile(f"{image.leases}/stray")
    os.symlink(precious, f"{image.leases}/link")
    collected(node)
    assert os.listdir(precious) == ["file"]
    assert images.lookup(node.layout, image.digest) == image


class _Broken:
    @contextmanager
    def lead(self, name: str) -> Iterator[bool]:
        if name:
            raise StoreUnusable("the lock file cannot be used: Read-only file system")
        yield True


def test_a_store_that_cannot_be_locked_is_no_reason_to_fail(node: FakeNode) -> None:
    found = Collector(node.layout, _Broken(), lambda _kind: WAY).run()
    assert any("Read-only" in what for what in found.kept)


def test_one_piece_that_cannot_be_had_does_not_keep_the_others(
    node: FakeNode, image: StagedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node.processes.victim():
        mount(node, image)
        lease.acquire(image.leases, Lease("job-2", node.processes.current()))

    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MountPlace, "close", full)
    found = collected(node)
    assert any("No space" in what for what in found.kept)
    assert any(what.startswith("lease job-2") for what in found.removed)


def test_one_collects_at_a_time(node: FakeNode) -> None:
    with node.processes.victim():
        image = node.staging(origin()).run()
    with node.election.lead("collect") as leads:
        assert leads
        assert collected(node) == Collected()
    assert lease.survey(image.leases)[1] != []


class TestEviction:
    def test_what_nobody_uses_goes_and_its_answers_first(self, node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
        with node.processes.victim():
            image = node.staging(origin()).run()
        order: list[str] = []
        monkeypatch.setattr(warm, "forget", lambda _layout, word: order.append(word))
        real = images.remove

        def remove(*args: object, **how: object) -> int:
            order.append("removed")
            return real(*args, **how)  # type: ignore[arg-type]

        monkeypatch.setattr(images, "remove", remove)
        assert collect.evict(node.layout, image.digest) == image.size
        assert order == [str(image.digest), "removed"]
        assert collect.evict(node.layout, image.digest) == 0

    def test_what_is_leased_stays_unless_forced(self, node: FakeNode, image: StagedImage) -> None:
        assert collect.evict(node.layout, image.digest) == 0
        assert images.lookup(node.layout, image.digest) == image
        assert collect.evict(node.layout, image.digest, force=True) == image.size

    def test_who_leases_in_the_last_moment_keeps_it(self, node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
        with node.processes.victim():
            image = node.staging(origin()).run()

        def arrives(_layout: object, _word: str) -> None:
            lease.acquire(image.leases, Lease("job-2", node.processes.current()))

        monkeypatch.setattr(warm, "forget", arrives)
        assert collect.evict(node.layout, image.digest) == 0
        assert images.lookup(node.layout, image.digest) == image

    def test_what_is_not_there_frees_nothing(self, node: FakeNode) -> None:
        assert collect.evict(node.layout, digest_of(version(5))) == 0
