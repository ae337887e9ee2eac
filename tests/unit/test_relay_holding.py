"""What a node holds of an image, and how it comes to be vouched for."""

from __future__ import annotations

import os
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager.relay.holding import ChunkHasher, Holding
from stager.relay.secret import Secret
from stager.relay.wire import CHUNK, RECORD
from tests.support.relay_scene import PATIENCE, STAGING, held_by_process, image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = Secret(b"s" * 32)


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("image")
    yield fd
    os.close(fd)


@pytest.fixture
def holding(file: int, tmp_path: Path) -> Iterator[Holding]:
    with closing(Holding(file, staging=STAGING, generation=1, secret=SECRET, folder=str(tmp_path))) as held:
        yield held


def shas(content: bytes) -> list[bytes]:
    return [sha256(content[at : at + CHUNK]).digest() for at in range(0, len(content), CHUNK)]


def records(content: bytes, secret: Secret = SECRET) -> bytes:
    return b"".join(secret.record(STAGING, 1, index, sha) for index, sha in enumerate(shas(content)))


def test_the_head_vouches(holding: Holding) -> None:
    content = image(2.5)
    for index, sha in enumerate(shas(content)):
        assert not holding.complete
        holding.append(sha, min(CHUNK, len(content) - index * CHUNK))
    assert (holding.verified, holding.size, holding.counted) == (len(content), len(content), 3)
    assert holding.complete
    assert os.pread(holding.records, 999, 0) == records(content)
    assert holding.root() == sha256(b"".join(shas(content))).hexdigest()


def test_members_take_over_what_is_right(holding: Holding) -> None:
    content = image(3.25)
    said, seen = records(content), shas(content)
    assert holding.accept(said[:RECORD], seen[:1], CHUNK) == 1
    assert holding.accept(said[RECORD:], seen[1:], len(content) - CHUNK) == 3
    assert holding.complete
    assert os.pread(holding.records, 999, 0) == said
    assert holding.root() == sha256(b"".join(seen)).hexdigest()


@pytest.mark.parametrize("wrong", range(3))
def test_nothing_counts_from_the_first_wrong_chunk_on(holding: Holding, wrong: int) -> None:
    content = image(3)
    seen = shas(content)
    seen[wrong] = sha256(b"something else").digest()
    assert holding.accept(records(content), seen, len(content)) == wrong
    assert holding.verified == wrong * CHUNK


@pytest.mark.parametrize("said", [b"", records(image(1))[:-1], records(image(1), Secret.new()), b"x" * RECORD])
def test_records_of_strangers_do_not_count(holding: Holding, said: bytes) -> None:
    assert holding.accept(said, shas(image(1)), CHUNK) == 0
    assert (holding.verified, holding.counted) == (0, 0)


