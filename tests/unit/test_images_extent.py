from __future__ import annotations

import pytest

from stager.errors import DamagedImage
from stager.images.extent import Extent
from tests.support.image_factory import in_memory


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 4, b"2345"), (2, 99, b"4567"), (5, 1, b"7"), (6, 1, b""), (99, 1, b""), (-1, 4, b""), (0, 0, b"")],
)
def test_nothing_outside_an_extent_is_read(offset: int, length: int, expected: bytes) -> None:
    with in_memory(b"0123456789") as fd:
        assert Extent(fd, 2, 6).read(offset, length) == expected


def test_parts_are_counted_from_their_own_start() -> None:
    with in_memory(b"0123456789") as fd:
        assert Extent(fd, 2, 6).part(3, 2, name="part").read(1, 9) == b"6"


def test_an_extent_that_the_file_does_not_hold_is_truncated() -> None:
    with in_memory(b"0123456789") as fd, pytest.raises(DamagedImage, match="the file ends at byte 10 while it is read"):
        Extent(fd, 2, 20).read(0, 20)


def test_needs_are_met_up_to_the_last_byte() -> None:
    with in_memory(b"") as fd:
        Extent(fd, 0, 100).need(100, "a promise of")
        with pytest.raises(DamagedImage, match=r"^truncated: a promise of 101 bytes, the disk has 100$"):
            Extent(fd, 0, 100, name="disk").need(101, "a promise of")
