"""The coordinator's seat: found, taken, kept, lost and given up; by which names it is found."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from stager import seat as seat_module
from stager.coordinator import Coordinator
from stager.errors import ClusterUnavailable
from stager.interfaces import PeerLost
from stager.seat import Seat
from tests.support.fake_clock import FakeClock
from tests.support.fake_peers import FakePeers, Network
from tests.support.fake_rendezvous import FakeRendezvous, Town
from tests.support.staging_scene import place_of

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN = place_of("")
DIGEST = "ab" * 32
PINNED = place_of(DIGEST)
SECRETS = [str(number) * 64 for number in range(1, 10)]


class Site:
    """Some processes that look for the seat of one staging."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.town = Town()
        self.network = Network(self.clock)
        self.seats: list[Seat] = []
        self._secrets = iter(SECRETS)

    def seat(self, *places: str) -> Seat:
        peers = self.network.join()
        seat = Seat(
            places=places or (OPEN,),
            also=place_of,
            rendezvous=self.town.visitor(peers.address),
            peers=peers,
            clock=self.clock,
            fresh_secret=lambda: next(self._secrets),
            appoint=lambda staging: Coordinator(staging, "https://origin/tool.sif", linger=0.0),
            about={"host": f"h{len(self.seats)}"},
        )
        self.seats.append(seat)
        return seat

    def join(self, seat: Seat, name: str = "n0") -> dict[str, Any]:
        told = {"node": name, "host": name, "address": "10.0.0.1:1", "order": 0, "scope": "job", "since": 0.0}
        return seat.ask("join", {**told, "offset": 0, "generation": None, "version": None})

    def record(self, place: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.town.claims[place][1])
        return found


def peers_of(seat: Seat) -> FakePeers:
    assert isinstance(seat.peers, FakePeers)
    return seat.peers


def session_of(seat: Seat) -> FakeRendezvous:
    assert isinstance(seat.rendezvous, FakeRendezvous)
    return seat.rendezvous


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(seat_module, "WATCH_SECONDS", 3600.0)
    site = Site()
    yield site
    for seat in site.seats:
        seat._end.set()


