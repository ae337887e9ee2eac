"""Room for an image: what is in use stays, the longest unused goes first, and nothing goes in vain."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager import collect, lease
from stager.errors import NoSpace
from stager.lease import Lease
from stager.reference import Digest
from stager.store import images, room
from stager.store.blobs import Blobs
from stager.store.room import Limits
from tests.support.fake_mounter import FakeMounter
from tests.support.fake_node import FakeNode, fake_node, version
from tests.support.scripted_source import ScriptedSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stager.store.blob_hold import Hold
    from stager.store.images import StagedImage
    from stager.store.room import Evictable

KIB = 1024


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    with fake_node(str(tmp_path / "store"), monkeypatch) as made:
        # A megabyte is free, whatever the tests do.
        monkeypatch.setattr(room, "free_bytes", lambda _path: 1024 * KIB)
        yield made


def staged(node: FakeNode, number: int, last_used: float, size: int = 10 * KIB) -> StagedImage:
    """Stage an image for a job that has ended since, and say when that was."""
    with node.processes.victim():
        source = ScriptedSource(version(number, size))
        image = node.staging(source, url=f"https://origin/{number}", scope=f"job-{number}").run()
    for path in (image.leases, node.layout.sidecar(image.digest)):
        os.utime(path, (last_used, last_used))
    return image


def evicted_by(node: FakeNode, need: int, limits: Limits) -> list[Digest]:
    gone: list[Digest] = []

    def evict(image: Evictable) -> None:
        assert collect.evict(node.layout, image.digest) == image.size
        gone.append(image.digest)

    room.make_room(node.layout, need, limits, evict)
    return gone


def test_the_longest_unused_goes_first_and_no_more_than_needed(node: FakeNode) -> None:
    newest, oldest, middle = staged(node, 1, 3000), staged(node, 2, 1000), staged(node, 3, 2000)
    assert [one.digest for one in room.evictable(node.layout)] == [oldest.digest, middle.digest, newest.digest]
    total = room.total_size(node.layout)
    assert total == newest.size + oldest.size + middle.size
    assert evicted_by(node, 5, Limits(max_size=total)) == [oldest.digest]
    assert evicted_by(node, 5, Limits(max_size=total)) == []
    assert room.total_size(node.layout) == total - oldest.size


def test_looking_for_room_is_no_use(node: FakeNode) -> None:
    staged(node, 1, 1000)
    for _ in range(2):
        assert [one.last_used for one in room.evictable(node.layout)] == [1000]


def test_nothing_goes_when_it_would_not_be_enough(node: FakeNode) -> None:
    staged(node, 1, 1000)
    with pytest.raises(NoSpace, match=r"2\.0 MiB are needed, 1\.0 MiB are free .* unused images hold 1"):
        evicted_by(node, 2048 * KIB, Limits())
    assert len(room.evictable(node.layout)) == 1


def test_what_is_kept_free_counts(node: FakeNode) -> None:
    image = staged(node, 1, 1000)
    assert evicted_by(node, 512 * KIB, Limits(min_free=512 * KIB)) == []
    assert evicted_by(node, 512 * KIB, Limits(min_free=513 * KIB)) == [image.digest]


def test_a_quota_counts_what_is_there(node: FakeNode) -> None:
    with pytest.raises(NoSpace, match="quota"):
        evicted_by(node, 5, Limits(max_size=4))
    evicted_by(node, 5, Limits(max_size=5))


def test_what_is_leased_or_mounted_stays(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    leased, mounted, idle = staged(node, 1, 1000), staged(node, 2, 1000), staged(node, 3, 1000)
    lease.acquire(leased.leases, Lease("job-9", node.processes.current()))
    way = FakeMounter()
    monkeypatch.setattr("os.path.ismount", way.ismount)
    root = node.layout.mountpoint(mounted.digest, "loop")
    os.makedirs(root)
    way.mount(mounted.path, mounted.info, root)
    assert [room.in_use(node.layout, image.digest) for image in (leased, mounted, idle)] == [True, True, False]
    assert [one.digest for one in room.evictable(node.layout)] == [idle.digest]
    assert [collect.evict(node.layout, image.digest) for image in (leased, mounted)] == [0, 0]
    with pytest.raises(NoSpace):
        evicted_by(node, 2048 * KIB, Limits())
    assert collect.evict(node.layout, mounted.digest, force=True) == 0, "force overrides leases, but no mounts"
    assert collect.evict(node.layout, leased.digest, force=True) == leased.size


def test_an_image_that_goes_away_meanwhile_is_no_reason_to_fail(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, other = staged(node, 1, 1000), staged(node, 2, 1000)
    real = images.image_files

    def vanishing(layout: object, digest: Digest) -> list[str]:
        found = real(node.layout, digest)
        if digest == image.digest:
            monkeypatch.setattr(images, "image_files", real)
            images.remove(node.layout, digest)
        return found

    monkeypatch.setattr(images, "image_files", vanishing)
    assert room.total_size(node.layout) == other.size
    monkeypatch.setattr(images, "image_files", vanishing)
    assert collect.evict(node.layout, image.digest) == 0


def layer(node: FakeNode, number: int, last_used: float, *, whole: bool = True) -> Hold | None:
    """Put a layer of 10 KiB into the cache, or a half of it that nobody goes on with."""
    content = bytes([number]) * 10 * KIB
    copy = Blobs(node.layout).claim(Digest(sha256(content).hexdigest()), len(content))
    assert copy is not None
    copy.append(content if whole else content[: 8 * KIB])
    hold = copy.commit() if whole else None
    os.utime(hold.path if hold else f"{copy.folder}/data", (last_used, last_used))
    copy.close()
    return hold


def test_layers_go_before_images_and_the_longest_unused_first(node: FakeNode) -> None:
    blobs, image = Blobs(node.layout), staged(node, 1, 1000)
    for number, last_used in ((1, 5000), (2, 4000)):
        hold = layer(node, number, last_used)
        assert hold is not None
        hold.close()
    layer(node, 3, 4500, whole=False)
    total = room.total_size(node.layout)
    assert total == image.size + 28 * KIB
    assert evicted_by(node, 11 * KIB, Limits(max_size=total)) == []
    assert [blob.last_used for blob in blobs.all()] == [5000]
    assert blobs.orphans() == []
    assert evicted_by(node, 12 * KIB, Limits(max_size=total - 18 * KIB)) == [image.digest]
    assert blobs.all() == []


def test_layers_in_use_stay_and_count(node: FakeNode) -> None:
    hold = layer(node, 1, 1000)
    filled = Blobs(node.layout).claim(Digest("ab" * 32), KIB)
    assert hold is not None
    assert filled is not None
    filled.append(b"x" * 500)
    with hold, filled, pytest.raises(NoSpace, match=r"unused images hold 0 B, layers .* 10\.0 KiB, 0 B of it unused"):
        evicted_by(node, 1, Limits(max_size=10 * KIB))
    assert len(Blobs(node.layout).spare()) == 2


def test_layers_stay_when_they_would_not_be_enough(node: FakeNode) -> None:
    hold = layer(node, 1, 1000)
    assert hold is not None
    hold.close()
    with pytest.raises(NoSpace, match=r"layers of container images 10\.0 KiB, 10\.0 KiB of it unused"):
        evicted_by(node, 2048 * KIB, Limits())
    assert len(Blobs(node.layout).all()) == 1


def test_the_free_bytes_are_those_of_this_user(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    blocks = status.f_bfree if os.geteuid() == 0 else status.f_bavail
    assert room.free_bytes(str(tmp_path)) == pytest.approx(blocks * status.f_frsize, rel=0.2)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        *((0, "0 B"), (-5, "-5 B"), (1023, "1023 B"), (1024, "1.0 KiB")),
        *((1536 << 20, "1.5 GiB"), (1 << 60, "1048576.0 TiB")),
    ],
)
def test_bytes_are_shown_for_people(count: int, shown: str) -> None:
    assert room.show_bytes(count) == shown
