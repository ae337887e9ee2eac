from __future__ import annotations

import struct

import pytest

from stager.errors import DamagedImage
from tests.support.image_factory import minimal_erofs, recognised

ZERO_PADDING, COMPR_CFGS, DEVICE_TABLE, WIDE = 1, 2, 8, 0x80


def changed(**fields: int) -> bytes:
    image = bytearray(minimal_erofs(b"payload"))
    places = {
        "block_log": ("<B", 12), "blocks_hi": ("<H", 14), "blocks": ("<I", 36), "incompat": ("<I", 80),
        "algorithms": ("<H", 84), "devices": ("<H", 86),
    }  # fmt: skip
    for name, value in fields.items():
        form, offset = places[name]
        struct.pack_into(form, image, 1024 + offset, value)
    return bytes(image)


@pytest.mark.parametrize(
    ("incompat", "algorithms", "name"),
    [
        (0, 0, "none"),
        (ZERO_PADDING, 0xFFFF, "lz4"),
        (COMPR_CFGS, 0, "none"),
        (COMPR_CFGS, 1, "lz4"),
        (COMPR_CFGS, 2, "lzma"),
        (COMPR_CFGS, 4, "deflate"),
        (COMPR_CFGS | ZERO_PADDING, 8, "zstd"),
        (COMPR_CFGS, 9, "lz4+zstd"),
        (COMPR_CFGS, 0x11, "lz4+unknown"),
    ],
)
def test_compression_names_every_algorithm_in_use(incompat: int, algorithms: int, name: str) -> None:
    assert recognised(changed(incompat=incompat, algorithms=algorithms)).compression == name


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"block_log": 8}, "2.8 bytes is no block size"),
        ({"block_log": 17}, "2.17 bytes is no block size"),
        ({"block_log": 255}, "2.255 bytes is no block size"),
        ({"blocks": 0}, "promises no blocks"),
        ({"incompat": DEVICE_TABLE, "devices": 2}, "keeps data in 2 other files"),
    ],
)
def test_what_cannot_be_mounted_is_damaged(fields: dict[str, int], why: str) -> None:
    with pytest.raises(DamagedImage, match=why):
        recognised(changed(**fields))


def test_devices_count_only_with_a_device_table() -> None:
    assert recognised(changed(devices=2)).format == "erofs"
    assert recognised(changed(incompat=DEVICE_TABLE)).format == "erofs"


@pytest.mark.parametrize(("block_log", "blocks"), [(9, 16), (10, 8), (12, 2), (13, 1)])
def test_small_and_large_blocks_are_counted_alike(block_log: int, blocks: int) -> None:
    image = changed(block_log=block_log, blocks=blocks)
    assert recognised(image).size == 8192
    with pytest.raises(DamagedImage, match=r"truncated: the EROFS superblock promises 8192 bytes, the file has 8191$"):
        recognised(image[:-1])


def test_wide_block_counts_are_read_only_where_the_feature_says_so() -> None:
    assert recognised(changed(blocks_hi=1)).format == "erofs"
    with pytest.raises(DamagedImage, match=f"promises {((1 << 32) + 2) * 4096} bytes"):
        recognised(changed(blocks_hi=1, incompat=WIDE))


def test_a_file_that_ends_in_its_superblock_is_truncated() -> None:
    with pytest.raises(DamagedImage, match=r"truncated: an EROFS superblock takes 1152 bytes, the file has 1100$"):
        recognised(minimal_erofs()[:1100])
