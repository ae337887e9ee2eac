from __future__ import annotations

import os
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager.conversions import Conversions
from stager.interfaces import ImageInfo, Partition
from stager.oci import Descriptor, Manifest
from stager.reference import Digest, parse
from stager.shared import SharedStore
from stager.store import files, folder, images
from tests.support.fake_clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

    from stager.layout import Layout
    from stager.store.images import StagedImage

NAME, OTHER = "a" * 64, "b" * 64
TOP = Digest("c" * 64)
MANIFEST = Manifest(Digest("d" * 64), Descriptor("", Digest("e" * 64), 1), (), TOP)


@dataclass
class FakeCluster:
    """What is asked of a ClusterStaging."""

    known: dict[str, Digest] = field(default_factory=dict)
    shared: SharedStore | None = None
    alone: bool = False
    asked: list[str] = field(default_factory=list)

    def recall_conversion(self, name: str) -> Digest | None:
        self.asked.append(name)
        return self.known.get(name)

    def remember_conversion(self, name: str, digest: Digest) -> None:
        self.known[name] = digest


@dataclass
class Past:
    """A node's memory, with an image that is staged there."""

    layout: Layout
    image: StagedImage
    cluster: FakeCluster = field(default_factory=FakeCluster)
    pin: Digest | None = None
    where: str = "h/a"

    def of(self, *tiers: Layout, alone: bool = False) -> Conversions:
        cluster = None if alone else self.cluster
        return Conversions(self.layout, self.where, lambda: self.pin, tiers, cluster)  # type: ignore[arg-type]


@pytest.fixture
def past(tmp_path: Path) -> Past:
    layout = folder.open_store(str(tmp_path / "store"))
    return Past(layout, _staged(layout, b"one"))


def _staged(layout: Layout, content: bytes) -> StagedImage:
    data = f"{layout.root}/data"
    with open(data, "wb") as file:
        file.write(content)
    info = ImageInfo("squashfs", len(content), "zstd", Partition(0, len(content), "squashfs"))
    image = images.publish(layout, data, Digest(sha256(content).hexdigest()), info, origin="o", private=False)
    os.unlink(data)
    return image


def test_what_came_of_a_manifest_is_recalled_while_it_is_here(past: Past) -> None:
    assert past.of().recall(NAME) is None
    past.of().remember(NAME, past.image.digest, MANIFEST)
    assert past.of().recall(NAME) == past.of(alone=True).recall(NAME) == past.image
    assert past.of().recall(OTHER) is None
    images.remove(past.layout, past.image.digest)
    assert past.of().recall(NAME) is None


def test_the_cluster_knows_what_other_nodes_made(past: Past) -> None:
    past.cluster.known[NAME] = past.image.digest
    assert past.of().recall(NAME) == past.image
    past.cluster.known[NAME] = Digest(OTHER)
    assert past.of().recall(NAME) is None
    past.of().remember(NAME, past.image.digest, MANIFEST)
    assert past.cluster.known == {NAME: past.image.digest, past.of()._made_of(past.image.digest): TOP}
    past.cluster.asked.clear()
    assert past.of().recall(NAME) == past.image
    assert past.cluster.asked == [], "what this node knows need not be asked"


def test_a_store_that_is_only_read_knows_too(past: Past, tmp_path: Path) -> None:
    tier = folder.open_store(str(tmp_path / "tier"))
    image = _staged(tier, b"two")
    Conversions(tier, "h/a", lambda: None).remember(NAME, image.digest, MANIFEST)
    assert past.of(alone=True).recall(NAME) is None
    assert past.of(tier, alone=True).recall(NAME) == image


def test_where_nodes_share_a_store_an_image_of_this_nodes_own_will_not_do(past: Past, tmp_path: Path) -> None:
    past.of().remember(NAME, past.image.digest, MANIFEST)
    shared = folder.open_store(str(tmp_path / "shared"))
    past.cluster.shared = SharedStore(shared, parse("docker://h/a"), FakeClock())
    assert past.of().recall(NAME) is None
    image = _staged(shared, b"one")
    assert past.of().recall(NAME) == image
    past.cluster.alone = True
    assert past.of().recall(NAME) == past.image


def test_what_the_job_is_pinned_to_leads_back_to_its_manifest(past: Past) -> None:
    assert past.of().pinned() is None
    past.pin = past.image.digest
    assert past.of().pinned() is None
    past.of(alone=True).remember(NAME, past.image.digest, MANIFEST)
    assert past.of(alone=True).pinned() == TOP
    past.pin = Digest(OTHER)
    assert past.of(alone=True).pinned() is None
    past.cluster.known[past.of()._made_of(past.pin)] = TOP
    assert past.of().pinned() == TOP
    past.where = "h/b"
    assert past.of().pinned() is None, "another repository of the same registry may not have it"


@pytest.mark.parametrize("text", ["", "digest\n", "digest sha256:12\n", "\0", "digest sha256:" + "g" * 64])
def test_a_record_that_is_none_is_not_believed(past: Past, text: str) -> None:
    past.pin = past.image.digest
    for name in (NAME, past.of()._made_of(past.image.digest)):
        files.write_text(past.layout.conversion(name), text)
    assert past.of(alone=True).recall(NAME) is None
    assert past.of(alone=True).pinned() is None


def test_what_cannot_be_written_is_no_failure(past: Past) -> None:
    files.write_text(f"{past.layout.root}/conversions", "in the way")
    past.of().remember(NAME, past.image.digest, MANIFEST)
    assert past.cluster.known == {}