def test_only_the_last_chunk_may_be_short(holding: Holding) -> None:
    holding.size = 2 * CHUNK
    with pytest.raises(ValueError, match="are not 1 chunks"):
        holding.append(b"s" * 32, CHUNK - 1)
    assert holding.accept(records(image(0.5)), shas(image(0.5)), CHUNK // 2) == 0
    holding.append(b"s" * 32, CHUNK)
    holding.append(b"s" * 32, CHUNK)
    with pytest.raises(ValueError, match="are not 1 chunks"):
        holding.append(b"s" * 32, 1)


@pytest.mark.parametrize("length", [0, CHUNK + 1])
def test_a_chunk_has_a_length(holding: Holding, length: int) -> None:
    with pytest.raises(ValueError, match="are not 1 chunks"):
        holding.append(b"s" * 32, length)


def test_nothing_comes_after_a_short_chunk(holding: Holding) -> None:
    holding.append(b"s" * 32, 5)
    with pytest.raises(ValueError, match="after 5 of 5"):
        holding.append(b"s" * 32, CHUNK)


def test_the_size_is_said_once(holding: Holding) -> None:
    holding.append(b"s" * 32, CHUNK)
    with pytest.raises(ValueError, match="are verified"):
        holding.size = CHUNK - 1
    holding.size = CHUNK
    assert holding.complete
    holding.size = CHUNK
    with pytest.raises(ValueError, match="not 262145"):
        holding.size = CHUNK + 1


def test_listeners_hear_of_each_change(holding: Holding) -> None:
    heard: list[int] = []

    def listener() -> None:
        heard.append(holding.verified)

    holding.listen(listener)
    holding.append(b"s" * 32, CHUNK)
    holding.size = 2 * CHUNK
    holding.unlisten(listener)
    holding.append(b"s" * 32, CHUNK)
    assert heard == [CHUNK, CHUNK]


def test_bytes_go_in_and_out(holding: Holding) -> None:
    holding.write(memoryview(b"abcdef"), 3)
    view = memoryview(bytearray(9))
    assert holding.read(view, 2) == 7
    assert bytes(view[:7]) == b"\0abcdef"


def test_records_without_o_tmpfile(file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # EISDIR, as on old file systems
    with closing(Holding(file, staging=STAGING, generation=1, secret=SECRET, folder=str(tmp_path))) as held:
        held.append(b"s" * 32, CHUNK)
        assert len(os.pread(held.records, 99, 0)) == RECORD
        assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_nothing_stays_open(file: int, tmp_path: Path) -> None:
    before = held_by_process()
    held = Holding(file, staging=STAGING, generation=1, secret=SECRET, folder=str(tmp_path))
    held.close()
    held.close()
    with pytest.raises(FileNotFoundError):
        Holding(file, staging=STAGING, generation=1, secret=SECRET, folder=str(tmp_path / "nowhere"))
    assert held_by_process() == before


def test_the_head_follows_a_growing_file(file: int, holding: Holding) -> None:
    content = image(2.5)
    written = 0
    hasher = ChunkHasher(holding, lambda: written)
    for piece in (1, CHUNK - 1, CHUNK + 7):
        written += os.pwrite(file, content[written : written + piece], written)
        while hasher.step():
            pass
        assert holding.verified == written // CHUNK * CHUNK
    os.pwrite(file, content[written:], written)
    written = len(content)
    assert not hasher.step()
    hasher.finish()
    assert hasher.step()
    assert (holding.complete, holding.size) == (True, len(content))
    assert not hasher.step()


def test_the_head_vouches_for_the_last_chunk_when_the_size_is_known(file: int, holding: Holding) -> None:
    os.pwrite(file, b"abc", 0)
    holding.size = 3
    assert ChunkHasher(holding, lambda: 3).step()
    assert holding.complete


@pytest.mark.parametrize("chunks", [0, 1, 2, 2.5])
def test_the_hasher_ends_with_the_file(file: int, holding: Holding, chunks: float) -> None:
    content = image(chunks)
    os.pwrite(file, content, 0)
    hasher = ChunkHasher(holding, lambda: len(content))
    hasher.start()
    hasher.finish()
    assert hasher.done.wait(PATIENCE)
    hasher.stop()
    assert (holding.complete, holding.size, hasher.error) == (True, len(content), None)


def test_a_file_that_is_shorter_than_said_ends_the_hasher(file: int, holding: Holding) -> None:
    os.pwrite(file, b"x", 0)
    hasher = ChunkHasher(holding, lambda: CHUNK)
    hasher.start()
    assert hasher.done.wait(PATIENCE)
    hasher.stop()
    assert "ends before byte" in str(hasher.error)
    assert holding.verified == 0


def test_a_hasher_can_be_stopped_while_nothing_comes(holding: Holding) -> None:
    before = held_by_process()
    hasher = ChunkHasher(holding, lambda: 0)
    hasher.start()
    hasher.wake()
    hasher.stop()
    assert hasher.done.is_set()
    assert held_by_process() == before
