from __future__ import annotations

import struct

import pytest

from stager.errors import DamagedImage
from tests.support.image_factory import (
    minimal_erofs,
    minimal_sif,
    minimal_squashfs,
    recognised,
    sif_bytes,
    sif_descriptor,
)

INNER = minimal_squashfs()
GENERIC, PARTITION, SIGNATURE, OCI_BLOB = 0x4007, 0x4004, 0x4005, 0x400B
SYSTEM, PRIMARY, DATA, OVERLAY = 1, 2, 3, 4


def described(**fields: int | bytes) -> bytes:
    return sif_descriptor(**{"filelen": len(INNER), **fields})


def test_the_root_is_the_primary_partition_wherever_its_descriptor_is() -> None:
    table = [
        described(datatype=GENERIC, filelen=0, offset=0),
        described(parttype=OVERLAY, fstype=2, filelen=3),
        described(used=0),
        described(parttype=DATA, partarch=b"00"),
        described(id=9),
    ]
    info = recognised(sif_bytes(table, INNER))
    assert [(p.kind, p.arch, p.primary) for p in info.partitions] == [
        ("ext3", "amd64", False),
        ("squashfs", "", False),
        ("squashfs", "amd64", True),
    ]
    assert info.root is info.partitions[-1]


@pytest.mark.parametrize(("code", "name"), [(b"01", "386"), (b"04", "arm64"), (b"11", "s390x"), (b"12", "riscv64")])
def test_architectures_have_the_names_of_go(code: bytes, name: str) -> None:
    info = recognised(minimal_sif(partarch=code))
    assert (info.arch, info.root.arch) == (name, name)


def test_the_header_tells_the_architecture_when_the_partition_does_not() -> None:
    info = recognised(minimal_sif(partarch=b"00", arch=b"06"))
    assert (info.arch, info.root.arch) == ("ppc64le", "")
    assert recognised(minimal_sif(partarch=b"\xff\xff", arch=b"99")).arch == ""


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"version": b"02"}, "SIF version '02' is not supported"),
        ({"version": b""}, "SIF version '' is not supported"),
        ({"dtotal": -1}, "the SIF header is damaged: -1 descriptors"),
        ({"descoff": -585}, "the SIF header is damaged: 1 descriptors at byte -585"),
        ({"descoff": 0}, "the SIF header is damaged"),
        ({"dtotal": 1 << 62}, "truncated: the SIF's table of descriptors ends after"),
        ({"descoff": (1 << 63) - 1}, "truncated: the SIF's table of descriptors ends after"),
        ({"offset": -1}, "the SIF is damaged: object 1 is .* bytes at -1"),
        ({"filelen": -1}, "the SIF is damaged: object 1 is -1 bytes"),
        ({"offset": (1 << 63) - 1, "filelen": (1 << 63) - 1}, "truncated: data object 1 of the SIF ends after"),
        ({"fstype": 5}, "root partition is encrypted .encrypted squashfs."),
        ({"fstype": 6}, "root partition is encrypted .gocryptfs."),
        ({"fstype": 2}, "root partition is ext3"),
        ({"parttype": SYSTEM}, "no primary system partition"),
        ({"parttype": DATA}, "no primary system partition"),
        ({"used": 0}, "no primary system partition"),
        ({"dtotal": 0}, "no primary system partition"),
        ({"datatype": GENERIC}, "no primary system partition"),
        ({"datatype": OCI_BLOB}, "an OCI-SIF holds no partition"),
        ({"offset": 0}, "truncated|root partition is"),
    ],
)
def test_a_sif_without_a_usable_root_is_damaged(overrides: dict[str, int | bytes], why: str) -> None:
    with pytest.raises(DamagedImage, match=why):
        recognised(minimal_sif(INNER, **overrides))


@pytest.mark.parametrize("fstype", [2, 5])
def test_an_unusable_root_comes_with_a_way_out(fstype: int) -> None:
    with pytest.raises(DamagedImage) as caught:
        recognised(minimal_sif(fstype=fstype))
    assert "build" in caught.value.hint


def test_two_roots_are_one_too_many() -> None:
    with pytest.raises(DamagedImage, match="the SIF has 2 primary system partitions"):
        recognised(sif_bytes([described(id=1), described(id=2)], INNER))


def test_a_signature_that_is_cut_off_is_a_truncated_image() -> None:
    signature = described(id=2, datatype=SIGNATURE, offset=4096 + len(INNER), filelen=100)
    image = sif_bytes([described(), signature], INNER + b"s" * 100)
    assert recognised(image).format == "sif"
    with pytest.raises(DamagedImage, match=f"truncated: data object 2 .* {len(image)} bytes, the file"):
        recognised(image[:-1])


def test_an_inner_image_larger_than_its_partition_is_truncated() -> None:
    with pytest.raises(DamagedImage, match=f"promises {len(INNER)} bytes, the partition has {len(INNER) - 1}"):
        recognised(minimal_sif(INNER, filelen=len(INNER) - 1))
    with pytest.raises(DamagedImage, match="promises 4096 bytes, the partition has 4095"):
        recognised(minimal_sif(minimal_erofs(), filelen=4095))


@pytest.mark.parametrize(("before", "after"), [(0, 47), (47, 0), (63, 0), (63, 20)])
def test_the_root_is_found_among_the_first_descriptors(before: int, after: int) -> None:
    unused = described(used=0)
    start = -(-(128 + (before + 1 + after) * 585) // 4096) * 4096
    table = [unused] * before + [described(offset=start)] + [unused] * after
    assert recognised(sif_bytes(table, INNER)).root.offset == start


def test_the_number_of_descriptors_read_is_bounded() -> None:
    with pytest.raises(DamagedImage, match="no primary system partition"):
        recognised(sif_bytes([described(used=0)] * 64 + [described()], INNER))


def test_a_file_that_ends_in_its_header_is_truncated() -> None:
    with pytest.raises(DamagedImage, match=r"truncated: a SIF header takes 128 bytes, the file has 100$"):
        recognised(minimal_sif()[:100])


def test_a_sif_inside_a_sif_is_not_looked_into() -> None:
    with pytest.raises(DamagedImage, match=r"root partition is .*, not squashfs or EROFS"):
        recognised(minimal_sif(minimal_sif()))


def test_hostile_versions_are_shown_harmless() -> None:
    with pytest.raises(DamagedImage) as caught:
        recognised(minimal_sif(version=struct.pack("3B", 27, 91, 255)))
    assert caught.value.message.isprintable()
