"""Layers, entry by entry: what is taken, what is refused, and what is said of it."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import zstandard

from stager.errors import ConfigError, DamagedImage, ImageRefused, NotAnImage, StageImageError
from stager.layers import Limits, Options, write
from stager.layers.archive import END, comparisons, header, plan, same_sized, walk
from stager.layers.writing import merged
from stager.oci import ContainerConfig
from tests.support.converting import indexed
from tests.support.layered_images import (
    SPARSE_FORMS,
    Entry,
    Layer,
    device,
    directory,
    file,
    hardlink,
    layer,
    opaque,
    sparse,
    symlink,
    tar,
    whiteout,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from stager.layers.tree import Tree


def tree(*described: Iterable[Entry]) -> Tree:
    return merged([indexed(layer(list(entries), "plain")) for entries in described], lambda: None)


def names(*described: Iterable[Entry]) -> set[str]:
    return {path.decode() for path, _ in walk(tree(*described))}


def test_whiteouts_mean_lower_layers_in_any_order() -> None:
    lower = [directory("d"), file("d/old", b"1"), file("gone", b"2")]
    assert names(lower, [whiteout("gone"), whiteout("d/old"), file("d/old", b"3")]) == {"d", "d/old"}
    assert names(lower, [file("d/old", b"3"), whiteout("d/old"), whiteout("never")]) == {"d", "d/old", "gone"}


def test_opaque_directories_keep_what_their_layer_has() -> None:
    lower = [directory("d/e"), file("d/e/old", b"1"), file("d/old", b"2")]
    for upper in ([opaque("d"), file("d/e/new", b"3")], [file("d/e/new", b"3"), opaque("d")]):
        assert names(lower, upper) == {"d", "d/e", "d/e/new"}


def test_content_stays_under_a_further_name() -> None:
    found = tree([file("a", b"1"), hardlink("b", "a")], [whiteout("a")], [hardlink("c", "/b"), file("b", b"22")])
    assert set(found.root.children) == {b"b", b"c"}
    assert found.root.children[b"c"].layer == 0


def test_names_stay_within_the_root() -> None:
    entries = [directory("in"), symlink("out", "../../../in"), file("out/x"), file("/../../y"), file("a/../../z")]
    assert names(entries) == {"in", "out", "in/x", "y", "z"}


@pytest.mark.parametrize("form", SPARSE_FORMS)
def test_sparse_files(form: str) -> None:
    pieces = [(1024 * number, b"x" * 512) for number in range(30)]
    entry = sparse("s", 40_000, pieces, form)
    found = tree([entry, file("after", b"1")])
    content = found.root.children[b"s"].content
    assert content
    assert (content.size, content.stored) == (40_000, 30 * 512)
    assert content.extents == tuple((offset, len(data)) for offset, data in pieces)
    assert set(found.root.children) == {b"s", b"after"}


def test_odd_numbers_and_names() -> None:
    entry = file(b"\xff\n" + b"n" * 200, b"1", uid=4_000_000_000, mtime=-5, xattrs={"user.x": b"\0=\n"})
    node = tree([entry]).root.children[b"\xff\n" + b"n" * 200]
    assert (node.uid, node.mtime, node.xattrs) == (4_000_000_000, 0, {b"user.x": b"\0=\n"})
    assert tree([file("f", mtime=1 << 40)]).root.children[b"f"].mtime == 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("entries", "error", "words"),
    [
        ([file("f"), file("f/x")], DamagedImage, "'f/x': 'f' in its name is no directory"),
        ([hardlink("a", "nowhere")], DamagedImage, "'nowhere', which is not there"),
        ([directory("d"), hardlink("a", "d")], ImageRefused, "a directory"),
        ([file("./")], ImageRefused, "the place of the root"),
        ([symlink("s", "s"), file("s/x")], ImageRefused, "circle"),
        ([symlink("s", "")], DamagedImage, "to nothing"),
        ([file(b".wh...")], ImageRefused, "not its own"),
        ([file("n" * 256)], ImageRefused, "longer than Linux takes"),
        ([file("d/" * 2100 + "f")], ImageRefused, "longer than Linux takes"),
        ([file("f", uid=-1)], ImageRefused, "-1 is no user"),
        ([file("f", b"", size=-1)], DamagedImage, "for a size"),
        ([file("f", b"", size=10_000)], DamagedImage, "cut off"),
        ([file("f", b"", size=1 << 60)], ImageRefused, "bytes"),
        ([sparse("s", 1 << 60, [(0, b"1")], "0.1")], ImageRefused, "bytes"),
        ([Entry(b"v", b"V")], DamagedImage, "of the type 'V'"),
        ([file("f", pax={"path": b"a\0b"})], DamagedImage, "NUL"),
        ([file("f", pax={"uid": b"x"})], DamagedImage, "a number"),
        ([file("f", xattrs={"user.x": b"1" * 70_000})], ImageRefused, "attribute"),
    ],
)
def test_refusals(entries: list[Entry], error: type[StageImageError], words: str) -> None:
    with pytest.raises(error) as caught:
        tree(entries)
    assert type(caught.value) is error
    assert words in caught.value.message
    assert caught.value.message.startswith("layer ")
    assert caught.value.message.isascii()


def test_limits() -> None:
    many = layer([file(str(number)) for number in range(20)])
    with pytest.raises(ImageRefused, match="more than 19 entries"):
        indexed(many, Limits(entries=19))
    with pytest.raises(ImageRefused, match="names"):
        indexed(many, Limits(names=20))
    bomb = layer([file("zeros", bytes(1 << 20))])
    assert indexed(bomb).files == 1 << 20
    with pytest.raises(ImageRefused, match="expands to more"):
        indexed(bomb, Limits(floor=1 << 16, ratio=10))
    endless = Layer(tar([]), b"".join(tar([Entry(b"x", b"x")], b"") for _ in range(30)), layer([]).media_type)
    with pytest.raises(ImageRefused, match="entries"):
        indexed(layer(endless.tar), Limits(entries=19))


def grown(limits: Limits, *entries: Entry, check: Callable[[], None] = lambda: None) -> Tree:
    return merged([indexed(layer(list(entries), "plain"), limits)], check)


def test_short_layers_make_no_great_trees() -> None:
    """Of a directory that no layer describes, every part of every name may be one: 11 KB asked for 10 GB so."""
    deep = [file(f"{number}/" + "a/" * 100 + "f") for number in range(10)]
    assert grown(Limits(entries=1100), *deep).root.children
    with pytest.raises(ImageRefused, match="more than 1000 files and directories"):
        grown(Limits(entries=1000), *deep)
    far = [directory("d" * 200), symlink("l", "d" * 200), *(file(f"l/{number}") for number in range(10))]
    assert grown(Limits(names=2500), *far).root.children
    with pytest.raises(ImageRefused, match="paths in the image would take more than 2000 bytes"):
        grown(Limits(names=2000), *far)


def test_short_layers_make_no_long_work() -> None:
    chain = [symlink(f"l{number}", "./" * 1000 + f"l{number + 1}") for number in range(100)]
    with pytest.raises(ImageRefused, match="have to be gone through"):
        grown(Limits(steps=200_000), *chain, directory("l100"), *(file(f"l0/{number}") for number in range(3)))
    many = [file(f"d/{number}") for number in range(300)]
    with pytest.raises(ImageRefused, match="have to be gone through"):
        grown(Limits(steps=50_000), *many, *[opaque("d")] * 300)
    assert grown(Limits(steps=50_000), *many).root.children


def test_cancelled_it_leaves_a_layer_in_the_middle() -> None:
    looks: list[int] = []

    def check() -> None:
        looks.append(0)
        if len(looks) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        grown(Limits(), *(file(str(number)) for number in range(1001)), check=check)


def test_extended_headers_of_one_member_do_not_add_up() -> None:
    records = {f"comment.{number}": b"x" * 60_000 for number in range(10)}
    again = {f"comment.{number}": b"x" * 60_000 for number in range(10, 20)}
    assert indexed(layer([file("f", pax=records), file("g", pax=again)], "plain")).entries
    twice = tar([file("f", pax=records)], b"")[:-512] + tar([file("f", pax=again)])
    with pytest.raises(ImageRefused, match="more than 1048576 are not taken"):
        indexed(Layer(twice, twice, layer([]).media_type))


def test_attributes_said_once_are_held_once() -> None:
    """Headers of all inodes at once would be 100 times as much."""
    large = {f"user.{number}": b"x" * 60_000 for number in range(10)}
    found = tree([file(str(number), xattrs=large) for number in range(100)])
    tracemalloc.start()
    try:
        assert len(plan(found).others) == 100
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_maps_of_sparse_files_are_not_longer_than_numbers_are() -> None:
    pax = {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.realsize": b"9", "GNU.sparse.name": b"s"}
    with pytest.raises(DamagedImage, match="than its numbers can be"):
        indexed(layer([file("GNUSparseFile.0/s", b"0" * 4096, pax=pax)], "plain"))


def test_compressions_by_their_first_bytes() -> None:
    plain = layer([file("f", b"1" * 5000)], "plain")
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    cut = len(plain.tar) // 2
    for blob in (
        plain.tar,
        gzip.compress(plain.tar[:cut]) + gzip.compress(plain.tar[cut:]) + bytes(100),
        skippable + zstandard.compress(plain.tar[:cut]) + skippable + zstandard.compress(plain.tar[cut:]),
    ):
        assert indexed(Layer(blob, plain.tar, plain.media_type)).files == 5000


@pytest.mark.parametrize("compression", ["gzip", "zstd", "plain"])
def test_layers_that_are_not_what_they_should_be(compression: str) -> None:
    whole = layer([file("f", b"12345" * 5000)], compression)
    with pytest.raises(DamagedImage, match="digest"):
        indexed(whole, diff_id="sha256:" + "0" * 64)
    for length in (1, len(whole.blob) // 2, len(whole.blob) - 1):
        with pytest.raises(DamagedImage):
            indexed(Layer(whole.blob[:length], whole.tar, whole.media_type))
    with pytest.raises(DamagedImage):
        indexed(Layer(whole.blob + b"garbage", whole.tar, whole.media_type))


@pytest.mark.parametrize(
    ("media_type", "word"),
    [
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "elsewhere"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", "elsewhere"),
        ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "no file system"),
    ],
)
def test_media_types(media_type: str, word: str) -> None:
    with pytest.raises(NotAnImage, match=word):
        indexed(layer([], media_type=media_type))


def test_other_compressions_are_named() -> None:
    with pytest.raises(NotAnImage, match="xz"):
        indexed(Layer(b"\xfd7zXZ\0" + bytes(600), b"", layer([]).media_type))


def test_options() -> None:
    assert Options().arguments() == ["-comp", "zstd", "-b", "131072", "-Xcompression-level", "3"]
    assert Options("xz", block_size=4096).arguments() == ["-comp", "xz", "-b", "4096"]
    for wrong in ({"compression": "brotli"}, {"level": 0}, {"block_size": 5000}):
        with pytest.raises(ConfigError):
            Options(**wrong)


def test_headers_that_mksquashfs_could_stumble_over() -> None:
    """One kind of every odd number comes out as tarfile reads it; an extended header never fills its last block."""
    entries = [device("c", "c", 4095, 300), file("f", uid=3_000_000), directory("d", xattrs={"user.x": b"1" * 488})]
    found = plan(tree(entries))
    written = [header(path, node) for path, node in (*found.directories, *found.others)]
    with tarfile.open(fileobj=io.BytesIO(b"".join(written) + END)) as archive:
        members = {member.name: member for member in archive}
    assert (members["c"].devmajor, members["c"].devminor, members["f"].uid) == (4095, 300, 3_000_000)
    size = int(written[0][124:135], 8)
    assert size % 512
    assert written[0][512 + size] == 0


def test_comparisons_are_those_of_lists() -> None:
    """Three names in the root, each found in a list of three; two below one of them, which go through both lists."""
    assert comparisons(tree([file("a"), file("b"), file("d/x"), file("d/y")])) == 3 * 3 + 2 * (3 + 2)


def test_files_of_one_size_are_compared_with_each_other() -> None:
    found = tree([file("a", b"1"), file("b", b"2"), file("c/d", b"3"), file("e", b"44"), file("f"), file("g")])
    assert same_sized(plan(found)) == 3 * 3 + 1


def test_directories_that_would_take_hours(tmp_path: Path) -> None:
    found = [indexed(layer([file(f"f{number}") for number in range(11)], "plain"), Limits(comparisons=11 * 11 - 1))]
    with pytest.raises(ImageRefused, match="hours"):
        write(
            found,
            lambda _number: io.BytesIO(),
            str(tmp_path / "image"),
            Options(),
            config=ContainerConfig(),
            progress=lambda _done, _total: None,
            check=lambda: None,
        )
