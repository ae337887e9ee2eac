"""Laws of `recognise` over hostile bytes: two errors, bounded reads, and never a truncated image."""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.errors import DamagedImage, NotAnImage
from stager.images import READ_LIMIT, foreign, recognise
from stager.interfaces import ImageInfo
from stager.layout import FORMAT_SUFFIXES
from tests.property.strategies import long_hostile_text
from tests.support.effort import effort
from tests.support.image_factory import in_memory, minimal_erofs, minimal_sif, minimal_squashfs, recognised

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGES = {
    "squashfs": minimal_squashfs(b"payload" * 100),
    "erofs": minimal_erofs(b"payload" * 100),
    "sif": minimal_sif(minimal_squashfs(b"payload")),
    "sif of erofs": minimal_sif(minimal_erofs(), fstype=4),
}

FIELDS = [
    *[(offset, size) for offset, size in ((0, 4), (12, 4), (16, 4), (20, 2), (22, 2), (28, 2), (30, 2))],
    *[(offset, 8) for offset in range(32, 128, 8)],
    *[(128 + offset, size) for offset, size in ((0, 4), (4, 1), (5, 4), (17, 8), (25, 8), (201, 4), (205, 4))],
    *[(1024 + offset, size) for offset, size in ((0, 4), (12, 1), (14, 2), (36, 4), (80, 4), (84, 2), (86, 2))],
    *[(4096 + offset, size) for offset, size in ((0, 4), (20, 2), (28, 4), (40, 8), (48, 8), (64, 8), (72, 8))],
    *[(5120 + offset, size) for offset, size in ((0, 4), (12, 1), (36, 4), (80, 4))],
]
"""Offset and size of every field that some parser reads, in one of the images or another."""

MAGICS = [(0, b"hsqs"), (0, b"sqsh"), (1024, b"\xe2\xe1\xf5\xe0"), (32, b"SIF_MAGIC\x0001\0"), (0, b"<html><title>")]
WORDS = [0, 1, 2, 96, 127, 128, 4095, 4096, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]

values = st.one_of(st.sampled_from(WORDS), st.integers(0, 20_000), st.integers(0, 2**64 - 1))
changes = st.lists(st.tuples(st.sampled_from(FIELDS), values), min_size=1, max_size=4)


@st.composite
def mutated_images(draw: st.DrawFn) -> bytes:
    image = bytearray(draw(st.sampled_from(list(IMAGES.values()))))
    for (offset, size), value in draw(changes):
        if offset + size <= len(image):
            image[offset : offset + size] = struct.pack("<Q", value)[:size]
    for bit in draw(st.lists(st.integers(0, 8 * 5248 - 1), max_size=3)):
        if bit // 8 < len(image):
            image[bit // 8] ^= 1 << bit % 8
    return bytes(image[: draw(st.none() | st.integers(0, len(image)))])


@st.composite
def bytes_with_a_magic(draw: st.DrawFn) -> bytes:
    offset, magic = draw(st.sampled_from(MAGICS))
    rest = draw(st.binary(max_size=700))
    return (b"\1" * offset) + magic + rest + b"\2" * draw(st.sampled_from([0, 100, 5000]))


@contextmanager
def watched_reads() -> Iterator[list[tuple[int, int]]]:
    """Collect (offset, length) of every pread."""
    reads: list[tuple[int, int]] = []
    pread = os.pread

    def watched(fd: int, length: int, offset: int) -> bytes:
        reads.append((offset, length))
        return pread(fd, length, offset)

    with mock.patch("os.pread", watched):
        yield reads


def recognised_or_refused(content: bytes) -> ImageInfo | None:
    try:
        return recognised(content)
    except (NotAnImage, DamagedImage) as error:
        refusal = error
    assert refusal.message.isprintable()
    assert len(refusal.message) < 400
    return None


@given(st.one_of(st.binary(max_size=2000), bytes_with_a_magic(), mutated_images()))
@effort(40)
def test_whatever_the_bytes_there_is_an_image_or_one_of_two_errors(content: bytes) -> None:
    info = recognised_or_refused(content)
    if info is None:
        return
    assert info.format in FORMAT_SUFFIXES
    assert info.size == len(content)
    assert info.root.kind in ("squashfs", "erofs")
    for partition in (info.root, *info.partitions):
        assert 0 <= partition.offset <= partition.offset + partition.size <= len(content)


@given(st.one_of(bytes_with_a_magic(), mutated_images()))
@effort(40)
def test_reads_stay_in_the_file_and_are_few(content: bytes) -> None:
    with watched_reads() as reads:
        recognised_or_refused(content)
    assert all(offset >= 0 and offset + length <= len(content) for offset, length in reads)
    assert sum(length for _, length in reads) <= READ_LIMIT
    assert len(reads) <= 5


@pytest.mark.parametrize("content", IMAGES.values(), ids=IMAGES.keys())
@given(part=st.floats(0, 1, exclude_max=True))
@effort(12)
def test_no_prefix_of_an_image_is_an_image(content: bytes, part: float) -> None:
    assert recognised_or_refused(content) is not None
    assert recognised_or_refused(content[: int(part * len(content))]) is None


@given(st.sampled_from(list(IMAGES.values())), st.binary(max_size=600))
@effort(15)
def test_what_follows_an_image_does_not_change_what_it_is(content: bytes, more: bytes) -> None:
    alone, followed = recognised(content), recognised(content + more)
    assert (alone.format, alone.compression, alone.arch) == (followed.format, followed.compression, followed.arch)
    assert alone.root.offset == followed.root.offset


@given(content=st.sampled_from(list(IMAGES.values())), held=st.integers(0, 5000))
@effort(15)
def test_a_file_that_shrinks_while_it_is_read_is_refused(content: bytes, held: int) -> None:
    with in_memory(content[: min(held, len(content) - 1)]) as fd:
        try:
            recognise(fd, len(content))
        except DamagedImage:
            return
        # Only headers are read: what lies behind them may be missing unnoticed, as the caller's size was wrong.
        assert held > 96


@given(long_hostile_text)
@effort(20)
def test_quoted_text_is_short_and_printable(text: str) -> None:
    shown = foreign.quoted(text)
    assert shown.isprintable()
    assert len(shown) <= foreign.LONGEST_QUOTE + 2
