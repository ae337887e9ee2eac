"""Mounts: one for all who lease it, none that is dead, busy or of another boot, and none left behind."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from stager import lease, warm
from stager.errors import InUse, MountFailed, MountUnavailable
from stager.layout import UNMOUNTED
from stager.lease import Lease
from stager.mount import PATIENCE, Mounted, Mounting, MountPlace, places
from stager.store import files
from tests.support.fake_mounter import FakeMounter
from tests.support.fake_node import FakeNode, fake_node, origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stager.interfaces import Election
    from stager.layout import Layout
    from stager.store.images import StagedImage


class Site:
    """A node with a staged image and one way to mount it."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.image: StagedImage = node.staging(origin()).run()
        self.way = FakeMounter()
        self.dead: set[str] = set()

    def place(self, kind: str = "loop") -> MountPlace:
        return MountPlace(self.node.layout, self.image.digest, kind)

    def wish(self, *ways: FakeMounter, scope: str = "job-1", session: str = "1.2", election: Election | None = None,
             tiers: tuple[Layout, ...] = ()) -> Mounting:  # fmt: skip
        return Mounting(
            layout=self.node.layout,
            image=self.image,
            lease=Lease(scope, self.node.processes.current()),
            session=session,
            ways=ways or (self.way,),
            election=election or self.node.election,
            clock=self.node.clock,
            tell=self.node.tell,
            is_dead=lambda root: root in self.dead,
            tiers=tiers,
        )

    def mount(self, scope: str = "job-1") -> Mounted:
        return self.wish(scope=scope).run()

    def ismount(self, path: str) -> bool:
        return self.way.ismount(path)  # whichever way it is by then

    def release(self, scope: str = "job-1") -> None:
        lease.release(self.place().users, scope)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with fake_node(str(tmp_path / "store"), monkeypatch) as node:
        made = Site(node)
        monkeypatch.setattr("os.path.ismount", made.ismount)
        yield made


def test_the_first_mounts_and_the_others_share(site: Site) -> None:
    first, second = site.mount("job-1"), site.mount("job-2")
    assert first == second
    assert site.way.log == [("mount", site.place().root)]
    assert site.way.mounted == {first.root: site.image.path}
    assert sorted(one.scope for one in lease.living(first.users)) == ["job-1", "job-2"]
    assert first.report.device == "/dev/fake0"


def test_a_bare_mountpoint_says_so(site: Site) -> None:
    mounted = site.mount()
    assert os.listdir(mounted.root) == [UNMOUNTED]


def test_a_way_that_is_closed_gives_way_to_the_next(site: Site) -> None:
    blocked = FakeMounter("erofs", blocked="too old a kernel")
    exhausted = FakeMounter("loop", failures=[MountUnavailable("no loop device is free")])
    fuse = FakeMounter("fuse", note="slow")
    site.way = fuse
    mounted = site.wish(blocked, exhausted, fuse).run()
    assert mounted.report.kind == "fuse"
    said = "\n".join(site.node.tell.said)
    assert "too old a kernel" in said
    assert "no loop device is free" in said
    assert "slow" in said


def test_where_no_way_is_open_every_reason_is_told(site: Site) -> None:
    ways = [FakeMounter("loop", blocked="forbidden"), FakeMounter("fuse", failures=[MountUnavailable("not installed")])]
    with pytest.raises(MountUnavailable, match=r"loop: forbidden; fuse: not installed"):
        site.wish(*ways).run()
    with pytest.raises(MountUnavailable, match="none was allowed"):
        Mounting.run(_without_ways(site.wish()))


def _without_ways(wish: Mounting) -> Mounting:
    from dataclasses import replace

    return replace(wish, ways=())


def test_an_image_that_cannot_be_mounted_is_not_tried_otherwise(site: Site) -> None:
    other = FakeMounter("fuse")
    site.way.failures.append(MountFailed("corrupt"))
    with pytest.raises(MountFailed):
        site.wish(site.way, other).run()
    assert other.log == []


def test_a_fuse_mount_is_its_sessions_own(site: Site) -> None:
    fuse = site.way = FakeMounter("fuse")
    one, two = (site.wish(fuse, session=session).run() for session in ("1.2", "3.4"))
    assert one.root != two.root
    assert site.wish(fuse, session="1.2").run() == one
    assert len(fuse.log) == 2


def test_a_dead_mount_is_replaced(site: Site) -> None:
    first = site.mount()
    site.dead.add(first.root)
    real = site.way.unmount

    def revive(mountpoint: str, *, lazy: bool = False) -> None:
        real(mountpoint, lazy=lazy)
        site.dead.discard(mountpoint)

    site.way.unmount = revive  # type: ignore[method-assign]
    assert site.mount("job-2") == first
    assert [verb for verb, _ in site.way.log] == ["mount", "unmount", "mount"]


