"""Laws: whatever bytes a tar archive consists of, it is read within bounds, or refused in our words."""

from __future__ import annotations

import io
import tarfile
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.errors import ImageRefused, StageImageError
from stager.sources import archive_members
from stager.sources.archive_members import BLOCK, follow, members
from tests.support import tar_entries as tars

NAMES = st.sampled_from(["a", "./b", "d/c", "index.json", "x" * 99, "y/" * 70 + "z", "n" * 300, "ü", "../e", "/f"])
ENTRIES = st.one_of(
    st.builds(tars.file, NAMES, st.binary(max_size=1100), gnu=st.booleans()),
    st.builds(tars.directory, NAMES),
    st.builds(tars.symlink, NAMES, NAMES, gnu=st.booleans()),
    st.builds(tars.hardlink, NAMES, NAMES),
    st.builds(tars.fifo, NAMES),
)
ARCHIVES = st.lists(ENTRIES, min_size=1, max_size=6).map(tars.tar)


def survive(data: bytes) -> None:
    asked: list[tuple[int, int]] = []

    def read(position: int, length: int) -> bytes:
        asked.append((position, length))
        return data[position : position + length]

    try:
        found = members(read, len(data), "x.tar")
        for name in [*found, "index.json"]:
            member = follow(found, name, "x.tar")
            assert member is None or 0 <= member.offset <= member.offset + member.size <= len(data)
    except StageImageError as error:
        assert error.message.isprintable()  # noqa: PT017
    assert all(position >= 0 and length <= 1 << 20 for position, length in asked)


@given(ARCHIVES)
def test_members_are_those_that_tarfile_finds(data: bytes) -> None:
    ours = members(lambda position, length: data[position : position + length], len(data), "x.tar")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for name, member in ours.items():
            theirs = [one for one in archive.getmembers() if one.name.lstrip("/").removeprefix("./") == name][-1]
            assert member.kind == theirs.type.decode()
            assert member.link == theirs.linkname
            if theirs.isreg():
                assert (member.offset, member.size) == (theirs.offset_data, theirs.size)


@given(ARCHIVES, st.data())
def test_a_cut_or_changed_archive_does_no_harm(data: bytes, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(data)))
    survive(data[:cut])
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        changed[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    survive(bytes(changed))


def resigned(block: bytes) -> bytes:
    """Return a header with the sum that its bytes have."""
    total = sum(block[:148]) + sum(block[156:]) + 8 * 32
    return block[:148] + b"%06o\0 " % total + block[156:]


@given(ARCHIVES, st.integers(0, 511), st.binary(min_size=1, max_size=12))
def test_a_lying_header_does_no_harm(data: bytes, place: int, lie: bytes) -> None:
    block = bytearray(data[:BLOCK])
    block[place : place + len(lie)] = lie
    survive(resigned(bytes(block[:BLOCK])) + data[BLOCK:])


@given(st.binary(max_size=300))
def test_extended_headers_of_any_kind(records: bytes) -> None:
    name, content = tars.file("a", b"b"), b"c"
    header = tars.Entry(b"x", b"x", records)
    survive(tars.tar([header, name, tars.file("d", content)]))


def test_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes) -> dict[str, archive_members.Member]:
        return members(lambda position, length: data[position : position + length], len(data), "x.tar")

    many = tars.tar([tars.file(str(n)) for n in range(6)])
    assert len(read(many)) == 6
    monkeypatch.setattr(archive_members, "MEMBERS_MAX", 5)
    with pytest.raises(ImageRefused, match="more than 5 files"):
        read(many)
    with pytest.raises(ImageRefused, match="a name of 4096 bytes"):
        read(tars.tar([tars.file("n" * 4096, gnu=True)]))
    long = tars.tar([tars.file("n" * 300, gnu=True)])
    assert len(read(long)) == 1
    monkeypatch.setattr(archive_members, "RECORDS_MAX", 300)
    with pytest.raises(ImageRefused, match="a name of 301 bytes"):
        read(long)


def test_extended_headers_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tars.tar([tars.Entry(b"x", b"g", b"")] * 10)
    monkeypatch.setattr(archive_members, "RECORDS_ALL_MAX", 10 * BLOCK)
    assert members(lambda position, length: data[position : position + length], len(data), "x.tar") == {}
    monkeypatch.setattr(archive_members, "RECORDS_ALL_MAX", 10 * BLOCK - 1)
    with pytest.raises(ImageRefused, match="bytes of extended headers"):
        members(lambda position, length: data[position : position + length], len(data), "x.tar")


def test_a_long_extended_header_takes_no_square_of_its_length() -> None:
    """Copying what is left after each record took 7 s for these."""
    data = tars.tar([tars.Entry(b"x", b"x", b"6 a=b\n" * 170_000), tars.file("f")])
    began = time.process_time()
    assert set(members(lambda position, length: data[position : position + length], len(data), "x.tar")) == {"f"}
    assert time.process_time() - began < 3.0


def test_links_behind_one_another_have_an_end() -> None:
    chain = {str(n): archive_members.Member(0, 0, "2", str(n + 1)) for n in range(20)}
    chain["20"] = archive_members.Member(0, 7)
    assert follow(chain, "14", "x.tar") == chain["20"]
    with pytest.raises(ImageRefused, match="too many links"):
        follow(chain, "0", "x.tar")