class TestTaking:
    def test_the_first_one_takes_it_and_tells_how_to_reach_it(self, site: Site) -> None:
        seat = site.seat()
        seat.take()
        assert seat.taken
        address = peers_of(seat).address
        assert site.record(OPEN) == {"host": "h0", "address": address, "secret": SECRETS[0], "staging": OPEN}
        assert site.join(seat)["upstream"]["kind"] == "origin"

    def test_the_others_follow_it_by_its_secret(self, site: Site) -> None:
        first, second = site.seat(), site.seat()
        first.take()
        second.take()
        assert not second.taken
        assert peers_of(second).secret == peers_of(first).secret
        assert site.join(second, "n1")["nodes"] == 1

    def test_who_comes_second_while_both_look_follows(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = site.seat(), site.seat()
        looked = FakeRendezvous.leader

        def leader(self: FakeRendezvous, staging: str) -> bytes | None:
            found = looked(self, staging)
            if self is session_of(second) and not first.taken:
                first.take()  # between the look and the claim
            return found

        monkeypatch.setattr(FakeRendezvous, "leader", leader)
        second.take()
        assert (first.taken, second.taken) == (True, False)
        assert peers_of(second).secret == peers_of(first).secret
        assert site.join(second)["unknown"] is False

    def test_taking_it_twice_is_taking_it_once(self, site: Site) -> None:
        seat = site.seat()
        seat.take()
        asked = dict(site.town.asked)
        seat.take()
        assert (site.town.asked, seat.taken) == (asked, True)

    def test_without_zookeeper_there_is_none(self, site: Site) -> None:
        site.town.away = True
        seat = site.seat()
        with pytest.raises(ClusterUnavailable):
            seat.take()
        with pytest.raises(PeerLost):
            seat.ask("status", {})

    @pytest.mark.parametrize(
        "record",
        [
            b"",
            b"[]",
            b"{}",
            b"\xff",
            b"[" * 4000,
            json.dumps({"address": "10.0.0.9:1", "secret": "zz", "staging": OPEN}).encode(),
            json.dumps({"address": "10.0.0.9:1", "secret": "1" * 62, "staging": OPEN}).encode(),
            json.dumps({"address": "10.0.0.9:1", "secret": "z" * 64, "staging": OPEN}).encode(),
            json.dumps({"address": "10.0.0.9:1", "secret": "1" * 64, "staging": "a\r\nb"}).encode(),
            json.dumps({"address": "10.0.0.9:1\r\n", "secret": "1" * 64, "staging": OPEN}).encode(),
            json.dumps({"address": 5, "secret": None, "staging": []}).encode(),
        ],
        ids=lambda record: repr(record[:24]),
    )
    def test_a_strangers_record_leads_nowhere(self, site: Site, record: bytes) -> None:
        site.town.visitor().claim(OPEN, record)
        seat = site.seat()
        seat.take()
        assert not seat.taken
        with pytest.raises(PeerLost):
            seat.ask("status", {})

    def test_an_old_address_is_not_asked_once_somebody_else_may_sit_there(self, site: Site) -> None:
        first, second = site.seat(), site.seat()
        first.take()
        second.take()
        site.town.claims[OPEN] = (site.town.visitor(), b"{}")
        second.take()
        with pytest.raises(PeerLost):
            second.ask("status", {})

    def test_who_was_not_quick_enough_looks_everywhere_again(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """The one that was quicker is gone again already; meanwhile the others have found a place of their own."""
        seat, other = site.seat(PINNED, OPEN), site.seat()
        monkeypatch.setattr(FakeRendezvous, "claim", lambda *_: False)
        seat.take()
        monkeypatch.undo()
        other.take()
        seat.take()
        assert not seat.taken
        assert site.join(seat)["unknown"] is False

    def test_our_own_old_record_is_not_followed(self, site: Site) -> None:
        """As after a session's end that ZooKeeper has not noticed yet: we would ask ourselves for ever."""
        seat = site.seat()
        about = {"address": peers_of(seat).address, "secret": SECRETS[8], "staging": OPEN}
        site.town.visitor().claim(OPEN, json.dumps(about).encode())
        seat.take()
        with pytest.raises(PeerLost):
            seat.ask("status", {})

    def test_a_long_reference_still_fits_into_the_record(self, site: Site) -> None:
        seat = site.seat()
        seat.about["reference"] = "https://origin/" + "ü" * 1000
        seat.take()
        assert site.record(OPEN)["reference"] == seat.about["reference"]


class TestSuccession:
    def test_a_successor_keeps_the_secret(self, site: Site) -> None:
        first, second = site.seat(), site.seat()
        first.take()
        second.take()
        session_of(first).lapse()
        second.take()
        assert second.taken
        assert site.record(OPEN)["secret"] == SECRETS[0]
        assert second.era == 0

    def test_a_newcomer_that_was_quicker_brings_another_one_which_is_noticed(self, site: Site) -> None:
        first, second, newcomer = site.seat(), site.seat(), site.seat()
        first.take()
        second.take()
        session_of(first).lapse()
        newcomer.take()
        assert newcomer.taken
        second.take()
        assert (second.era, newcomer.era) == (1, 0)
        assert peers_of(second).secret == peers_of(newcomer).secret != peers_of(first).secret

    def test_who_has_lost_the_seat_steps_down_and_follows(self, site: Site) -> None:
        first, second = site.seat(), site.seat()
        first.take()
        second.take()
        session_of(first).lapse()
        second.take()
        first._keep_claims()
        assert not first.taken
        with pytest.raises(PeerLost):
            peers_of(second).ask(peers_of(first).address, "status", {})
        first.take()
        assert site.join(first)["unknown"] is False

    def test_a_lapsed_claim_that_nobody_took_is_made_again(self, site: Site) -> None:
        seat = site.seat()
        seat.take()
        session_of(seat).lapse()
        seat._keep_claims()
        assert seat.taken
        assert site.record(OPEN)["secret"] == SECRETS[0]

    def test_while_zookeeper_is_away_the_seat_is_kept(self, site: Site) -> None:
        first, second = site.seat(), site.seat()
        first.take()
        second.take()
        site.town.away = True
        with pytest.raises(ClusterUnavailable):
            first._keep_claims()
        first.take()
        assert first.taken
        assert site.join(first, "n0")["nodes"] == 1
        assert site.join(second, "n1")["nodes"] == 2

    def test_the_claim_is_looked_after_without_being_asked(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """And through ZooKeeper's absence."""
        monkeypatch.setattr(seat_module, "WATCH_SECONDS", 0.001)
        refused = threading.Event()
        claimed = FakeRendezvous.claim

        def claim(self: FakeRendezvous, staging: str, record: bytes) -> bool:
            try:
                return claimed(self, staging, record)
            except ClusterUnavailable:
                refused.set()
                raise

        monkeypatch.setattr(FakeRendezvous, "claim", claim)
        seat = site.seat()
        seat.take()
        site.town.away = True
        assert refused.wait(20)
        assert seat.taken
        session_of(seat).lapse()
        site.town.claims[OPEN] = (site.town.visitor(), b"{}")
        site.town.away = False
        assert seat._watch is not None
        seat._watch.join(20)
        assert not seat.taken

    def test_whoever_has_stepped_down_answers_nobody(self, site: Site) -> None:
        seat = site.seat()
        seat.take()
        answer = peers_of(seat).answer
        assert answer is not None
        session_of(seat).lapse()
        site.town.visitor().claim(OPEN, b"{}")
        seat._keep_claims()
        assert answer("status", {}) is None, "a question that was on its way"

    def test_who_steps_down_in_the_middle_of_its_own_question_joins_again(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seat = site.seat()
        seat.take()
        answer = Seat._answer

        def step_down_first(self: Seat, verb: str, message: dict[str, Any]) -> dict[str, Any] | None:
            self._step_down()
            return answer(self, verb, message)

        monkeypatch.setattr(Seat, "_answer", step_down_first)
        assert seat.ask("report", {}) == {"unknown": True}


class TestNames:
    def test_who_knows_the_digest_looks_by_it_first(self, site: Site) -> None:
        first = site.seat()
        first.take()
        first.publish(DIGEST)
        first._keep_claims()
        late = site.seat(PINNED, OPEN)
        late.take()
        assert site.record(PINNED) == site.record(OPEN)
        assert site.join(late)["unknown"] is False

    def test_who_knows_the_digest_finds_those_who_do_not_yet(self, site: Site) -> None:
        first, late = site.seat(), site.seat(PINNED, OPEN)
        first.take()
        late.take()
        assert not late.taken
        assert list(site.town.claims) == [OPEN]

    def test_once_found_a_staging_keeps_its_name(self, site: Site) -> None:
        first, late = site.seat(), site.seat(PINNED, OPEN)
        first.take()
        late.take()
        session_of(first).lapse()
        late.take()
        assert list(site.town.claims) == [OPEN], "where the other members look for it, too"

    def test_a_door_that_is_closed_is_not_found_any_more(self, site: Site) -> None:
        seat = site.seat()
        seat.take()
        seat.close_door()
        seat._keep_claims()
        assert OPEN in site.town.claims, "not before there is another one"
        seat.publish(DIGEST)
        seat.close_door()
        seat._keep_claims()
        assert list(site.town.claims) == [PINNED]
        seat._keep_claims()
        assert seat.taken

    def test_what_another_staging_has_claimed_is_left_to_it(self, site: Site) -> None:
        other = site.town.visitor()
        other.claim(PINNED, b"{}")
        seat = site.seat()
        seat.take()
        seat.publish(DIGEST)
        seat._keep_claims()
        seat._keep_claims()
        assert other.leads(PINNED)
        assert (seat.taken, OPEN in site.town.claims) == (True, True)
        other.lapse()
        seat._keep_claims()
        assert PINNED not in site.town.claims, "whoever comes back there finds its own"

    def test_only_who_coordinates_goes_by_another_name(self, site: Site) -> None:
        first, second = site.seat(), site.seat()
        first.take()
        second.take()
        second.publish(DIGEST)
        session_of(first).lapse()
        second.take()
        second.publish("cd" * 32)
        second.publish(DIGEST)
        second._keep_claims()
        assert set(site.town.claims) == {OPEN, place_of("cd" * 32)}, "and by the first one for good"

    def test_a_pinned_reference_has_one_name_only(self, site: Site) -> None:
        seat = site.seat(PINNED)
        seat.take()
        seat.publish(DIGEST)
        seat._keep_claims()
        seat.close_door()
        seat._keep_claims()
        assert list(site.town.claims) == [PINNED]

    def test_who_goes_elsewhere_starts_anew(self, site: Site) -> None:
        first, second = site.seat(), site.seat(PINNED, OPEN)
        first.take()
        second.take()
        second.forget()
        with pytest.raises(PeerLost):
            second.ask("status", {})
        site.town.claims.clear()
        second.take()
        assert list(site.town.claims) == [PINNED]

    def test_who_coordinates_does_not_forget_it(self, site: Site) -> None:
        seat = site.seat()
        seat.take()
        seat.forget()
        assert site.join(seat)["unknown"] is False
        seat._keep_claims()
        assert list(site.town.claims) == [OPEN]


class TestLeaving:
    def test_all_claims_are_given_back(self, site: Site) -> None:
        seat = site.seat()
        seat.take()
        seat.publish(DIGEST)
        seat._keep_claims()
        seat.leave()
        assert (site.town.claims, seat.taken, peers_of(seat).answer) == ({}, False, None)

    def test_nobody_looks_after_the_claims_any_more(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        seat = site.seat()
        seat.take()
        watch = seat._watch
        assert watch is not None
        seat.leave()
        assert not watch.is_alive()

    def test_who_never_had_it_gives_nothing_back(self, site: Site) -> None:
        first, second = site.seat(), site.seat()
        first.take()
        second.take()
        second.leave()
        assert first.rendezvous.leads(OPEN)

    def test_without_zookeeper_it_is_left_all_the_same(self, site: Site) -> None:
        seat = site.seat()
        seat.take()
        site.town.away = True
        with pytest.raises(ClusterUnavailable):
            seat.leave()
        assert not seat.taken

    def test_it_is_deserted_when_only_we_are_in(self, site: Site) -> None:
        seat = site.seat()
        assert (seat.deserted, seat.over) == (True, False)
        seat.take()
        site.join(seat, "n0")
        assert seat.deserted
        site.join(seat, "n1")
        assert not seat.deserted

    def test_it_is_over_when_the_coordinator_says_so(self, site: Site) -> None:
        seat = site.seat()
        seat.take()
        site.join(seat, "n0")
        assert not seat.over
        seat.ask("leave", {"node": "n0"})
        site.clock.advance(1.0)
        assert seat.over
