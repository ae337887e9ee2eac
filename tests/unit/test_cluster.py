"""A node's part in a staging of the cluster, around the conversation: meeting, pinning, waiting, lingering, going."""

from __future__ import annotations

import os
from hashlib import sha256
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from stager.cluster import GOODBYE_SECONDS, ClusterStaging, Terms
from stager.deputy import Ended
from stager.download import Download
from stager.errors import ClusterUnavailable, PinLost, TooFewNodes
from stager.interfaces import Validators
from stager.known import Known
from stager.layout import Layout
from stager.reference import Digest, parse
from stager.retry import RetryPolicy
from stager.store import memory
from stager.store.partial import Partial
from stager.together import UNWANTED_SECONDS, Fetching
from tests.support.fake_clock import FakeClock
from tests.support.fake_node import SilentTeller
from tests.support.fake_rendezvous import FakeRendezvous, Town
from tests.support.scripted_source import Fault, ScriptedSource, Version
from tests.support.tasks import image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stager.member import Member
    from stager.seat import Seat

CONTENT, OTHER = image(70_000), image(70_000, seed=2)
DIGEST = Digest(sha256(CONTENT).hexdigest())
ELSE = Digest("ab" * 32)
REFERENCE = parse("https://origin/tool.sqsh")


class Heard(SilentTeller):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class FakeMember:
    """Ends as it is told; `ready` rises with each look if `rises`."""

    def __init__(self, clock: FakeClock, *, rises: int = 0) -> None:
        self.active, self.doubted, self.awaits_others = True, False, False
        self.state = "waiting"
        self.nodes = 9
        self.stopped = 0
        self.outcomes: list[object] = [True]
        self.load = SimpleNamespace(
            feeds_others=False, final=None, image=None, version=None, progress=(5, 7), wake=None
        )
        self._clock = clock
        self._rises = rises
        self._ready = 1

    @property
    def ready(self) -> int:
        self._ready += self._rises
        return self._ready

    def outcome(self, _seconds: float) -> bool:
        self._clock.advance(0.5)
        said = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(said, BaseException):
            raise said
        return bool(said)

    def stop(self) -> None:
        self.active = False
        self.stopped += 1


