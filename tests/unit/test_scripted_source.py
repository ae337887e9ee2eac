"""The scripted origin keeps the contract of a Source, but for the faults it was told."""

from __future__ import annotations

import threading

import pytest

from stager.errors import NotFound, OriginStalled, OriginUnavailable
from stager.interfaces import Validators
from tests.support.scripted_source import UNKNOWN_SIZE, Fault, Gate, ScriptedSource, Version

OLD = Version(b"0123456789", etag='"old"')
NEW = Version(b"abcdef", etag='"new"')


def received(source: ScriptedSource, start: int = 0, end: int | None = None, **asked: Validators) -> tuple[int, bytes]:
    stream = source.open(start, end, **asked)
    assert stream is not None
    try:
        return stream.offset, b"".join(stream.chunks())
    finally:
        stream.close()


def test_a_healthy_origin_sends_what_was_asked_for() -> None:
    source = ScriptedSource(OLD, piece=3)
    assert received(source) == (0, OLD.content)
    assert received(source, 4) == (4, b"456789")
    assert received(source, 4, 6, if_range=OLD.validators) == (4, b"45")
    assert received(source, 10, if_range=OLD.validators) == (10, b"")
    assert (source.served, source.closed, len(source.asked)) == (18, 4, 4)


def test_another_version_starts_over() -> None:
    assert received(ScriptedSource(NEW), 4, if_range=OLD.validators) == (0, NEW.content)


def test_an_empty_range_is_ignored_as_by_servers() -> None:
    assert received(ScriptedSource(OLD), 4, 4)[0] == 0


def test_what_is_known_is_not_sent() -> None:
    assert ScriptedSource(OLD).open(unless=OLD.validators) is None
    assert ScriptedSource(OLD).open(unless=NEW.validators) is not None
    assert ScriptedSource(OLD).open(unless=Validators()) is not None


def test_faults_come_in_turn_and_then_no_more() -> None:
    source = ScriptedSource(OLD, [Fault(refuse=lambda: NotFound("gone")), Fault(break_at=3), Fault(move=NEW)], piece=2)
    with pytest.raises(NotFound):
        source.open()
    stream = source.open()
    assert stream is not None
    got: list[bytes] = []
    with pytest.raises(OriginUnavailable):
        got.extend(stream.chunks())
    assert got == [b"01", b"2"]
    assert received(source) == received(source) == (0, NEW.content)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(ranges=False), (0, OLD.content)),
        (Fault(silent=True), (0, OLD.content)),
        (Fault(elsewhere=2), (6, b"6789")),
        (Fault(size=8), (0, b"01234567")),
    ],
)
def test_what_a_resumed_download_may_meet(fault: Fault, expected: tuple[int, bytes]) -> None:
    assert received(ScriptedSource(OLD, [fault]), 4, if_range=OLD.validators) == expected


def test_sizes_may_be_lies_or_unknown() -> None:
    larger = ScriptedSource(OLD, [Fault(size=12)]).open()
    unknown = ScriptedSource(OLD, [Fault(size=UNKNOWN_SIZE)]).open()
    assert larger is not None
    assert unknown is not None
    assert (larger.size, unknown.size) == (12, None)
    assert b"".join(unknown.chunks()) == OLD.content
    with pytest.raises(OriginUnavailable):
        list(larger.chunks())


def test_a_stall_is_what_the_script_says() -> None:
    stream = ScriptedSource(OLD, [Fault(break_at=1, breaks=lambda: OriginStalled("silence"))]).open()
    assert stream is not None
    with pytest.raises(OriginStalled):
        list(stream.chunks())


def test_a_gate_holds_the_stream_and_closing_ends_it() -> None:
    gate = Gate(at=4)
    stream = ScriptedSource(OLD, [Fault(gate=gate)], piece=4).open()
    assert stream is not None
    ends: list[Exception] = []

    def read() -> None:
        try:
            list(stream.chunks())
        except OriginUnavailable as error:
            ends.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert gate.reached.wait(5)
    stream.close()
    stream.close()
    reader.join(5)
    assert len(ends) == 1
