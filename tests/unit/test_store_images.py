"""Published images: whole or not at all, found as they were verified or not at all, gone only when nobody uses them."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from stager import lease
from stager.images import recognise
from stager.interfaces import ImageInfo, Partition, Validators
from stager.lease import Lease
from stager.oci import ContainerConfig
from stager.store import copies, files, images, repair
from stager.store.partial import Partial
from tests.support.fake_node import FakeNode, digest_of, fake_node, version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stager.store.images import StagedImage

NOBODY = 65534
CONTENT = version(1).content
DIGEST = digest_of(version(1))
INFO = ImageInfo("squashfs", len(CONTENT), "gzip", Partition(0, len(CONTENT), "squashfs", primary=True))


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    with fake_node(str(tmp_path / "store"), monkeypatch) as made:
        yield made


def fetched(node: FakeNode) -> Partial:
    copy = Partial(copies.own_folder(node.layout.partials("key")))
    copy.begin(Validators('"1"'), len(CONTENT), "origin", private=False)
    copy.write(copy.segments[0], CONTENT)
    copy.promise(DIGEST)
    return copy


def publish(node: FakeNode, *, private: bool = False) -> StagedImage:
    copy = fetched(node)
    image = images.publish(node.layout, copy.path, DIGEST, INFO, origin="https://origin/x", private=private)
    copy.discard()
    return image


def test_what_was_published_is_found(node: FakeNode) -> None:
    assert images.lookup(node.layout, DIGEST) is None
    image = publish(node)
    assert images.lookup(node.layout, DIGEST) == image
    assert list(images.digests(node.layout)) == [DIGEST]
    assert images.image_files(node.layout, DIGEST) == [image.path]
    assert image.size == len(CONTENT)
    with open(image.path, "rb") as file:
        assert file.read() == CONTENT
    assert os.path.samefile(image.path, node.layout.twin(DIGEST))
    assert image.leases == node.layout.leases(DIGEST)


def test_an_image_can_be_read_by_all_and_written_by_none_unless_it_is_private(node: FakeNode) -> None:
    assert stat.S_IMODE(os.stat(publish(node).path).st_mode) == 0o444
    images.remove(node.layout, DIGEST)
    image = publish(node, private=True)
    assert stat.S_IMODE(os.stat(image.path).st_mode) == 0o400
    assert stat.S_IMODE(os.stat(node.layout.sidecar(DIGEST)).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(node.layout.image_dir(DIGEST)).st_mode) & 0o077 in (0, 0o55)


def test_publishing_again_gives_the_image_that_is_there(node: FakeNode) -> None:
    first = publish(node)
    assert publish(node) == first
    assert os.listdir(os.path.dirname(node.layout.image_dir(DIGEST))) == [DIGEST.hex]


def test_of_many_that_publish_at_once_all_get_the_same_image(node: FakeNode) -> None:
    start, found = threading.Barrier(6), []

    def task() -> None:
        copy = fetched(node)
        start.wait()
        found.append(images.publish(node.layout, copy.path, DIGEST, INFO, origin="o", private=False))
        copy.discard()

    threads = [threading.Thread(target=task) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert {image.inode for image in found} == {os.stat(found[0].path).st_ino}
    assert os.listdir(os.path.dirname(node.layout.image_dir(DIGEST))) == [DIGEST.hex]
    assert os.listdir(f"{node.layout.root}/quarantine") == []


def _overwrite(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(b"!")
    _touch(path)


def _touch(path: str) -> None:
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def _shorten(path: str) -> None:
    status = os.stat(path)
    os.truncate(path, status.st_size - 1)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _exchange(path: str) -> None:
    status = os.stat(path)
    with open(path, "rb") as file:
        content = file.read()
    os.rename(path, f"{path}.old")
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, 0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _link(path: str) -> None:
    os.rename(path, f"{path}.old")
    os.symlink(f"{path}.old", path)


def _fifo(path: str) -> None:
    os.unlink(path)
    os.mkfifo(path)


def _open_to_others(path: str) -> None:
    os.chmod(path, 0o646)


def _give_away(path: str) -> None:
    os.chown(path, NOBODY, NOBODY)


MISHAPS = [_overwrite, _touch, _shorten, _exchange, _link, _fifo, _open_to_others, os.unlink]


@pytest.mark.parametrize("mishap", MISHAPS)
def test_an_image_that_is_not_as_it_was_verified_is_not_found(node: FakeNode, mishap: Callable[[str], None]) -> None:
    mishap(publish(node).path)
    assert images.lookup(node.layout, DIGEST) is None


@pytest.mark.needs("root")
def test_an_image_that_was_given_away_is_not_found(node: FakeNode) -> None:
    _give_away(publish(node).path)
    assert images.lookup(node.layout, DIGEST) is None


@pytest.mark.parametrize("mishap", MISHAPS)
def test_publishing_over_a_damaged_image_puts_that_aside(node: FakeNode, mishap: Callable[[str], None]) -> None:
    mishap(publish(node).path)
    image = publish(node)
    assert images.lookup(node.layout, DIGEST) == image
    assert len(os.listdir(f"{node.layout.root}/quarantine")) == 1


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_publishing_over_what_is_no_directory_puts_that_aside(node: FakeNode, tmp_path: Path, kind: str) -> None:
    place = node.layout.image_dir(DIGEST)
    os.makedirs(os.path.dirname(place))
    (tmp_path / "elsewhere").mkdir()
    {"file": lambda: open(place, "w").close(), "link": lambda: os.symlink(tmp_path / "elsewhere", place),
     "fifo": lambda: os.mkfifo(place)}[kind]()  # fmt: skip
    publish(node)
    assert images.lookup(node.layout, DIGEST) is not None
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_sidecar_of_another_image_is_no_sidecar(node: FakeNode) -> None:
    image = publish(node)
    record = json.loads(files.read_text(node.layout.sidecar(DIGEST)) or "")
    for name, value in (("digest", str(digest_of(version(2)))), ("inode", image.inode + 1), ("info", None)):
        with open(node.layout.sidecar(DIGEST), "w") as file:
            json.dump(record | {name: value}, file)
        assert images.lookup(node.layout, DIGEST) is None, name


def test_a_sidecar_survives_its_round_trip(node: FakeNode) -> None:
    parts = (Partition(4096, 100, "squashfs", "amd64", primary=True), Partition(8192, 7, "ext3"))
    info = ImageInfo("sif", len(CONTENT), "zstd", parts[0], parts, "amd64")
    copy = fetched(node)
    image = images.publish(node.layout, copy.path, DIGEST, info, origin="https://origin/\udcffx", private=False)
    copy.discard()
    assert images.lookup(node.layout, DIGEST) == image


@pytest.mark.parametrize("failing", ["rename", "link", "mkdir", "fsync"])
def test_a_publishing_that_fails_leaves_nothing_half_done_and_keeps_the_bytes(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    copy = fetched(node)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(OSError, match="no space"):
            images.publish(node.layout, copy.path, DIGEST, INFO, origin="o", private=False)
    assert images.lookup(node.layout, DIGEST) is None
    assert [n for n in files_below(node.layout.images) if not n.endswith(DIGEST.hex)] == []
    again = Partial(copy.folder)
    assert again.complete
    image = images.publish(node.layout, again.path, DIGEST, INFO, origin="o", private=False)
    assert images.lookup(node.layout, DIGEST) == image
    copy.close()
    again.discard()


def files_below(folder: str) -> list[str]:
    return [name for _, _, names in os.walk(folder) for name in names]


def test_removing_frees_the_bytes(node: FakeNode) -> None:
    publish(node)
    assert images.size_of(node.layout, DIGEST) == len(CONTENT)
    assert images.remove(node.layout, DIGEST) == len(CONTENT)
    assert images.remove(node.layout, DIGEST) == 0
    assert images.size_of(node.layout, DIGEST) == 0
    assert files_below(node.layout.images) == []


def test_what_is_kept_never_loses_its_path_not_for_a_moment(node: FakeNode) -> None:
    image, there = publish(node), []

    def keep() -> bool:
        there.append((os.path.exists(image.path), images.lookup(node.layout, DIGEST)))
        return True

    assert images.remove(node.layout, DIGEST, keep=keep) == 0
    assert images.lookup(node.layout, DIGEST) == image
    assert all(path for path, _ in there)
    assert there[-1][1] is None, "who looks after leasing must see that somebody evicts"
    assert sorted(os.listdir(os.path.dirname(image.path))) == ["image.json", "image.sqsh", "twin"]


def test_an_evictor_that_dies_takes_nothing_with_it(node: FakeNode) -> None:
    image = publish(node)

    def die() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.remove(node.layout, DIGEST, keep=die)
    assert os.path.exists(image.path)
    mended, found = repair.verify(node.layout, DIGEST, recognise)
    assert (mended is not None, found) == (True, "sidecar rebuilt")


def test_what_is_published_anew_meanwhile_is_no_reason_to_fail(node: FakeNode) -> None:
    publish(node)

    def keep() -> bool:
        repair.verify(node.layout, DIGEST, recognise)
        return True

    assert images.remove(node.layout, DIGEST, keep=keep) == 0
    assert images.lookup(node.layout, DIGEST) is not None


def test_what_is_mended_and_leased_in_the_last_moment_stays(node: FakeNode) -> None:
    image = publish(node)
    folder, mine = node.layout.leases(DIGEST), Lease("job-1", node.processes.current())

    def keep() -> bool:
        leased = bool(lease.living(folder))
        if not leased:  # a task comes while the evictor is off the processor
            lease.acquire(folder, mine)
            assert repair.verify(node.layout, DIGEST, recognise)[0] is not None
        return leased

    assert images.remove(node.layout, DIGEST, keep=keep) == 0
    assert os.path.exists(image.path)
    assert images.lookup(node.layout, DIGEST) is not None


def test_two_that_remove_at_once_do_not_trip_over_each_other(node: FakeNode) -> None:
    publish(node)
    freed = images.remove(node.layout, DIGEST, keep=lambda: images.remove(node.layout, DIGEST) < 0)
    assert freed in (0, len(CONTENT))
    assert images.image_files(node.layout, DIGEST) == []


def test_quarantine_takes_out_of_sight(node: FakeNode) -> None:
    image = publish(node)
    place = images.quarantine(node.layout, DIGEST)
    assert os.path.exists(f"{place}/{os.path.basename(image.path)}")
    assert list(images.digests(node.layout)) == []
    assert images.quarantine(node.layout, DIGEST) == ""


def test_only_digests_are_digests(node: FakeNode) -> None:
    publish(node)
    for name in ("ab/" + "AB" * 32, "ab/" + "cd" * 32, "zz/" + "zz" * 32, "ab/short", "ab/." + DIGEST.hex):
        os.makedirs(f"{node.layout.images}/{name}", exist_ok=True)
    open(f"{node.layout.images}/stray", "w").close()
    assert list(images.digests(node.layout)) == [DIGEST]


def test_use_is_told_by_leases(node: FakeNode) -> None:
    publish(node)
    folder = node.layout.leases(DIGEST)
    os.makedirs(folder, exist_ok=True)
    for path in (folder, node.layout.sidecar(DIGEST)):
        os.utime(path, (1000, 1000))
    assert images.last_used(node.layout, DIGEST) == 1000
    mine = Lease("job-1", node.processes.current())
    for _ in range(2):  # taking it again is using it again
        os.utime(folder, (1000, 1000))
        lease.acquire(folder, mine)
        assert images.last_used(node.layout, DIGEST) > 1000
    os.utime(folder, (1000, 1000))
    node.processes.kill(mine.holder)
    lease.living(folder)
    assert images.last_used(node.layout, DIGEST) == 1000, "collecting is not using"
    assert images.last_used(node.layout, digest_of(version(9))) == 0


MADE = replace(INFO, config=ContainerConfig(env=("A=b",), cmd=("x", "ä\n"), labels={"k": "v"}, platform="linux/arm64"))


def publish_info(node: FakeNode, info: ImageInfo) -> StagedImage:
    copy = fetched(node)
    image = images.publish(node.layout, copy.path, DIGEST, info, origin="docker://host/x:1", private=False)
    copy.discard()
    return image


def test_what_a_container_wants_is_kept_beside_it(node: FakeNode) -> None:
    image = publish_info(node, MADE)
    assert images.lookup(node.layout, DIGEST) == image
    assert image.info.config == MADE.config
    found = images.mend(node.layout, DIGEST, image.path, MADE)
    assert found.info.config == MADE.config


def test_other_images_have_nothing_of_that_in_their_records(node: FakeNode) -> None:
    publish(node)
    with open(node.layout.sidecar(DIGEST), encoding="ascii") as file:
        assert "config" not in json.load(file)["info"]


@pytest.mark.parametrize(
    "config",
    [None, 1, "x", [], {}, {"Env": 1}, {"Env": ["no", 1, "A=b\0"], "Cmd": {"a": 1}, "Labels": [1], "User": [], "x": 1}],
)
def test_a_configuration_of_the_wrong_shape_is_as_good_as_none(node: FakeNode, config: object) -> None:
    image = publish_info(node, MADE)
    with open(node.layout.sidecar(DIGEST), encoding="ascii") as file:
        record = json.load(file)
    record["info"]["config"] = config
    files.write_text(node.layout.sidecar(DIGEST), json.dumps(record))
    found = images.lookup(node.layout, DIGEST)
    assert found is not None
    assert found.path == image.path
    assert found.info.config in (None, ContainerConfig())


@pytest.mark.parametrize(("labels", "env"), [(1_000_000, 0), (0, 1_000_000)])
def test_a_configuration_too_large_for_a_record_loses_its_labels_or_goes(node: FakeNode, labels: int, env: int) -> None:
    config = ContainerConfig(env=("A=" + "e" * env,), labels={"k": "l" * labels})
    image = publish_info(node, replace(INFO, config=config))
    found = images.lookup(node.layout, DIGEST)
    assert found is not None
    assert found.path == image.path
    assert found.info.config == (ContainerConfig(env=("A=",)) if labels else None)


def test_the_largest_configuration_that_is_kept_is_read(node: FakeNode) -> None:
    room = images.LARGEST_CONFIG - len(json.dumps(ContainerConfig().describe()))
    config = ContainerConfig(cmd=("",) * (room // 4))
    publish_info(node, replace(INFO, config=config))
    found = images.lookup(node.layout, DIGEST)
    assert found is not None
    assert found.info.config == config
