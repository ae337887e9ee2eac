"""Laws of the relay's words: what is ours round-trips, what was touched is refused, nothing else is ever raised."""

from __future__ import annotations

import os
import socket
from contextlib import closing, suppress
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.relay.connection import Connection, HeadTooLong
from stager.relay.holding import ChunkHasher, Holding
from stager.relay.secret import Guard, Secret
from stager.relay.wire import (
    CHUNK,
    HEAD_MAX,
    OFFSET_MAX,
    RECORD,
    Answer,
    NotUnderstood,
    Request,
    answer_head,
    content_range,
    join_address,
    parse_content_range,
    parse_range,
    request_head,
    split_address,
)
from tests.support.effort import effort
from tests.support.fake_clock import FakeClock
from tests.support.relay_scene import STAGING, image

SECRET = Secret(b"s" * 32)
NOW = int(FakeClock().wall() * 1000)

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)
requests = st.fixed_dictionaries(
    {"method": words, "host": words, "path": words, "range_": words, "body": st.binary(max_size=100)}
)
names = st.sampled_from(["Host", "Range", "Authorization", "X-A", "Accept", "connection"])
offsets = st.integers(0, OFFSET_MAX)
sizes = st.integers(1, OFFSET_MAX)


def refusal(said: dict[str, Any], proof: str, secret: Secret = SECRET) -> str:
    return Guard(secret, FakeClock()).refusal(proof, **said)


@given(requests)
def test_what_is_authorized_is_let_in(said: dict[str, Any]) -> None:
    assert refusal(said, SECRET.authorize(**said, now_ms=NOW)) == ""


@given(requests, requests)
def test_no_signed_part_can_be_another(said: dict[str, Any], other: dict[str, Any]) -> None:
    proof = SECRET.authorize(**said, now_ms=NOW)
    for part, value in other.items():
        changed = {**said, part: value}
        assert (refusal(changed, proof) == "") is (changed == said)


@given(requests, st.integers(0, 200), st.integers(1, 0x7F))
def test_no_byte_of_an_authorization_can_be_another(said: dict[str, Any], place: int, mask: int) -> None:
    proof = SECRET.authorize(**said, now_ms=NOW)
    place %= len(proof)
    changed = proof[:place] + chr(ord(proof[place]) ^ mask) + proof[place + 1 :]
    assert refusal(said, changed) != ""


@given(
    st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(0, 2**40), st.integers(0, 63)
)
def test_no_byte_of_a_record_can_be_another(key: bytes, sha: bytes, index: int, place: int) -> None:
    secret = Secret(key)
    record = secret.record(STAGING, 1, index, sha)
    assert len(record) == RECORD
    assert secret.check_record(STAGING, 1, index, record) == sha
    changed = bytearray(record)
    changed[place] ^= 1
    assert secret.check_record(STAGING, 1, index, bytes(changed)) is None


@given(st.binary(max_size=300) | st.text(st.sampled_from("GET / HTP1.\r\n:a-b 0"), max_size=80).map(str.encode))
def test_a_parser_understands_or_does_not(junk: bytes) -> None:
    for kind in (Request, Answer):
        with suppress(NotUnderstood):
            kind(junk)


@given(words.filter(bool), st.dictionaries(names, words.map(str.strip), max_size=4))
def test_heads_round_trip(path: str, fields: dict[str, str]) -> None:
    fields = {name.lower(): value for name, value in fields.items()}
    request = Request(request_head("GET", f"/{path}", fields).removesuffix(b"\r\n\r\n"))
    assert (request.path, request.fields) == (f"/{path}", fields)
    answer = Answer(answer_head(206, fields).removesuffix(b"\r\n\r\n"))
    assert (answer.status, answer.fields) == (206, fields)


@given(offsets, st.none() | sizes, st.none() | sizes)
def test_ranges_round_trip(start: int, length: int | None, size: int | None) -> None:
    end = None if length is None else min(start + length, OFFSET_MAX)
    if end != start:
        assert parse_range(f"bytes={start}-{'' if end is None else end - 1}") == (start, end)
    assert parse_content_range(content_range(start, end, size)) == (start, size)


@given(st.text(max_size=30))
def test_ranges_are_understood_or_not(text: str) -> None:
    for parse in (parse_range, parse_content_range):
        with suppress(NotUnderstood):
            parse(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_addresses_round_trip(host: object, port: int) -> None:
    assert split_address(join_address(str(host), port)) == (str(host), port)


@given(st.lists(st.integers(1, 2 * CHUNK), max_size=5), st.booleans())
@effort(15)
def test_however_a_file_grows_all_of_it_is_vouched_for(pieces: list[int], known: bool) -> None:
    content = image(sum(pieces) / CHUNK)
    fd = os.memfd_create("image")
    written = 0
    with closing(Holding(fd, staging=STAGING, generation=1, secret=SECRET, folder="/tmp")) as holding:
        os.close(fd)
        if known:
            holding.size = len(content)
        hasher = ChunkHasher(holding, lambda: written)
        for piece in pieces:
            holding.write(memoryview(content[written : written + piece]), written)
            written += piece
            while hasher.step():
                pass
            assert holding.verified in {written, written // CHUNK * CHUNK}
        hasher.finish()
        while hasher.step():
            pass
        shas = [sha256(content[at : at + CHUNK]).digest() for at in range(0, len(content), CHUNK)]
        assert holding.complete
        assert holding.root() == sha256(b"".join(shas)).hexdigest()
        records = [os.pread(holding.records, RECORD, RECORD * index) for index in range(holding.counted)]
        assert [SECRET.check_record(STAGING, 1, index, record) for index, record in enumerate(records)] == shas


@given(st.lists(st.binary(max_size=50), max_size=4), st.lists(st.integers(1, 60), max_size=30))
def test_requests_may_come_in_any_pieces(bodies: list[bytes], cuts: list[int]) -> None:
    """Also several at once: each is read for itself, and no byte of the next one with it."""
    sent = b"".join(
        request_head("POST", f"/{number}", {"Content-Length": str(len(body))}) + body
        for number, body in enumerate(bodies)
    )
    seen = []
    ours, theirs = pair()
    with ours.sock, theirs:
        at = 0
        for cut in [*cuts, len(sent)]:
            theirs.sendall(sent[at : at + cut])
            at += cut
            while (request := ours.receive()) is not None:
                seen.append((request.path, request.body))
    assert seen == [(f"/{number}", body) for number, body in enumerate(bodies)]


@given(st.integers(0, HEAD_MAX), st.integers(1, 4000))
@effort(15)
def test_a_head_that_does_not_end_is_not_kept(length: int, piece: int) -> None:
    ours, theirs = pair()
    head = b"GET /" + b"a" * (HEAD_MAX + length)
    with ours.sock, theirs:
        for at in range(0, len(head), piece):
            theirs.sendall(head[at : at + piece])
            try:
                ours.receive()
            except HeadTooLong:
                break
            assert ours.held <= HEAD_MAX
        else:
            pytest.fail("it was kept")
        assert ours.held <= HEAD_MAX + piece


def pair() -> tuple[Connection, socket.socket]:
    """Return the server's side of a connection and its peer's."""
    ours, theirs = Unix.pair()
    ours.settimeout(0)
    return Connection(ours, "peer"), theirs


class Unix(socket.socket):
    """A connection that needs no network."""

    @classmethod
    def pair(cls) -> tuple[Unix, socket.socket]:
        ours, theirs = socket.socketpair()
        return cls(fileno=ours.detach()), theirs

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 80