@pytest.mark.parametrize("left", ["record only", "mount only", "record of another boot", "litter"])
def test_what_a_crash_left_is_mounted_anew(site: Site, left: str) -> None:
    mounted = site.mount()
    record = files.read_record(site.place().ready)
    assert record is not None
    if left == "record only":
        site.way.mounted.clear()
    elif left == "mount only":
        files.discard(site.place().ready)
    elif left == "litter":
        files.write_text(site.place().ready, "\0\0server 999999999999999999999999\n")
    else:
        files.write_record(site.place().ready, record | {"boot": "00000000"})
    assert site.place().mounted() is None
    assert site.mount("job-2") == mounted
    assert site.place().mounted() == mounted


class _Locked:
    """An election in which somebody else has the lock; `meanwhile` is what he does with it."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._meanwhile = meanwhile

    @contextmanager
    def lead(self, name: str) -> Iterator[bool]:
        self._meanwhile()
        yield False


def test_who_mounts_is_waited_for(site: Site) -> None:
    tries = [0]

    def meanwhile() -> None:
        tries[0] += 1
        if tries[0] == 5:
            site.mount("job-9")

    mounted = site.wish(election=_Locked(meanwhile)).run()
    assert [verb for verb, _ in site.way.log] == ["mount"]
    assert {one.scope for one in lease.living(mounted.users)} == {"job-1", "job-9"}


def test_but_not_for_ever(site: Site) -> None:
    begun = site.node.clock.now()
    with pytest.raises(MountFailed, match="another process"):
        site.wish(election=_Locked()).run()
    assert PATIENCE <= site.node.clock.now() - begun < PATIENCE + 1


class TestClosing:
    def test_what_is_leased_stays(self, site: Site) -> None:
        mounted = site.mount()
        assert not site.place().close(site.way, lazy=True)
        assert site.place().mounted() == mounted

    def test_what_nobody_leases_goes_with_all_that_belongs_to_it(self, site: Site) -> None:
        site.mount()
        site.release()
        assert site.place().close(site.way, lazy=False)
        assert site.way.mounted == {}
        assert os.listdir(f"{site.node.layout.root}/mounts") == []
        assert places(site.node.layout) == []

    def test_the_dead_lease_nothing(self, site: Site) -> None:
        with site.node.processes.victim():
            site.mount()
        assert site.place().close(site.way, lazy=False)

    def test_force_overrides_leases(self, site: Site) -> None:
        site.mount()
        assert site.place().close(site.way, lazy=False, force=True)

    def test_what_is_busy_stays_as_it_was(self, site: Site) -> None:
        mounted = site.mount()
        site.release()
        site.way.busy.add(mounted.root)
        with pytest.raises(InUse):
            site.place().close(site.way, lazy=False)
        assert site.place().mounted() == mounted
        assert site.place().close(site.way, lazy=True)

    def test_a_newcomer_in_the_last_moment_keeps_it(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        mounted = site.mount()
        site.release()

        def arrives(_layout: object, _word: str) -> None:
            lease.acquire(mounted.users, Lease("job-2", site.node.processes.current()))

        monkeypatch.setattr(warm, "forget", arrives)
        assert not site.place().close(site.way, lazy=False)
        assert site.place().mounted() == mounted
        assert site.way.mounted != {}

    def test_what_was_never_mounted_can_be_closed(self, site: Site) -> None:
        place = site.place()
        place.prepare()
        assert place.close(site.way, lazy=False)
        assert not os.path.exists(os.path.dirname(place.root))

    def test_leftovers_of_writing_do_not_keep_the_place(self, site: Site) -> None:
        site.mount()
        site.release()
        files.write_aside(site.place().ready, "half", 0o600)
        files.write_aside(f"{site.place().root}/{UNMOUNTED}", "half", 0o600)
        files.write_aside(f"{site.place().users}/x", "half", 0o600)
        assert site.place().close(site.way, lazy=False)
        assert places(site.node.layout) == []


def test_places_are_places(site: Site) -> None:
    site.mount()
    root = f"{site.node.layout.root}/mounts"
    for name in ("stray", f"{site.image.digest.hex}.other", f"{'x' * 64}.loop", f".{site.image.digest.hex}.loop"):
        os.mkdir(f"{root}/{name}")
    open(f"{root}/file", "w").close()
    assert places(site.node.layout) == [site.place()]


def test_roots_mount_is_shared(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_node(str(tmp_path / "roots"), monkeypatch) as root:
        theirs = Site(root)
        theirs.way = site.way
        mounted = theirs.mount("job-0")
    assert site.wish(tiers=(root.layout,)).run() == mounted
    assert len(site.way.log) == 1
    site.way.mounted.clear()
    own = site.wish(tiers=(root.layout,)).run()
    assert own.root == site.place().root
