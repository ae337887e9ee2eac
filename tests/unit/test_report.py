"""The report of a store: which lines it has, who keeps it, and that nobody pays who has none."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from typing import TYPE_CHECKING

import pytest

from stager import collect, report
from stager.interfaces import Validators
from stager.reference import parse
from stager.schedulers.affinity import known_as
from stager.store import files, memory
from tests.support.fake_mounter import FakeMounter
from tests.support.fake_node import FakeNode, fake_node, origin, version
from tests.support.told_store import ToldStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URL = "https://images.example.org/group/"


@pytest.fixture
def store(tmp_path: Path) -> ToldStore:
    return ToldStore(tmp_path / "store")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    with fake_node(str(tmp_path / "store"), monkeypatch) as made:
        yield made


def names(store: ToldStore) -> list[str]:
    return [name for name, _ in report.read(store.layout)]


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        ("https://images.example.org/a/tool.sif", "tool.sif"),
        (f"https://images.example.org/tool.sif@sha256:{'0' * 64}", "tool.sif"),
        ("/shared/images/my tool (1).sif", "my_tool__1_.sif"),
        ("/shared/t\xe4l;x@y,z*.sqsh", "t_l_x_y_z_.sqsh"),
        ("docker://registry.example.org/group/name:1.0+a-b", "name:1.0+a-b"),
        ("https://images.example.org/", "images.example.org"),
        ("/", "image"),
        ("", "image"),
        ("/x/" + "n" * 130, "n" * 120),
    ],
)
def test_what_an_image_is_called(shown: str, name: str) -> None:
    assert report.item_name(shown) == name


def test_lines_are_items_with_digests_the_last_used_first(store: ToldStore) -> None:
    old, new = store.add(1, URL + "old.sif"), store.add(2, URL + "new.sif")
    assert report.rebuild(store.layout, create=True)
    lines = (files.read_text(store.layout.report) or "").splitlines()
    assert lines == [f"new.sif@{new.hex[:12]} {new.hex}", f"old.sif@{old.hex[:12]} {old.hex}"]


def test_a_lease_is_a_use(store: ToldStore) -> None:
    old, new = store.add(1, URL + "old.sif"), store.add(2, URL + "new.sif")
    os.makedirs(store.layout.leases(old))
    report.rebuild(store.layout, create=True)
    assert names(store) == [report.item("old.sif", old.hex), report.item("new.sif", new.hex)]


def test_each_reference_that_means_an_image_has_an_item(store: ToldStore) -> None:
    digest = store.add(1, URL + "b.sif", "/shared/a.sif", "https://other.example.org/b.sif")
    report.rebuild(store.layout, create=True)
    assert names(store) == [f"a.sif@{digest.hex[:12]}", f"b.sif@{digest.hex[:12]}"]


def test_an_image_that_nothing_means_any_more_is_called_by_its_origin(store: ToldStore) -> None:
    before = store.add(1, URL + "tool.sif")
    after = store.add(2, origin=URL + "other.sif")
    store.mean(URL + "tool.sif", 2)
    report.rebuild(store.layout, create=True)
    assert names(store) == [f"tool.sif@{after.hex[:12]}", f"tool.sif@{before.hex[:12]}"]


def test_what_was_converted_is_told_by_its_manifest_too(store: ToldStore) -> None:
    index, pinned = "a" * 64, "b" * 64
    digest = store.add(1, f"docker://h.x/lab/tool@sha256:{pinned}", "oci:/layout")
    tagged = parse("docker://h.x/lab/tool:1")
    record = store.layout.reference_record(tagged.key)
    memory.write_seen(record, tagged.shown, digest, validators=Validators(f"sha256:{index}"), at=1.0)
    on_disk = store.layout.reference_record(parse("oci:/layout").key)
    memory.write_seen(on_disk, "oci:/layout", digest, validators=Validators(f"sha256:{'c' * 64}"), at=1.0)
    report.rebuild(store.layout, create=True)
    assert report.manifests(store.layout) == {digest.hex: {index, pinned}}
    of_registry = {f"{name}@{digits[:12]}" for name in ("tool", "tool:1") for digits in (digest.hex, index, pinned)}
    assert set(names(store)) == {*of_registry, f"layout@{digest.hex[:12]}"}
    assert {digits for _, digits in report.read(store.layout)} == {digest.hex}
    shutil.rmtree(store.layout.image_dir(digest))
    assert report.read(store.layout) == []


def test_a_file_from_a_registry_is_told_once(store: ToldStore) -> None:
    digest = store.add(1)
    reference = parse("oras://h.x/lab/tool:1")
    record = store.layout.reference_record(reference.key)
    memory.write_seen(record, reference.shown, digest, validators=Validators(str(digest)), at=1.0)
    report.rebuild(store.layout, create=True)
    assert names(store) == [f"tool:1@{digest.hex[:12]}"]


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        (f"docker://h.x/tool:1@sha256:{'a' * 64}", "a" * 64),
        (f"oras://h.x/tool@sha256:{'a' * 64}", "a" * 64),
        ("docker://h.x/tool:1", None),
        (f"https://h.x/tool.sif@sha256:{'b' * 64}", "b" * 64),
        ("https://h.x/tool.sif", None),
        (f"library://e/c/tool:sha256.{'c' * 64}", "c" * 64),
    ],
)
def test_by_what_a_wish_is_known(text: str, digits: str | None) -> None:
    known = known_as(parse(text))
    assert (known and known.hex) == digits


def test_private_images_are_not_told(store: ToldStore) -> None:
    digest = store.add(1, URL + "secret.sif", private=True)
    report.rebuild(store.layout, create=True)
    report.note(store.layout, digest, URL + "secret.sif")
    assert names(store) == []


def test_no_more_lines_than_can_be_told(store: ToldStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "ITEMS_MAX", 3)
    digests = [store.add(number, f"/a{number}", f"/b{number}") for number in range(3)]
    report.rebuild(store.layout, create=True)
    newest = [f"a2@{digests[2].hex[:12]}", f"b2@{digests[2].hex[:12]}", f"a1@{digests[1].hex[:12]}"]
    assert names(store) == newest


def test_nothing_is_written_where_nobody_reads(store: ToldStore) -> None:
    digest = store.add(1, URL + "tool.sif")
    report.note(store.layout, digest, URL + "tool.sif")
    report.drop(store.layout, digest)
    assert not report.rebuild(store.layout)
    assert not os.path.lexists(store.layout.report)
    assert not os.path.lexists(store.layout.lock("report"))


def test_staging_and_eviction_keep_it(node: FakeNode) -> None:
    report.rebuild(node.layout, create=True)
    staged = node.staging(origin()).run()
    (line,) = report.read(node.layout)
    assert line[1] == staged.digest.hex
    assert collect.evict(node.layout, staged.digest, force=True) > 0
    assert files.read_text(node.layout.report) == ""


def test_an_image_that_was_kept_after_all_stays(store: ToldStore) -> None:
    digest = store.add(1, URL + "tool.sif")
    report.rebuild(store.layout, create=True)
    report.drop(store.layout, digest)
    assert digest.hex in (files.read_text(store.layout.report) or "")


def test_an_image_of_another_version_comes_to_what_is_there(node: FakeNode) -> None:
    report.rebuild(node.layout, create=True)
    staged = {node.staging(origin(number)).run().digest.hex for number in (1, 2)}
    assert {digits for _, digits in report.read(node.layout)} == staged
    assert version(1) != version(2)


def test_asking_again_writes_nothing(store: ToldStore) -> None:
    digest = store.add(1, URL + "tool.sif")
    report.rebuild(store.layout, create=True)
    before = os.stat(store.layout.report)
    report.note(store.layout, digest, URL + "tool.sif")
    report.rebuild(store.layout)
    assert os.stat(store.layout.report) == before


def test_what_is_not_there_is_not_read(store: ToldStore) -> None:
    gone, there = store.add(1, URL + "gone.sif"), store.add(2, URL + "there.sif")
    report.rebuild(store.layout, create=True)
    os.unlink(store.layout.sidecar(gone))
    assert names(store) == [f"there.sif@{there.hex[:12]}"]


@pytest.mark.parametrize(
    "bad", ["", "x", "tool.sif {}", "a;b@{0:.12} {0}", "@{0:.12} {0}", "a@000 {0}", "a@{0:.12} {0}x"]
)
def test_lines_that_are_none_are_not_read(store: ToldStore, bad: str) -> None:
    digest = store.add(1, URL + "tool.sif")
    good = f"tool.sif@{digest.hex[:12]} {digest.hex}"
    files.write_text(store.layout.report, f"{bad.format(digest.hex)}\n{good}\n")
    assert names(store) == [f"tool.sif@{digest.hex[:12]}"]


def test_a_report_that_others_may_write_is_none(store: ToldStore) -> None:
    store.add(1, URL + "tool.sif")
    report.rebuild(store.layout, create=True)
    os.chmod(store.layout.report, 0o666)
    assert names(store) == []


def test_everybody_may_read_it_whatever_the_umask(store: ToldStore) -> None:
    before = os.umask(0o077)
    try:
        report.rebuild(store.layout, create=True)
    finally:
        os.umask(before)
    assert os.stat(store.layout.report).st_mode & 0o777 == 0o644


def test_a_lock_that_cannot_be_had_is_not_waited_for_long(store: ToldStore, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = store.add(1, URL + "tool.sif")
    report.rebuild(store.layout, create=True)
    os.unlink(store.layout.sidecar(digest))
    monkeypatch.setattr(report, "LOCK_SECONDS", 0.0)
    with open(store.layout.lock("report"), "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        report.drop(store.layout, digest)
        assert not report.rebuild(store.layout)
        assert digest.hex in (files.read_text(store.layout.report) or "")
    report.drop(store.layout, digest)
    assert files.read_text(store.layout.report) == ""


def test_nobody_s_change_is_lost(store: ToldStore) -> None:
    gone = [store.add(number, f"/gone{number}") for number in range(8)]
    report.rebuild(store.layout, create=True)

    def evict(number: int) -> None:
        os.unlink(store.layout.sidecar(gone[number]))
        report.drop(store.layout, gone[number])

    def stage(number: int) -> None:
        report.note(store.layout, store.add(100 + number, f"/come{number}"), f"/come{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8) for work in (evict, stage)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = {line.partition("@")[0] for line in (files.read_text(store.layout.report) or "").splitlines()}
    assert told == {f"come{number}" for number in range(8)}


def test_a_full_disk_keeps_nobody_from_staging(store: ToldStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    gone = store.add(1, URL + "a.sif")
    report.rebuild(store.layout, create=True)
    digest = store.add(2, URL + "b.sif")
    monkeypatch.setattr(files, "write_aside", full)
    report.note(store.layout, digest, URL + "b.sif")
    os.unlink(store.layout.sidecar(gone))
    report.drop(store.layout, gone)
    assert not report.rebuild(store.layout)
    assert names(store) == []


def test_what_a_killed_writer_has_left_is_collected(node: FakeNode) -> None:
    left, young, foreign = (f"{node.layout.root}/{name}" for name in (".report.7.1.ab", ".report.8.1.ab", ".snapshot"))
    for path in (left, young, foreign):
        files.write_text(path, "x")
    for path in (left, foreign):
        os.utime(path, (0, 0))
    collect.Collector(node.layout, node.election, lambda _kind: FakeMounter()).run()
    assert [os.path.lexists(path) for path in (left, young, foreign)] == [False, True, True]
