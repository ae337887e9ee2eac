from __future__ import annotations

import os
import struct
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from stager.errors import DamagedImage
from stager.images import recognise
from stager.oci import ContainerConfig
from stager.trailer import pack
from tests.support.image_factory import in_memory, minimal_sif, minimal_squashfs, recognised

if TYPE_CHECKING:
    from collections.abc import Callable

ABSENT = b"\xff" * 8


def changed(offset: int, value: bytes) -> bytes:
    image = minimal_squashfs(b"payload")
    return image[:offset] + value + image[offset + len(value) :]


@pytest.mark.parametrize(("number", "name"), [(1, "gzip"), (2, "lzma"), (3, "lzo"), (4, "xz"), (5, "lz4"), (6, "zstd")])
def test_compression_has_the_name_that_mksquashfs_gives_it(number: int, name: str) -> None:
    assert recognised(changed(20, struct.pack("<H", number))).compression == name


@pytest.mark.parametrize(
    ("offset", "value", "why"),
    [
        (12, struct.pack("<I", 100_000), "100000 .log 17. is no block size"),
        (22, struct.pack("<H", 18), "131072 .log 18. is no block size"),
        (22, struct.pack("<H", 999), "131072 .log 999. is no block size"),
        (20, struct.pack("<H", 0), "0 is no known compression"),
        (20, struct.pack("<H", 7), "7 is no known compression"),
        (48, ABSENT, "its id table would start"),
        (48, struct.pack("<Q", 95), "its id table would start at byte 95 of 157"),
        (48, struct.pack("<Q", 157), "its id table would start at byte 157 of 157"),
        (56, struct.pack("<Q", 5000), "its xattr table would start at byte 5000"),
        (64, struct.pack("<Q", 0), "its inode table would start at byte 0"),
        (64, struct.pack("<Q", 150), "directory table does not follow"),
        (72, struct.pack("<Q", 103), "directory table does not follow"),
        (72, struct.pack("<Q", 5000), "its directory table would start at byte 5000"),
        (88, struct.pack("<Q", 1 << 63), "its export table would start"),
    ],
)
def test_what_the_kernel_would_refuse_is_damaged(offset: int, value: bytes, why: str) -> None:
    with pytest.raises(DamagedImage, match=f"^the squashfs superblock is damaged: .*{why}"):
        recognised(changed(offset, value))


@pytest.mark.parametrize("log", [0, 11, 21, 31])
def test_blocks_are_of_4_kib_to_1_mib(log: int) -> None:
    image = bytearray(minimal_squashfs())
    struct.pack_into("<I", image, 12, 1 << log)
    struct.pack_into("<H", image, 22, log)
    with pytest.raises(DamagedImage, match="is no block size"):
        recognised(bytes(image))


def test_a_fragment_table_matters_only_with_fragments() -> None:
    table = struct.pack("<Q", 1 << 40)
    assert recognised(changed(80, table)).format == "squashfs"
    image = changed(80, table)
    with pytest.raises(DamagedImage, match="its fragment table would start"):
        recognised(image[:16] + struct.pack("<I", 1) + image[20:])


def test_a_truncated_one_says_how_much_is_missing() -> None:
    with pytest.raises(DamagedImage, match=r"truncated: the squashfs superblock promises 157 bytes, the file has 156$"):
        recognised(minimal_squashfs(b"payload")[:-1])
    with pytest.raises(DamagedImage, match=r"truncated: a squashfs superblock takes 96 bytes, the file has 95$"):
        recognised(minimal_squashfs()[:95])


@pytest.mark.parametrize(
    ("start", "what"),
    [(b"sqsh", "big-endian squashfs"), (b"shsq", "LZMA-patched squashfs"), (b"qshs", "LZMA-patched big-endian")],
)
def test_other_byte_orders_are_not_supported(start: bytes, what: str) -> None:
    with pytest.raises(DamagedImage, match=f"{what}.* is not supported") as caught:
        recognised(changed(0, start))
    assert "mksquashfs" in caught.value.hint


@pytest.mark.parametrize(("major", "minor"), [(3, 1), (2, 0), (4, 1), (5, 0)])
def test_other_versions_are_not_supported(major: int, minor: int) -> None:
    with pytest.raises(DamagedImage, match=f"squashfs {major}.{minor} is not supported"):
        recognised(changed(28, struct.pack("<HH", major, minor)))


CONFIG = ContainerConfig(env=("A=b",), entrypoint=("/bin/tool",), working_dir="/w", labels={"k": "v"})


def padded(image: bytes) -> bytes:
    return image + b"\0" * (-len(image) % 4096)


@pytest.mark.parametrize("payload", [b"", b"x" * 3939, b"y" * 5000])
def test_a_containers_configuration_stands_behind_the_image(payload: bytes) -> None:
    image = padded(minimal_squashfs(payload))
    info = recognised(image + pack(CONFIG))
    assert info.config == CONFIG
    assert replace(info, config=None, size=0, root=info.root) == replace(recognised(image), size=0, root=info.root)


def test_an_image_without_one_is_read_as_before() -> None:
    with in_memory(padded(minimal_squashfs())) as fd, mock.patch("stager.trailer.read") as read:
        assert recognise(fd, os.fstat(fd).st_size).config is None
    read.assert_not_called()


@pytest.mark.parametrize(
    "broken",
    [
        lambda data: data[:4096].replace(b"stage-image", b"STAGE-image"),
        lambda data: data.replace(b'"Env"', b'Env""'),
        lambda data: data[:24] + b"\xff" * 8 + data[32:],
        lambda data: data[:24] + struct.pack("<Q", 5000) + data[32:],
        lambda data: data[:24] + struct.pack("<Q", 2) + b"[]" + data[34:],
        lambda data: data[:24] + struct.pack("<Q", 4000) + b"[" * 4000 + data[4032:],
    ],
)
def test_a_broken_configuration_is_none_and_the_image_is_sound(broken: Callable[[bytes], bytes]) -> None:
    trailer = pack(CONFIG)
    assert broken(trailer) != trailer
    info = recognised(padded(minimal_squashfs()) + broken(trailer))
    assert (info.format, info.config) == ("squashfs", None)


def test_a_configuration_that_is_still_to_come_is_none() -> None:
    image = padded(minimal_squashfs())
    with in_memory(image) as fd:
        assert recognise(fd, len(image) + 4096).config is None


def test_the_file_system_in_a_sif_has_none() -> None:
    info = recognised(minimal_sif(padded(minimal_squashfs()) + pack(CONFIG)))
    assert (info.format, info.config) == ("sif", None)
