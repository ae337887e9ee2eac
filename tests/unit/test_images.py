from __future__ import annotations

import os
import struct

import pytest

from stager.errors import DamagedImage, NotAnImage
from stager.images import recognise
from stager.interfaces import Partition
from tests.support.image_factory import in_memory, minimal_erofs, minimal_sif, minimal_squashfs, recognised


def test_a_squashfs_is_its_own_root() -> None:
    image = minimal_squashfs(b"payload")
    info = recognised(image)
    assert (info.format, info.size, info.compression) == ("squashfs", len(image), "gzip")
    assert info.root == Partition(0, len(image), "squashfs", primary=True)
    assert info.partitions == ()


def test_an_erofs_is_its_own_root() -> None:
    info = recognised(minimal_erofs())
    assert (info.format, info.size, info.compression) == ("erofs", 4096, "none")
    assert info.root == Partition(0, 4096, "erofs", primary=True)


def test_a_sif_tells_its_root_and_architecture() -> None:
    inner = minimal_squashfs()
    info = recognised(minimal_sif(inner))
    assert (info.format, info.size, info.compression, info.arch) == ("sif", 4096 + len(inner), "gzip", "amd64")
    assert info.root == Partition(4096, len(inner), "squashfs", "amd64", primary=True)
    assert info.partitions == (info.root,)


@pytest.mark.parametrize("fstype", [1, 4, 99])
def test_content_decides_what_a_sif_partition_is(fstype: int) -> None:
    info = recognised(minimal_sif(minimal_erofs(), fstype=fstype))
    assert (info.root.kind, info.compression) == ("erofs", "none")
    assert info.partitions == (info.root,)


def test_bytes_behind_an_image_do_no_harm() -> None:
    image = minimal_squashfs()
    padded = image + b"\xff" * 4096
    assert recognised(padded).size == len(padded)


def test_the_file_position_stays() -> None:
    with in_memory(minimal_squashfs()) as fd:
        os.lseek(fd, 17, os.SEEK_SET)
        recognise(fd, os.fstat(fd).st_size)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 17


def test_a_file_shorter_than_its_size_is_damaged() -> None:
    with in_memory(minimal_squashfs()[:50]) as fd, pytest.raises(DamagedImage, match="ends at byte 50 while"):
        recognise(fd, 1000)


def test_foreign_bytes_are_named_with_a_hint() -> None:
    with pytest.raises(NotAnImage, match=r"^this is a gzip archive, not a SIF, squashfs or EROFS image$") as caught:
        recognised(b"\x1f\x8b\x08" + b"\0" * 100)
    assert "unpack" in caught.value.hint


def test_without_a_better_hint_the_usual_one_stays() -> None:
    with pytest.raises(NotAnImage, match="unknown data starting with de ad be ef") as caught:
        recognised(b"\xde\xad\xbe\xef" * 10)
    assert caught.value.hint == NotAnImage.hint


@pytest.mark.parametrize(("inner", "what"), [(b"", "an empty partition"), (b"\x7fELF" + b"\1" * 9, "a program")])
def test_a_sif_of_something_else_says_of_what(inner: bytes, what: str) -> None:
    with pytest.raises(DamagedImage, match=f"the SIF's root partition is {what}"):
        recognised(minimal_sif(inner))


def test_a_closed_descriptor_is_the_callers_error() -> None:
    with in_memory(b"") as fd:
        pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        recognise(fd, 10)


def test_images_of_many_gigabytes_are_counted_in_full() -> None:
    size = 5 << 30
    image = bytearray(minimal_squashfs())
    struct.pack_into("<Q", image, 40, size)
    with in_memory(bytes(image)) as fd:
        os.ftruncate(fd, size)
        assert recognise(fd, size).root.size == size
        with pytest.raises(DamagedImage, match=f"promises {size} bytes, the file has {size - 1}"):
            recognise(fd, size - 1)