class Site:
    """One node of a job, and the ZooKeeper that it meets the others at."""

    def __init__(self, folder: Path, **terms: Any) -> None:  # noqa: ANN401 - fields of Terms
        self.clock = FakeClock()
        self.town = Town()
        self.tell = Heard()
        self.met: list[FakeRendezvous] = []
        self.cluster = self.staging(**terms)
        self.layout = Layout(str(folder / "store"))
        for path in (self.layout.pin("job", REFERENCE.key), f"{self.layout.images}/x"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        self.known = self.knowledge()

    def staging(self, **terms: Any) -> ClusterStaging:  # noqa: ANN401 - as above
        usual: dict[str, Any] = {"scope": "job", "alone": True, "patience": 25.0, "stall": 60.0, "lifetime": 100.0}
        usual |= {"min_nodes": 0, "offline": True, "sealed": True, **terms}
        return ClusterStaging(
            terms=Terms(**usual),
            who={"host": "h0"},
            clock=self.clock,
            tell=self.tell,
            meet=self.meet,
            sit=lambda _met, _digest: pytest.fail("nobody is to be met here"),
        )

    def meet(self) -> FakeRendezvous:
        self.met.append(self.town.visitor())
        return self.met[-1]

    def knowledge(self, *, freshness: str = "job", pinned: str = "") -> Known:
        return Known(
            layout=self.layout,
            tiers=(),
            reference=parse(f"https://origin/tool.sqsh{pinned}"),
            scope="job",
            session=False,
            freshness=freshness,
            clock=self.clock,
            trace=lambda _point: None,
        )

    def member(self, *, rises: int = 0) -> FakeMember:
        made = FakeMember(self.clock, rises=rises)
        self.cluster.member = cast("Member", made)
        return made

    def pinned(self) -> Digest | None:
        return memory.read_pin(self.layout.pin("job", REFERENCE.key), self.clock.now())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


class TestMeeting:
    def test_what_the_others_are_pinned_to_is_taken_over(self, site: Site) -> None:
        site.town.visitor().set_pin("job", REFERENCE.key, DIGEST.hex)
        site.cluster.prepare(site.known)
        assert (site.cluster.alone, site.pinned()) == (False, DIGEST)
        assert site.cluster.agree(site.known, ELSE) == DIGEST

    @pytest.mark.parametrize("how", ["freshness", "digest", "scope"])
    def test_who_pins_nothing_asks_for_no_pin(self, site: Site, how: str) -> None:
        known = site.knowledge(
            freshness="always" if how == "freshness" else "job", pinned=f"@{DIGEST}" if how == "digest" else ""
        )
        if how == "scope":
            site.cluster.terms.scope = ""
        site.cluster.prepare(known)
        assert site.cluster.agree(known, ELSE) == ELSE
        assert {"pin", "set_pin"}.isdisjoint(site.town.asked)

    def test_the_first_one_pins_all(self, tmp_path: Path) -> None:
        site = Site(tmp_path)
        site.cluster.prepare(site.known)
        other = site.staging()
        other.prepare(site.known)
        assert site.cluster.agree(site.known, DIGEST) == DIGEST
        assert other.agree(site.known, ELSE) == DIGEST
        asked = site.town.asked["set_pin"]
        assert other.agree(site.known, ELSE) == DIGEST
        assert site.town.asked["set_pin"] == asked, "once is enough"

    @pytest.mark.parametrize("alone", [True, False])
    def test_without_zookeeper_it_goes_by_policy(self, site: Site, alone: bool) -> None:
        site.town.away = True
        site.cluster.terms.alone = alone
        if not alone:
            with pytest.raises(ClusterUnavailable):
                site.cluster.prepare(site.known)
        else:
            site.cluster.prepare(site.known)
            assert [line.endswith("goes on alone") for line in site.tell.lines] == [True]
        assert site.cluster.alone
        assert site.met[-1].closed, "no half of a session is left"

    @pytest.mark.parametrize("alone", [True, False])
    def test_a_pin_that_cannot_be_made_is_the_nodes_own_or_none(self, site: Site, alone: bool) -> None:
        site.cluster.prepare(site.known)
        site.cluster.terms.alone = alone
        site.town.away = True
        if alone:
            assert site.cluster.agree(site.known, DIGEST) == DIGEST
        else:
            with pytest.raises(ClusterUnavailable):
                site.cluster.agree(site.known, DIGEST)

    def test_who_went_on_alone_still_asks_what_the_job_is_pinned_to(self, site: Site) -> None:
        site.town.away = True
        site.cluster.prepare(site.known)
        site.town.away = False
        site.town.visitor().set_pin("job", REFERENCE.key, DIGEST.hex)
        assert site.cluster.agree(site.known, ELSE) == DIGEST

    def test_nobody_joins_without_a_session(self, site: Site) -> None:
        with pytest.raises(ClusterUnavailable):
            site.cluster.join(cast("Any", None))


class TestEnoughNodes:
    def wait(self, site: Site, patience: float = 50.0) -> None:
        site.cluster.await_nodes(site.known, cast("Any", SimpleNamespace(digest=DIGEST)), patience)

    @pytest.mark.parametrize("wanted", [0, 1])
    def test_one_node_is_always_enough(self, tmp_path: Path, wanted: int) -> None:
        site = Site(tmp_path, min_nodes=wanted)
        self.wait(site)
        assert site.clock.sleeps == []

    def test_they_are_waited_for_and_remembered(self, tmp_path: Path) -> None:
        site = Site(tmp_path, min_nodes=7)
        member = site.member(rises=1)
        self.wait(site)
        assert (member.state, member.awaits_others) == ("done", False)
        assert site.cluster.has_enough(site.known)
        assert not Site(tmp_path, min_nodes=99).cluster.has_enough(site.known)
        again = Site(tmp_path, min_nodes=7)
        self.wait(again)
        assert again.clock.sleeps == [], "by the node's other tasks, too"

    def test_too_few_are_told_once_no_more_come(self, tmp_path: Path) -> None:
        site = Site(tmp_path, min_nodes=4)
        site.member()
        begun = site.clock.now()
        with pytest.raises(TooFewNodes, match="1 of 9 nodes have the image; 4 are wanted"):
            self.wait(site)
        assert 50 <= site.clock.now() - begun <= 52
        assert not site.cluster.has_enough(site.known)

    def test_each_one_that_comes_gives_the_others_time(self, tmp_path: Path) -> None:
        site = Site(tmp_path, min_nodes=2000)
        site.member(rises=1)
        self.wait(site)
        assert site.clock.now() - 1000 > 50

    def test_a_member_that_has_ended_waits_for_nobody(self, tmp_path: Path) -> None:
        site = Site(tmp_path, min_nodes=4)
        site.member().active = False
        with pytest.raises(TooFewNodes):
            self.wait(site)
        assert site.clock.now() == 1000

    def test_without_zookeeper_nobody_knows(self, tmp_path: Path) -> None:
        with pytest.raises(TooFewNodes, match="ZooKeeper"):
            self.wait(Site(tmp_path, min_nodes=2))


class TestLingering:
    def linger(self, site: Site) -> float:
        """Return for how long it stayed."""
        begun = site.clock.now()
        site.cluster.linger(site.known, cast("Any", None))
        return site.clock.now() - begun

    def seat(self, site: Site, **what: object) -> SimpleNamespace:
        seat = SimpleNamespace(over=False, deserted=True, taken=False, left=0)
        seat.__dict__.update(what)

        def leave() -> None:
            seat.left += 1
            raise ClusterUnavailable("away")

        seat.leave = leave
        site.cluster._seat = cast("Seat", seat)
        return seat

    def test_who_never_joined_goes_at_once(self, site: Site) -> None:
        site.cluster.prepare(site.known)
        assert self.linger(site) == 0
        assert site.met[0].closed

    def test_a_member_stays_until_it_is_dismissed_but_not_for_ever(self, site: Site) -> None:
        member = site.member()
        seat = self.seat(site)
        assert 100 <= self.linger(site) <= 101
        assert (member.state, member.stopped, seat.left) == ("done", 1, 1)

    @pytest.mark.parametrize("how", ["dismissed", "over"])
    def test_whose_work_is_done_goes(self, site: Site, how: str) -> None:
        member = site.member()
        self.seat(site, over=how == "over")
        member.active = how != "dismissed"
        assert self.linger(site) < 1

    @pytest.mark.parametrize("others", [True, False])
    def test_the_coordinator_lets_the_others_hear_of_the_end(self, site: Site, others: bool) -> None:
        site.member().active = False
        self.seat(site, over=True, taken=True, deserted=not others)
        stayed = self.linger(site)
        assert (GOODBYE_SECONDS <= stayed <= GOODBYE_SECONDS + 1) if others else stayed == 0

    @pytest.mark.parametrize("told", [True, False])
    def test_after_a_failure_until_all_have_been_told_of_it(self, site: Site, told: bool) -> None:
        self.seat(site, over=told, deserted=False)
        begun = site.clock.now()
        site.cluster.dismiss_others(failed=True)
        assert (site.clock.now() == begun) == told
        assert site.clock.now() - begun <= GOODBYE_SECONDS + 1

    def test_what_the_node_holds_is_made_known(self, site: Site) -> None:
        site.cluster.prepare(site.known)
        site.member().active = False
        self.seat(site, taken=True)
        self.linger(site)
        assert list(site.town.nodes) == ["h0"]
        assert site.town.asked["sweep"] == 1

    def test_zookeepers_absence_is_no_failure_any_more(self, site: Site) -> None:
        site.cluster.prepare(site.known)
        site.town.away = True
        site.member().active = False
        self.linger(site)

    def test_leaving_keeps_what_the_others_have_said(self, site: Site) -> None:
        site.cluster.prepare(site.known)
        member = site.member()
        member.load.version = {"etag": '"1"'}
        site.cluster.leave(ClusterUnavailable("no coordinator"))
        assert (site.cluster.alone, site.cluster.member, member.stopped) == (True, None, 1)
        assert site.cluster.version == {"etag": '"1"'}
        assert site.tell.lines == ["warning: no coordinator; this node goes on alone"]

    def test_or_ends_it(self, site: Site) -> None:
        site.cluster.terms.alone = False
        with pytest.raises(ClusterUnavailable, match="no coordinator"):
            site.cluster.leave(ClusterUnavailable("no coordinator"))


class TestFetching:
    def fetching(
        self, site: Site, folder: Path, source: ScriptedSource, *, held: bytes = b"", etag: str = ""
    ) -> Fetching:
        copy = Partial(str(folder / "copy"))
        if held:
            copy.begin(Validators(etag, "", len(held)), len(held), "origin", private=False)
            copy.write(copy.segments[0], held[:4096])

        def download(copy: Partial) -> Download:
            return Download(source=source, partial=copy, policy=RetryPolicy(attempts=1), clock=site.clock)

        return Fetching(site.cluster, copy, download, site.known, cast("Any", None), lambda: None)

    def together(self, site: Site, monkeypatch: pytest.MonkeyPatch, *outcomes: object) -> FakeMember:
        site.cluster.prepare(site.known)
        member = site.member()
        member.outcomes = list(outcomes)
        joins: Callable[..., Any] = lambda _cluster, _task, **_how: member  # noqa: E731
        monkeypatch.setattr(ClusterStaging, "join", joins)
        return member

    def test_alone_it_comes_from_the_origin(self, site: Site, tmp_path: Path) -> None:
        fetching = self.fetching(site, tmp_path, ScriptedSource(Version(CONTENT, '"1"')))
        assert fetching.run() is True
        assert (fetching.copy.digest(), fetching.progress) == (DIGEST, (len(CONTENT), len(CONTENT)))
        assert site.clock.sleeps, "not all nodes at the same moment"
        fetching.copy.close()

    @pytest.mark.parametrize("ranges", [True, False])
    def test_bytes_from_another_day_bind_nobody(self, site: Site, tmp_path: Path, ranges: bool) -> None:
        source = ScriptedSource(Version(CONTENT, '"2"'), then=Fault(ranges=ranges))
        fetching = self.fetching(site, tmp_path, source, held=OTHER, etag='"1"')
        assert fetching.run() is True
        assert fetching.copy.digest() == DIGEST
        fetching.copy.close()

    @pytest.mark.parametrize("same", [True, False])
    def test_the_version_that_others_have_does(self, site: Site, tmp_path: Path, same: bool) -> None:
        fetching = self.fetching(site, tmp_path, ScriptedSource(Version(CONTENT, '"2"')))
        site.cluster._version = {"etag": '"2"' if same else '"1"', "modified": "", "size": len(CONTENT)}
        if same:
            assert fetching.run() is True
        else:
            with pytest.raises(PinLost):
                fetching.run()
            assert fetching.copy.held == 0, "before anything has come"
        fetching.copy.close()

    def test_what_comes_from_the_others_is_as_good(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        member = self.together(site, monkeypatch, False, False, True)
        source = ScriptedSource(Version(CONTENT))
        fetching = self.fetching(site, tmp_path, source)
        assert fetching.run() is True
        assert (source.asked, member.stopped, fetching.progress) == ([], 0, (5, 7))
        fetching.copy.close()

    def test_when_the_cluster_fails_it_goes_on_alone(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        member = self.together(site, monkeypatch, ClusterUnavailable("no coordinator"))
        fetching = self.fetching(site, tmp_path, ScriptedSource(Version(CONTENT)))
        assert fetching.run() is True
        assert (fetching.copy.digest(), member.active) == (DIGEST, False)
        fetching.copy.close()

    @pytest.mark.parametrize("error", [Ended(), PinLost("x")])
    def test_nothing_writes_any_more_when_it_ends(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        member = self.together(site, monkeypatch, error)
        fetching = self.fetching(site, tmp_path, ScriptedSource(Version(CONTENT)))
        with pytest.raises(type(error)):
            fetching.run()
        assert not member.active
        fetching.copy.close()

    @pytest.mark.parametrize("feeds", [True, False])
    def test_what_nobody_wants_ends_unless_others_live_on_it(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feeds: bool
    ) -> None:
        member = self.together(site, monkeypatch, *[False] * 100, True)
        member.load.feeds_others = feeds
        site.cluster.wanted = lambda: False
        fetching = self.fetching(site, tmp_path, ScriptedSource(Version(CONTENT)))
        begun = site.clock.now()
        if feeds:
            assert fetching.run() is True
        else:
            with pytest.raises(Ended):
                fetching.run()
            assert UNWANTED_SECONDS <= site.clock.now() - begun <= UNWANTED_SECONDS + 2
        fetching.copy.close()
