"""The minimal images are what they say; that the kernel and the tools agree is a system test."""

from __future__ import annotations

import os
import struct

import pytest

from tests.support import image_factory as factory


@pytest.mark.parametrize("payload", [b"", b"x", b"y" * 5000])
def test_a_minimal_squashfs_promises_exactly_its_own_length(payload: bytes) -> None:
    image = factory.minimal_squashfs(payload)
    assert struct.unpack_from("<Q", image, 40)[0] == len(image)
    assert payload in image
    assert factory.recognised(image).compression == "gzip"


@pytest.mark.parametrize("payload", [b"", b"x", b"y" * 5000])
def test_a_minimal_erofs_promises_exactly_its_own_length(payload: bytes) -> None:
    image = factory.minimal_erofs(payload)
    assert struct.unpack_from("<I", image, 1024 + 36)[0] * 4096 == len(image)
    assert payload in image
    assert factory.recognised(image).format == "erofs"


@pytest.mark.parametrize("inner", [factory.minimal_squashfs(b"z" * 10), factory.minimal_erofs()])
def test_a_minimal_sif_holds_its_inner_image_at_a_page_boundary(inner: bytes) -> None:
    image = factory.minimal_sif(inner)
    root = factory.recognised(image).root
    assert root.offset % 4096 == 0
    assert image[root.offset : root.offset + root.size] == inner


def test_overrides_reach_header_and_descriptor() -> None:
    image = factory.minimal_sif(version=b"02", used=7)
    assert image[42:44] == b"02"
    assert image[128 + 4] == 7


def test_a_misspelt_override_is_an_error() -> None:
    with pytest.raises(AssertionError, match="parttyp"):
        factory.minimal_sif(parttyp=1)


def test_in_memory_files_hold_their_content_and_are_closed() -> None:
    with factory.in_memory(b"content") as fd:
        assert os.pread(fd, 100, 0) == b"content"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
