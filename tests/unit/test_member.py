"""A member's side of the conversation: when it joins, reports, obeys, waits, gives up and goes.

What it talks to and what it talks about is scripted here; both for real are in tests/property/test_cluster_faults.py.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from stager import errors
from stager import member as member_module
from stager.errors import ClusterUnavailable, NotFound, OriginStalled, OriginUnavailable, StageImageError
from stager.interfaces import PeerLost
from stager.member import Member, error_of
from tests.support.fake_clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stager.load import Load
    from stager.orders import Orders
    from stager.seat import Seat

VERSION = {"etag": '"1"', "modified": "", "size": 7, "origin": "origin", "private": False}
CALM: dict[str, Any] = {"generation": 1, "upstream": {"kind": "wait"}, "version": VERSION, "interval": 0.2}
DIGEST = "ab" * 32

PATIENCE, STALL = 25.0, 60.0
KINDS: list[type[StageImageError]] = [*StageImageError.__subclasses__(), OriginStalled]
CODES = sorted({kind.exit_code for kind in KINDS})


class FakeSeat:
    """Answers with what `answers` gives in turn, the last one for ever; exceptions are raised."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = list(answers) or [CALM]
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.taken = False
        self.beyond_doubt = True
        self.takes = 0
        self.unreachable: Exception | None = None
        self.era = 0
        self.published: list[str] = []
        self.doors = self.forgotten = 0

    def take(self) -> None:
        self.takes += 1
        if self.unreachable is not None:
            raise self.unreachable

    def ask(self, verb: str, message: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((verb, message))
        if verb == "leave":
            return {}
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def publish(self, digest: str) -> None:
        self.published.append(digest)

    def close_door(self) -> None:
        self.doors += 1

    def forget(self) -> None:
        self.forgotten += 1

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.asked]


class FakeLoad:
    """Does nothing but remember what it was told."""

    def __init__(self) -> None:
        self.wake = threading.Event()
        self.has_news = self.moving = self.busy = self.fetches_from_origin = self.complete = False
        self.serves = True
        self.offset = 0
        self.size = 7
        self.confirmed = 0.0
        self.offering = SimpleNamespace(whole=False)
        self.followed: list[Orders] = []
        self.follows: Callable[[Orders], None] = lambda _orders: None
        self.halted = self.renewed = self.forgotten = 0

    @property
    def progress(self) -> tuple[int, int]:
        return self.offset, self.size

    def introduction(self) -> dict[str, Any]:
        return {"address": "10.0.0.1:1", "offset": self.offset}

    def report(self) -> dict[str, Any]:
        return {"generation": 1, "offset": self.offset}

    def follow(self, orders: Orders) -> None:
        self.followed.append(orders)
        self.follows(orders)

    def renew(self) -> None:
        self.renewed += 1

    def forget(self) -> None:
        self.forgotten += 1

    def halt(self) -> None:
        self.halted += 1

    def end(self) -> None:
        """Have all bytes."""
        self.complete = self.offering.whole = True


