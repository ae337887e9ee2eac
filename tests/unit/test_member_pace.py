"""When a member speaks with its coordinator again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stager.interfaces import PeerLost
from stager.member import COORDINATOR_SECONDS, FIRST_SECONDS, Member
from stager.orders import Orders
from tests.support.fake_clock import FakeClock

INTERVAL = 0.2


def member(*, whole: bool = False, complete: bool = False) -> Any:  # noqa: ANN401 - a test may look inside
    load: Any = SimpleNamespace(
        offering=SimpleNamespace(whole=whole),
        complete=complete,
        serves=True,
        busy=True,
        moving=False,
        fetches_from_origin=False,
        follow=lambda _told: None,
    )
    seat: Any = SimpleNamespace(taken=False, era=0, beyond_doubt=True)
    return Member(seat, load, {"node": "n"}, clock=FakeClock(), say=print, patience=60, stall=60)


@pytest.mark.parametrize(
    ("version", "whole", "complete", "expected"),
    [
        (False, False, False, INTERVAL / 4),
        (True, False, False, INTERVAL),
        (True, True, False, INTERVAL / 4),
        (True, True, True, INTERVAL),
    ],
    ids=["nothing can begin", "bytes come", "only the digest is lacking", "all is here"],
)
def test_who_waits_for_a_word_asks_more_often(*, version: bool, whole: bool, complete: bool, expected: float) -> None:
    one = member(whole=whole, complete=complete)
    one._obey(Orders(interval=INTERVAL, version={"etag": "e"} if version else None))
    assert one._interval == expected


def test_who_never_joined_looks_again_at_once_and_ever_less_often() -> None:
    one, pauses = member(), []
    for _ in range(8):
        one._go_on_without(PeerLost("moved"), 0.0)
        pauses.append(one._interval)
    ideal = [min(FIRST_SECONDS * 2**number, COORDINATOR_SECONDS) for number in range(8)]
    assert all(mean * 0.5 <= pause <= mean * 1.5 for pause, mean in zip(pauses, ideal, strict=True))


def test_who_lost_its_coordinator_does_not_come_at_once() -> None:
    """A thousand others lost it at the same moment."""
    one, answers = member(), iter([Orders(interval=INTERVAL, version={"etag": "e"})])

    def converse() -> Orders:
        for answer in answers:
            return answer
        raise PeerLost("refused")

    one._converse, one._check_progress = converse, lambda _passed: None
    one._step()
    assert one._interval == INTERVAL
    one._step()
    assert one._interval >= COORDINATOR_SECONDS / 2
