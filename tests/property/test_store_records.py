"""Records: what was written is read back, and what anybody else wrote is read as nothing worse than nothing."""

from __future__ import annotations

import json
import math
import os
import string
import tempfile
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager import errors
from stager.errors import OriginUnavailable, StageImageError
from stager.layout import Layout
from stager.process import ProcessIdentity, boot_id
from stager.reference import Digest
from stager.store import files, images, memory
from tests.property.strategies import digests, hostile_text, short_hostile_text
from tests.support.effort import effort
from tests.support.fake_clock import FakeClock


def _as_bytes(text: str) -> str:
    # What can come from a file name or a header: any bytes, with those that are no UTF-8 as surrogates.
    return text.encode("utf-8", "replace").decode("utf-8", "surrogateescape")


keys = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=12)
records = st.dictionaries(keys, hostile_text, max_size=5)
backslashes = st.text("\\n\n \"'", max_size=12)
times = st.floats(0, 1e9)
identities = st.builds(
    ProcessIdentity, st.integers(1, 2**22), st.integers(0, 2**63), st.text("0123456789abcdef", min_size=8, max_size=8)
)
numbers = st.sampled_from(
    ["nan", "inf", "-inf", "1e308", "1e999", "-1", "9" * 5000, "0x10", "1_0", "٣", " 7", "", "1e18", "-1e17", "1e12"]
)
values = st.one_of(hostile_text, numbers, identities.map(str), digests.map(str))
names = st.sampled_from(
    [
        *("digest", "until", "boot", "count", "at", "size", "etag", "holder", "beat", "turn", "since", "done", "total"),
        *("phase", "error", "message", "hint"),
    ]
)
hostile_records = st.dictionaries(names, values.map(_as_bytes), max_size=16).map(
    lambda record: files.record_text(record).encode("utf-8", "surrogateescape")
)
contents = st.binary(max_size=200) | hostile_records


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("records") / "record")


@given(records | st.dictionaries(keys, backslashes, max_size=3))
@effort(25)
def test_what_is_written_is_read_back(path: str, record: dict[str, str]) -> None:
    encodable = {key: _as_bytes(value) for key, value in record.items()}
    files.write_record(path, encodable)
    assert files.read_record(path) == encodable


@given(contents, st.sampled_from(["", boot_id()]))
@effort(25)
def test_no_content_is_too_hostile_to_read(path: str, content: bytes, boot: str) -> None:
    with open(path, "wb") as file:
        file.write(content + (f"boot {boot}\n".encode() if boot else b""))
    os.chmod(path, 0o600)
    now = 1000.0
    memory.read_seen(path)
    assert isinstance(memory.read_pin(path, now), Digest | None)
    note = memory.read_leader(path)
    if note is not None:
        figures = (note.since, note.turn, note.beat, note.done, note.total)
        assert all(math.isfinite(n) and abs(n) <= 1e18 for n in figures)
    failure = memory.read_failure(path, now, begun=0.0)
    assert isinstance(failure, StageImageError | None)
    memory.write_failure(path, OriginUnavailable("away"), FakeClock(), 1.0)
    assert memory.read_failure(path, now, begun=0.0) is not None


json_values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | short_hostile_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short_hostile_text, inner, max_size=3),
    max_leaves=6,
)
infos = st.fixed_dictionaries({}, optional=dict.fromkeys(("format", "size", "root", "partitions"), json_values))
sidecars = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("digest", "info", "origin", "fetched", "inode", "mtime_ns", "private"), json_values)
    | {"info": infos},
)


@given(st.binary(max_size=100) | (sidecars | json_values).map(lambda v: json.dumps(v).encode()))
@effort(25)
def test_no_sidecar_is_too_hostile_to_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    layout = Layout(tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp()))
    digest = Digest(sha256(b"").hexdigest())
    files.write_text(layout.sidecar(digest), "")
    with open(layout.sidecar(digest), "wb") as file:
        file.write(content)
    assert images.lookup(layout, digest) is None


@given(digests, st.lists(digests, min_size=1, max_size=5))
@effort(10)
def test_the_first_pin_wins(path: str, first: Digest, later: list[Digest]) -> None:
    files.discard(path)
    assert memory.write_pin(path, first, until=None, now=0) == first
    assert [memory.write_pin(path, digest, until=None, now=5) for digest in later] == [first] * len(later)
    assert memory.read_pin(path, 1e9) == first


@given(digests, digests, st.floats(1, 1e6), st.floats(0, 1e6))
@effort(10)
def test_a_pin_of_a_session_ends(path: str, old: Digest, new: Digest, until: float, later: float) -> None:
    files.discard(path)
    memory.write_pin(path, old, until=until, now=0)
    now = later
    expected = old if now < until else None
    assert memory.read_pin(path, now) == expected
    assert memory.write_pin(path, new, until=now + 60, now=now) == (expected or new)


@given(st.lists(st.floats(0, 400), min_size=1, max_size=6), st.floats(0.1, 400), st.none() | st.floats(0, 1e6))
@effort(15)
def test_failures_stand_longer_and_longer_but_not_for_ever(
    path: str, gaps: list[float], backoff: float, retry_after: float | None
) -> None:
    files.discard(path)
    clock, waits = FakeClock(), []
    for gap in gaps:
        memory.write_failure(path, OriginUnavailable("away", retry_after=retry_after), clock, backoff)
        low, high = 0.0, memory.LONGEST_BACKOFF + 1
        assert memory.read_failure(path, clock.now() + high, begun=0) is None
        for _ in range(30):
            middle = (low + high) / 2
            stands = memory.read_failure(path, clock.now() + middle, begun=0) is not None
            low, high = (middle, high) if stands else (low, middle)
        waits.append(low)
        clock.advance(gap)
    assert all(a <= b + 0.01 for a, b in pairwise(waits))
    assert waits[0] == pytest.approx(min(max(backoff, retry_after or 0), memory.LONGEST_BACKOFF), abs=0.01)


error_classes = st.sampled_from([kind for kind in vars(errors).values() if isinstance(kind, type)])


@given(error_classes, hostile_text, hostile_text)
@effort(12)
def test_all_tasks_read_the_same_words(path: str, kind: type[StageImageError], message: str, hint: str) -> None:
    files.discard(path)
    clock = FakeClock()
    memory.write_failure(path, kind(_as_bytes(message), hint=_as_bytes(hint)), clock, 10)
    read = [memory.read_failure(path, clock.now() + 5, begun=0) for _ in range(2)]
    assert read[0] is not None
    assert read[1] is not None
    assert type(read[0]) is kind
    assert (read[0].message, read[0].hint) == (read[1].message, read[1].hint)
    assert read[0].message == _as_bytes(message)