class Scripted:
    """A member whose steps are taken by the test, a fifth of a second apart."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.clock = FakeClock()
        self.seat = FakeSeat(*answers)
        self.load = FakeLoad()
        self.said: list[str] = []
        self.member = Member(
            cast("Seat", self.seat),
            cast("Load", self.load),
            {"node": "n0", "host": "h0", "scope": "job"},
            clock=self.clock,
            say=self.said.append,
            patience=PATIENCE,
            stall=STALL,
        )

    def step(self, times: int = 1, *, every: float = 0.2) -> None:
        for _ in range(times):
            self.member._step()
            self.clock.advance(every)

    def publish(self) -> None:
        """Be done, as the main thread says."""
        assert self.member.outcome(0)
        self.member.state = "done"


class TestConversation:
    def test_it_joins_and_then_reports(self) -> None:
        it = Scripted()
        assert it.member.load is cast("Load", it.load)
        assert (it.member.ready, it.member.nodes) == (0, 0)
        it.step(3)
        assert it.seat.verbs == ["join", "report", "report"]
        assert it.seat.takes == 1
        joined, reported = it.seat.asked[0][1], it.seat.asked[1][1]
        assert joined == {**it.load.introduction(), "node": "n0", "host": "h0", "scope": "job", "state": "waiting"}
        assert reported == {**it.load.report(), "node": "n0", "state": "waiting"}
        assert [orders.kind for orders in it.load.followed] == ["wait"] * 3

    def test_who_is_not_known_any_more_joins_again(self) -> None:
        it = Scripted(CALM, {"unknown": True}, CALM)
        it.step(4)
        assert it.seat.verbs == ["join", "report", "join", "report"]
        assert len(it.load.followed) == 3

    @pytest.mark.parametrize("lost", [PeerLost("reset"), ClusterUnavailable("away")])
    def test_who_loses_the_coordinator_looks_for_one_and_joins_it(self, lost: Exception) -> None:
        it = Scripted(CALM, lost, CALM)
        it.step(3)
        assert (it.seat.verbs, it.seat.takes) == (["join", "report", "join"], 2)

    def test_nodes_that_lose_it_together_do_not_come_back_together(self) -> None:
        pauses = set()
        for _ in range(20):
            it = Scripted(CALM, PeerLost("reset"))
            it.step(2)
            pauses.add(it.member._interval)
        assert len(pauses) > 10
        least, most = (member_module.COORDINATOR_SECONDS * part for part in (0.5, 1.5))
        assert all(least <= pause <= most for pause in pauses)

    def test_who_has_just_come_looks_again_soon_and_then_less_often(self) -> None:
        it = Scripted(PeerLost("refused"))
        it.step()
        first = it.member._interval
        assert first <= 2 * member_module.FIRST_SECONDS
        it.step(8)
        assert it.member._interval >= member_module.COORDINATOR_SECONDS / 2
        assert it.seat.takes == 9

    def test_reports_come_as_often_as_wanted_and_more_often_before_anything_can_begin(self) -> None:
        it = Scripted({**CALM, "interval": 4.0}, {**CALM, "interval": 4.0, "version": None})
        it.step()
        assert it.member._interval == 4.0
        it.step()
        assert it.member._interval == 1.0

    def test_a_new_secret_is_told_to_the_load_before_joining(self) -> None:
        it = Scripted(CALM, PeerLost("moved"), CALM)
        it.step(2)
        it.seat.era += 1
        it.load.renew = lambda: told.append(list(it.seat.verbs))  # type: ignore[method-assign]
        told: list[list[str]] = []
        it.step(2)
        assert told == [["join", "report"]], "once, before the join"

    def test_who_has_all_leaves_newcomers_with_a_new_secret_alone(self) -> None:
        it = Scripted(CALM, PeerLost("moved"), CALM)
        it.load.end()
        it.step(2)
        it.seat.era += 1
        it.step()
        assert (it.member.dismissed, it.load.renewed, it.seat.verbs) == (True, 0, ["join", "report"])

    @pytest.mark.parametrize(
        "answer",
        [
            {**CALM, "generation": "1"},
            {**CALM, "interval": float("nan")},
            {**CALM, "upstream": []},
            {**CALM, "error": "boom"},
            {**CALM, "digest": "xyz"},
        ],
        ids=str,
    )
    def test_what_it_does_not_understand_is_no_answer(self, answer: dict[str, Any]) -> None:
        it = Scripted(answer)
        it.step()
        assert it.load.followed == []
        assert not it.member._joined
        assert it.member._interval > 0.01
        with pytest.raises(ClusterUnavailable, match="understand"):
            it.step(100, every=0.7)

    def test_a_coordinator_that_does_not_understand_us_is_none(self) -> None:
        it = Scripted({"unknown": True})
        with pytest.raises(ClusterUnavailable, match="it does not understand us"):
            it.step(1000, every=1.0)
        assert it.clock.now() < 1000 + PATIENCE + 5


class TestStates:
    @pytest.mark.parametrize(("busy", "state"), [(False, "waiting"), (True, "receiving")])
    def test_before_the_end(self, busy: bool, state: str) -> None:
        it = Scripted()
        it.load.busy = busy
        it.step()
        assert it.seat.asked[-1][1]["state"] == state

    def test_when_all_is_here_and_when_it_is_published(self) -> None:
        it = Scripted()
        it.step()
        assert not it.member.outcome(0)
        it.load.end()
        it.step()
        assert it.member.outcome(0)
        it.step()
        assert it.seat.asked[-1][1]["state"] == "verifying"
        it.publish()
        it.step()
        assert it.seat.asked[-1][1]["state"] == "done"

    def test_who_cannot_serve_yet_what_it_has_says_so(self) -> None:
        """The image was here; for the others it is hashed once more."""
        it = Scripted()
        it.load.complete = it.load.busy = True
        it.step()
        it.publish()
        it.step()
        assert it.seat.asked[-1][1]["state"] == "receiving"
        it.load.serves = False
        it.step()
        assert it.seat.asked[-1][1]["state"] == "done"


class TestDismissal:
    def done(self, *answers: dict[str, Any]) -> Scripted:
        it = Scripted(CALM, CALM, *answers)
        it.load.end()
        it.step()
        it.publish()
        it.step()
        return it

    def test_it_stays_until_it_is_dismissed(self) -> None:
        it = self.done(CALM, {**CALM, "dismissed": True})
        it.step()
        assert not it.member.dismissed
        it.step()
        assert it.member.dismissed

    def test_nobody_goes_before_it_has_published(self) -> None:
        it = Scripted({**CALM, "dismissed": True})
        it.load.end()
        it.step(3)
        assert not it.member.dismissed

    def test_who_has_nothing_to_give_goes_by_itself(self) -> None:
        it = self.done(CALM)
        it.load.serves = False
        it.step()
        assert it.member.dismissed

    def test_who_waits_for_other_nodes_stays(self) -> None:
        it = self.done({**CALM, "dismissed": True, "ready": 3, "nodes": 5})
        it.member.awaits_others = True
        it.step(3)
        assert (it.member.dismissed, it.member.ready, it.member.nodes) == (False, 3, 5)
        it.member.awaits_others = False
        it.step()
        assert it.member.dismissed


class TestErrors:
    def test_what_ends_it_for_all_ends_it_here(self) -> None:
        it = Scripted({**CALM, "error": {"code": 66, "message": "no such image", "hint": "look"}})
        with pytest.raises(NotFound, match="no such image") as raised:
            it.step()
        assert raised.value.hint == "look"
        assert it.load.followed == []

    def test_who_has_the_image_is_not_concerned(self) -> None:
        it = Scripted(CALM, {**CALM, "error": {"code": 66, "message": "gone", "hint": ""}})
        it.load.end()
        it.step(3)
        assert it.member.outcome(0)

    @pytest.mark.parametrize("code", CODES)
    def test_an_error_keeps_its_code_on_the_way(self, code: int) -> None:
        assert error_of({"code": code, "message": "m", "hint": "h"}).exit_code == code

    def test_a_code_that_nobody_knows_is_worth_another_try(self) -> None:
        error = error_of({"code": 99, "message": "m"})
        assert type(error) is OriginUnavailable
        assert error.retryable

    def test_what_goes_wrong_here_is_raised_here(self) -> None:
        it = Scripted()

        def fail(_orders: Orders) -> None:
            raise errors.NoSpace("full")

        it.load.follows = fail
        with pytest.raises(errors.NoSpace):
            it.step()


class TestPatience:
    def test_without_a_coordinator_it_gives_up_in_time(self) -> None:
        it = Scripted(PeerLost("refused"))
        begun = it.clock.now()
        with pytest.raises(ClusterUnavailable, match=r"no coordinator that answers \(refused\)"):
            it.step(1000, every=0.7)
        assert PATIENCE <= it.clock.now() - begun <= PATIENCE + 2

    def test_what_zookeeper_says_is_what_is_told(self) -> None:
        it = Scripted()
        it.seat.unreachable = ClusterUnavailable("no quorum")
        with pytest.raises(ClusterUnavailable, match="no quorum"):
            it.step(1000, every=0.7)

    def test_what_will_not_change_is_not_waited_for(self) -> None:
        it = Scripted()
        it.seat.unreachable = ClusterUnavailable("there is no /hpc")
        it.seat.unreachable.retryable = False
        with pytest.raises(ClusterUnavailable, match="there is no /hpc"):
            it.step()

    def test_unless_bytes_are_here_already(self) -> None:
        it = Scripted()
        it.seat.unreachable = ClusterUnavailable("there is no /hpc")
        it.seat.unreachable.retryable = False
        it.load.offset = 1
        it.step(10)

    def test_an_answer_ends_the_count(self) -> None:
        almost = [PeerLost("refused")] * 30
        it = Scripted(*almost, CALM, *almost, CALM)
        it.load.fetches_from_origin = True
        it.step(100, every=0.7)
        assert it.seat.verbs.count("report") > 10

    @pytest.mark.parametrize("moving", [True, False])
    def test_while_bytes_come_it_goes_on_without(self, moving: bool) -> None:
        it = Scripted(PeerLost("refused"))
        it.load.moving = moving
        if moving:
            for _ in range(1000):
                it.load.offset += 1
                it.step(every=0.7)
        else:
            with pytest.raises(ClusterUnavailable):
                it.step(1000, every=0.7)

    def test_without_bytes_it_gives_up_though_everybody_answers(self) -> None:
        it = Scripted()
        begun = it.clock.now()
        with pytest.raises(OriginStalled, match="no other node sent a byte for 60 s"):
            it.step(1000)
        assert STALL <= it.clock.now() - begun <= STALL + 2

    def test_each_byte_gives_it_new_patience(self) -> None:
        it = Scripted()
        for _ in range(5):
            it.step(int(STALL / 0.2) - 1)
            it.load.offset += 1
            it.step()

    def test_the_origin_has_bounds_of_its_own(self) -> None:
        it = Scripted()
        it.load.fetches_from_origin = True
        it.step(1000)

    def test_who_has_all_waits_for_no_byte(self) -> None:
        it = Scripted()
        it.load.end()
        it.step(1000)

    @pytest.mark.parametrize("answer", [CALM, PeerLost("silent")])
    def test_a_job_that_was_suspended_has_not_waited(self, answer: dict[str, Any] | Exception) -> None:
        it = Scripted(answer)
        for _ in range(2):
            it.step()
            it.clock.advance(3600)
        it.step()


class TestTheSeat:
    def test_who_coordinates_makes_the_digest_known(self) -> None:
        it = Scripted(CALM, {**CALM, "digest": DIGEST, "closed": True})
        it.step(2)
        assert (it.seat.published, it.seat.doors) == ([], 0)
        it.seat.taken = True
        it.step()
        assert (it.seat.published, it.seat.doors) == ([DIGEST], 1)

    def test_a_door_nobody_speaks_of_stays_open(self) -> None:
        it = Scripted({**CALM, "digest": DIGEST})
        it.seat.taken = True
        it.step(3)
        assert it.seat.doors == 0

    def test_who_means_another_image_goes_elsewhere(self) -> None:
        it = Scripted(CALM, {**CALM, "elsewhere": True}, CALM)
        it.step(3)
        assert it.seat.verbs == ["join", "report", "leave", "join"]
        assert (it.seat.forgotten, it.load.forgotten, it.seat.takes) == (1, 1, 2)

    def test_the_leave_taking_may_be_lost(self) -> None:
        it = Scripted(CALM, {**CALM, "elsewhere": True}, CALM)
        ask = it.seat.ask

        def lossy(verb: str, message: dict[str, Any]) -> dict[str, Any]:
            if verb == "leave":
                raise PeerLost("reset")
            return ask(verb, message)

        it.seat.ask = lossy  # type: ignore[method-assign]
        it.step(3)
        assert it.seat.verbs == ["join", "report", "join"]


class TestTrouble:
    def test_what_keeps_the_bytes_from_coming_is_said_once(self) -> None:
        it = Scripted(*[{**CALM, "trouble": word} for word in ("slow", "slow", "gone", "", "gone")], CALM)
        it.step(6)
        assert it.said == ["slow", "gone", "gone"]

    def test_who_asks_the_origin_knows_already(self) -> None:
        it = Scripted({**CALM, "trouble": "slow"})
        it.load.fetches_from_origin = True
        it.step(2)
        assert it.said == []


class Ticking(FakeClock):
    """Passes with every look."""

    def now(self) -> float:
        self.advance(0.05)
        return super().now()


class TestThread:
    @pytest.fixture
    def it(self) -> Iterator[Scripted]:
        it = Scripted()
        it.member._clock = Ticking()
        yield it
        if it.member.active:
            it.member.stop()

    def test_it_runs_until_it_is_stopped_and_takes_leave(self, it: Scripted) -> None:
        it.load.wake.set()
        followed = threading.Event()
        it.load.follows = lambda _orders: followed.set()
        it.member.start()
        assert followed.wait(20)
        was = it.member.active
        it.member.stop()
        assert (was, it.member.active) == (True, False)
        assert (it.load.halted, it.seat.asked[-1]) == (1, ("leave", {"node": "n0"}))

    @pytest.mark.parametrize(
        ("error", "told"),
        [(errors.NoSpace("full"), "full"), (ZeroDivisionError("oops"), "a bug in the relay: ZeroDivisionError: oops")],
    )
    def test_what_ends_it_is_its_outcome(self, it: Scripted, error: Exception, told: str) -> None:
        def fail(_orders: Orders) -> None:
            raise error

        it.load.follows = fail
        it.member.start()
        with pytest.raises(StageImageError, match=told):
            it.member.outcome(20)
        assert it.load.halted == 1, "before anybody hears of it: nothing writes any more"

    def test_a_lost_coordinator_does_not_keep_it_from_ending(self, it: Scripted) -> None:
        it.seat.answers = [PeerLost("refused")]

        def refuse(verb: str, message: dict[str, Any]) -> dict[str, Any]:
            asked.set()
            raise PeerLost("refused")

        asked = threading.Event()
        it.seat.ask = refuse  # type: ignore[method-assign]
        it.member.start()
        assert asked.wait(20)
        it.member.stop()
        assert not it.member.active
        assert it.member.outcome(0)

    def test_who_is_dismissed_ends(self, it: Scripted) -> None:
        it.load.end()
        it.load.serves = False
        it.member.state = "done"
        it.member._settled.set()
        it.member.start()
        it.member._thread.join(20)
        assert not it.member.active
        assert it.member.dismissed

    def test_news_end_a_pause_and_the_clock_does(self, it: Scripted) -> None:
        it.member._interval = 1e9
        looked: list[bool] = []

        class News:
            """Comes at the third look."""

            def __get__(self, *_: object) -> bool:
                looked.append(True)
                return len(looked) > 2

        patched = type("Telling", (FakeLoad,), {"has_news": News()})
        it.load.__dict__.pop("has_news")
        it.load.__class__ = patched
        it.member._pause()
        assert len(looked) == 3
        it.load.wake.set()
        it.member._pause()
        assert not it.load.wake.is_set(), "and what woke it is taken note of"
        it.member._interval = 0.0
        it.member._pause()
