from __future__ import annotations

import gzip
import zlib
from itertools import chain, islice, repeat

import pytest

from stager.sources.gzipped import LARGEST, gunzip


def test_members_after_one_another() -> None:
    packed = gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b"two")
    assert b"".join(gunzip([packed])) == b"onetwo"


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_a_bomb_comes_in_bounded_pieces(extra: int) -> None:
    size = 5 * LARGEST + extra
    pieces = list(gunzip([gzip.compress(bytes(size))]))
    assert max(map(len, pieces)) <= LARGEST
    assert sum(map(len, pieces)) == size


@pytest.mark.parametrize("cut", [0, 5, 11, 25, -1])
def test_cut_off(cut: int) -> None:
    packed = gzip.compress(bytes(range(200)))
    with pytest.raises(EOFError):
        list(gunzip([packed[:cut]]))


def test_not_gzip() -> None:
    with pytest.raises(zlib.error):
        list(gunzip([b"hsqs" * 10]))


def test_damaged() -> None:
    packed = bytearray(gzip.compress(b"abc" * 100))
    packed[-6] ^= 0xFF
    with pytest.raises(zlib.error):
        list(gunzip([bytes(packed)]))


@pytest.mark.parametrize(
    "nothing", [gzip.compress(b""), gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * 4000], ids=["members", "blocks"]
)
def test_what_never_comes_to_anything_has_an_end(nothing: bytes) -> None:
    """Bytes arrive all the time, so that no timeout ends it, and who reads waits for ever."""
    endless = chain([nothing], repeat(nothing if nothing.endswith(b"\0" * 8) else nothing[10:]))
    with pytest.raises(zlib.error, match="nothing comes of it"):
        list(gunzip(islice(endless, 1 << 20)))


def test_a_long_answer_may_hold_much_that_is_empty() -> None:
    """As long as something comes in between."""
    packed = gzip.compress(b"") * (LARGEST // 40) + gzip.compress(b"x")
    assert b"".join(gunzip([packed] * 3)) == b"xxx"
