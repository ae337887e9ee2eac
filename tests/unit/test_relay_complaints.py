"""Strangers are told of, but do not fill the log."""

from __future__ import annotations

from stager.relay.complaints import BURST, SECONDS_EACH, Complaints
from tests.support.fake_clock import FakeClock


def test_few_lines_whatever_happens() -> None:
    clock, lines = FakeClock(), list[str]()
    complaints = Complaints(lines.append, clock.now)
    for _ in range(1000):
        complaints.refused("10.0.0.9:1", "it carries no authorization")
    assert lines == ["relay: refused a request from 10.0.0.9:1: it carries no authorization"] * BURST
    clock.advance(SECONDS_EACH)
    complaints.refused("10.0.0.8:2", "its authorization is wrong")
    complaints.refused("10.0.0.8:2", "its authorization is wrong")
    assert lines[BURST:] == [
        "relay: refused a request from 10.0.0.8:2: its authorization is wrong (and 995 more since the last such line)"
    ]


def test_after_a_quiet_time_there_is_room_for_a_burst_again() -> None:
    clock, lines = FakeClock(), list[str]()
    complaints = Complaints(lines.append, clock.now)
    for _ in range(2):
        clock.advance(1e6)
        for _ in range(BURST + 3):
            complaints.refused("a", "b")
    assert len(lines) == 2 * BURST
