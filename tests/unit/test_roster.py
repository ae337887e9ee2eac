"""Who feeds whom, step by step; the laws that hold whatever happens are in tests/property."""

from __future__ import annotations

from itertools import pairwise

import pytest

from stager.roster import Roster
from stager.roster_member import Member
from stager.roster_messages import CHUNK, joining, report
from stager.roster_order import LITTLE
from stager.roster_rates import TRIALS
from stager.roster_shape import fan_of
from stager.roster_tree import Ring, Tree

SIZE = 1 << 30
RATE = 100 << 20


class Scene:
    """A roster, and members that report to it as they are told."""

    def __init__(self, *, own: str = "", origins: int = 1) -> None:
        self.roster = Roster(own=own, origins=origins)
        self.roster.order.size = SIZE
        self.now = 10.0

    def join(
        self, order: int, *, offset: int = 0, generation: int | None = None, upstream: str | None = None
    ) -> Member:
        said = {"node": f"n{order}", "host": f"n{order}", "address": f"10.0.0.{order % 250}:1", "order": order}
        held = {"offset": offset, "generation": generation, "upstream": upstream}
        return self.roster.join(joining({**said, **held, "scope": "job", "since": 0.0}), offset, self.now)

    def report(self, member: Member, offset: int | None = None, **how: object) -> None:
        offset = member.offset if offset is None else offset
        said = {"node": member.name, "generation": 1, "offset": offset, "silence": 0.0, "upstream": member.upstream}
        state = {"lost": None, "state": "receiving", "downstream": len(member.children)}
        self.roster.touch(member, self.now)
        self.roster.report(member, report({**said, **state, **how}), self.now)

    def finish(self, *members: Member) -> None:
        for _ in range(2):
            for member in members:
                self.report(member, SIZE, state="done")
        self.roster.vouch(self.now)

    def flow(self, seconds: float, *, rates: dict[str, float] | None = None, silent: tuple[str, ...] = ()) -> None:
        """Let bytes flow as fast as upstreams have them; everybody but the `silent` reports every 0.2 s."""
        for _ in range(round(seconds * 5)):
            self.now += 0.2
            for member in sorted(self.roster.members.values(), key=lambda m: -m.offset):
                if member.name in silent or member.complete:
                    if member.name not in silent:
                        self.report(member, state=member.state)
                    continue
                step = int(0.2 * (rates or {}).get(member.name, RATE))
                limit = SIZE if member.at_origin else member.parent.offset if member.parent else member.offset
                self.report(member, max(member.offset, min(member.offset + step, limit)))
            self.roster.tick(self.now)

    def chain(self) -> list[str]:
        """Return the names from the head on."""
        (member,) = self.roster.tree.heads
        names = [member.name]
        while kids := member.kids():
            (member,) = kids
            names.append(member.name)
        return names

    def grown(self, count: int, *, offset: int = SIZE // 4) -> list[Member]:
        """Return members in a chain, each a little behind the one before."""
        members = [self.join(number) for number in range(count)]
        for number, member in enumerate(members):
            self.report(member, offset - number * CHUNK)
        return members


@pytest.fixture
def scene() -> Scene:
    return Scene()


class TestComing:
    def test_the_first_one_asks_the_origin_at_once(self, scene: Scene) -> None:
        assert scene.join(5).upstream == "origin"

    def test_the_chain_is_in_the_order_of_nodes_from_the_head_on(self, scene: Scene) -> None:
        for order in (3, 5, 1, 0, 2, 4, 7, 6):
            scene.join(order)
        assert scene.chain() == ["n3", "n4", "n5", "n6", "n7", "n0", "n1", "n2"]

    def test_who_has_much_is_not_made_to_wait_for_a_new_one(self, scene: Scene) -> None:
        first, last = scene.join(0), scene.join(5)
        scene.report(first, 4 * LITTLE)
        scene.report(last, 3 * LITTLE)
        assert scene.join(3).upstream == "n5"
        assert scene.chain() == ["n0", "n5", "n3"]

    def test_members_without_a_place_in_a_list_come_last(self, scene: Scene) -> None:
        scene.join(0)
        unknown = scene.join(9)
        unknown.order = None
        assert unknown.key > scene.join(8).key

    def test_a_late_one_is_fed_by_the_nearest_that_is_done_and_idle(self, scene: Scene) -> None:
        scene.finish(*[scene.join(order) for order in (0, 4, 8)])
        assert [scene.join(order).upstream for order in (5, 6, 1)] == ["n4", "n8", "n0"]

    def test_more_late_ones_than_idle_ones_form_chains(self, scene: Scene) -> None:
        scene.finish(scene.join(0))
        late = [scene.join(order) for order in range(1, 6)]
        assert max(len(member.children) for member in scene.roster.members.values()) == 1
        assert all(member.upstream for member in late)

    def test_who_brings_far_more_than_the_head_takes_its_place(self, scene: Scene) -> None:
        head, other = scene.join(0), scene.join(1)
        scene.report(other, SIZE // 2)
        assert other.at_origin
        assert head.parent is other

    def test_a_later_report_is_no_lead(self, scene: Scene) -> None:
        head, other = scene.join(0), scene.join(1)
        scene.now += 2.0
        scene.report(other, SIZE // 2)
        before = head.at_origin
        scene.report(head, SIZE // 2)
        assert (before, head.at_origin) == (True, True)

    def test_a_lead_that_the_heads_report_confirms_is_one(self, scene: Scene) -> None:
        head, other = scene.join(0), scene.join(1)
        scene.now += 2.0
        scene.report(other, SIZE // 2)
        scene.report(head, SIZE // 8)
        assert (head.at_origin, other.at_origin) == (False, True)

    def test_who_brings_the_whole_image_ends_the_download(self, scene: Scene) -> None:
        head, other = scene.join(0), scene.join(1)
        scene.finish(other)
        assert head.parent is other

    def test_nobody_is_fed_by_one_that_had_the_image_before_and_never_vouched_for_it(self, scene: Scene) -> None:
        scene.join(0)
        scene.report(scene.join(1), 0, state="done")
        assert scene.join(2).upstream == "n0"


class TestGoing:
    def test_the_gap_is_closed(self, scene: Scene) -> None:
        members = scene.grown(5)
        scene.roster.leave(members[2], scene.now)
        assert scene.chain() == ["n0", "n1", "n3", "n4"]

    def test_the_next_one_is_the_head(self, scene: Scene) -> None:
        members = scene.grown(3)
        scene.roster.leave(members[0], scene.now)
        assert scene.chain() == ["n1", "n2"]

    def test_silence_of_a_second_is_death(self, scene: Scene) -> None:
        scene.grown(4)
        scene.flow(0.8, silent=("n2",))
        assert "n2" in scene.roster.members
        scene.flow(0.6, silent=("n2",))
        assert scene.chain() == ["n0", "n1", "n3"]

    def test_the_coordinators_own_member_is_as_alive_as_the_coordinator(self) -> None:
        scene = Scene(own="n2")
        scene.grown(4)
        scene.flow(3.0, silent=("n2",))
        assert scene.chain() == ["n0", "n1", "n2", "n3"]

    def test_nobody_dies_because_the_coordinator_slept(self, scene: Scene) -> None:
        scene.grown(4)
        scene.flow(0.4)
        scene.now += 30.0
        scene.roster.tick(scene.now)
        assert len(scene.roster.members) == 4

    def test_reports_are_asked_for_more_seldom_from_more_members(self, scene: Scene) -> None:
        few = scene.roster.interval
        scene.grown(1000)
        assert (few, scene.roster.interval) == (0.2, 2.0)
        assert len(scene.roster.members) / scene.roster.interval == 500

    def test_a_rack_that_dies_at_once_costs_nobody_else_anything(self, scene: Scene) -> None:
        scene.grown(12)
        scene.flow(1.4, silent=tuple(f"n{number}" for number in range(3, 9)))
        assert scene.chain() == ["n0", "n1", "n2", "n9", "n10", "n11"]


class TestLinks:
    def test_a_stream_that_broke_off_is_tried_once_more(self, scene: Scene) -> None:
        members = scene.grown(4)
        scene.report(members[2], lost="reset")
        assert scene.chain() == ["n0", "n1", "n2", "n3"]

    @pytest.mark.parametrize("losses", [["refused"], ["reset", "refused"], ["reset", "reset"]])
    def test_one_that_refuses_goes_to_the_end_until_it_reports(self, scene: Scene, losses: list[str]) -> None:
        members = scene.grown(4)
        for how in losses:
            scene.report(members[2], lost=how)
        assert scene.chain() == ["n0", "n2", "n3"]
        assert members[1].upstream == "n3"
        assert not members[1].feeds
        scene.report(members[1])
        assert scene.chain() == ["n0", "n2", "n3", "n1"]

    def test_who_accuses_wrongly_moves_nobody_but_itself_next_time(self, scene: Scene) -> None:
        members = scene.grown(6)
        scene.report(members[2], lost="refused")
        scene.report(members[1])
        scene.report(members[2], lost="refused")
        assert scene.chain()[:2] == ["n0", "n3"]
        assert members[0].at_origin

    def test_news_of_a_link_that_is_no_more_is_ignored(self, scene: Scene) -> None:
        members = scene.grown(4)
        scene.report(members[3], lost="refused", upstream="n1")
        assert scene.chain() == ["n0", "n1", "n2", "n3"]

    def test_who_sends_damage_feeds_nobody_any_more(self, scene: Scene) -> None:
        members = scene.grown(4)
        scene.report(members[2], lost="corrupt")
        assert scene.chain() == ["n0", "n2", "n3"]
        scene.report(members[1])
        scene.finish(members[1])
        assert scene.join(9).upstream != "n1"

    def test_damage_from_everybody_is_ones_own(self, scene: Scene) -> None:
        members = scene.grown(6)
        for accused in ("n2", "n1", "n0"):
            scene.report(members[3], lost="corrupt", upstream=accused)
        assert members[3].corrupt
        assert not members[0].corrupt

    def test_silence_of_a_link_that_has_bytes_to_carry_ends_it(self, scene: Scene) -> None:
        members = scene.grown(4)
        scene.flow(1.2)
        scene.report(members[2], members[1].offset - 8 * CHUNK, silence=1.1)
        assert scene.chain() == ["n0", "n1", "n3", "n2"]

    def test_silence_is_nobodys_fault_where_there_is_nothing_to_send(self, scene: Scene) -> None:
        members = scene.grown(4)
        scene.flow(1.2)
        scene.report(members[2], members[1].offset, silence=5.0)
        assert scene.chain() == ["n0", "n1", "n2", "n3"]

    def test_two_that_get_nothing_from_the_same_one_are_right(self, scene: Scene) -> None:
        members = scene.grown(5)
        scene.flow(1.2)
        for member in members[2:4]:
            scene.now += 1.0
            scene.report(members[1], members[1].offset + 8 * CHUNK)
            scene.report(member, silence=1.1)
        assert members[1].mute
        assert not members[1].children

    def test_the_same_pair_is_tried_again_where_there_is_nobody_else(self, scene: Scene) -> None:
        first, second = scene.grown(2)
        scene.report(second, lost="refused")
        scene.report(first)
        scene.roster.tick(scene.now)
        scene.flow(3.0)
        assert {str(first.upstream), str(second.upstream)} == {
            "origin",
            second.name if second.at_origin else first.name,
        }

    def test_the_origin_is_the_last_resort_of_one_whom_nobody_reaches(self, scene: Scene) -> None:
        first, second = scene.grown(2)
        scene.finish(first)
        for _ in range(2):
            scene.report(second, lost="reset")
            scene.report(second, lost="refused")
            scene.flow(2.2)
        assert second.at_origin

    def test_a_head_far_ahead_stays_though_somebody_reaches_nobody(self, scene: Scene) -> None:
        first, second = scene.grown(2)
        scene.report(first, SIZE // 2)
        for _ in range(4):
            scene.report(second, lost="refused", upstream=second.upstream)
            scene.flow(2.2, rates={"n0": 0.0, "n1": 0.0})
        assert first.at_origin
        assert not second.at_origin


class TestRates:
    def test_a_slow_one_waits_at_the_end(self, scene: Scene) -> None:
        scene.grown(6)
        scene.flow(1.4, rates={"n2": RATE / 10})
        assert scene.chain() == ["n0", "n1", "n3", "n4", "n5"]
        assert scene.roster.members["n2"].parent is scene.roster.members["n5"]

    def test_who_is_slow_because_of_another_is_not_blamed(self, scene: Scene) -> None:
        scene.grown(6)
        scene.flow(3.0, rates={"n1": RATE / 10})
        assert [member.name for member in scene.roster.members.values() if member.slow] == ["n1"]

    def test_a_slow_one_that_is_well_again_feeds_others(self, scene: Scene) -> None:
        members = scene.grown(6)
        scene.flow(1.4, rates={"n2": RATE / 10})
        before = members[2].slow
        scene.flow(6.0)
        assert (before, members[2].slow) == (True, False)
        assert scene.join(9).parent is members[2]

    def test_one_that_sends_slowly_is_found_by_those_it_feeds(self, scene: Scene) -> None:
        members = scene.grown(8)
        for _ in range(25):
            below = {child.name: RATE / 10 for child in members[2].children}
            scene.flow(0.2, rates=below)
        assert members[2].mute
        assert [m.name for m in members if m.slow and m.parent is members[2]] == []

    def test_a_rack_that_is_slow_costs_its_neighbours_nothing_for_long(self, scene: Scene) -> None:
        rack = [f"n{number}" for number in (3, 4, 5, 6)]
        members = scene.grown(12, offset=CHUNK * 16)
        scene.flow(9.0, rates=dict.fromkeys(rack, RATE / 10))
        assert [m.name for m in members if m.mute] == []
        assert sorted(m.name for m in members if m.slow) == rack
        assert len(scene.chain()) == 8

    def test_each_that_is_set_aside_has_one_that_stays_for_it(self, scene: Scene) -> None:
        members = scene.grown(12)
        scene.flow(5.0, rates=dict.fromkeys(("n3", "n4", "n5", "n6"), RATE / 10))
        scene.finish(*[m for m in members if not m.slow])
        kept = [m for m in members if not m.slow and not scene.roster.is_dismissed(m)]
        assert len(kept) >= 2 + sum(m.slow for m in members)

    def test_a_new_one_takes_the_end_of_the_chain_from_leaves(self, scene: Scene) -> None:
        members = scene.grown(12, offset=CHUNK * 16)
        scene.flow(6.0, rates=dict.fromkeys(("n3", "n8"), RATE / 10))
        end = scene.roster.members[scene.chain()[-1]]
        assert [m.name for m in members if m.slow and m.parent is end] == ["n3", "n8"]
        new = scene.join(20)
        assert new.parent is end
        assert len(end.children) == 2

    def test_a_lagging_one_goes_behind_faster_ones_but_feeds(self, scene: Scene) -> None:
        scene.grown(5, offset=SIZE // 16)
        scene.flow(6.0, rates={"n2": RATE * 0.7})
        assert scene.chain() == ["n0", "n1", "n3", "n4", "n2"]

    def test_a_slow_head_is_found_by_trying_another_once(self, scene: Scene) -> None:
        scene.grown(4, offset=CHUNK * 8)
        scene.flow(12.0, rates=dict.fromkeys(("n0",), RATE / 20))
        assert scene.roster.members["n0"].slow
        assert scene.chain()[0] == "n1"

    def test_a_slow_origin_is_left_alone_after_a_trial(self, scene: Scene) -> None:
        members = scene.grown(4, offset=CHUNK * 8)
        heads = set()
        for _ in range(20):
            (head,) = scene.roster.tree.heads
            heads.add(head.name)
            scene.flow(1.0, rates={head.name: RATE / 20})
        assert 1 < len(heads) <= 1 + TRIALS
        assert not any(member.slow for member in members)


class TestTheEnd:
    def test_two_stay_and_the_coordinators_own_is_one_of_them(self) -> None:
        scene = Scene(own="n3")
        members = scene.grown(6)
        scene.finish(*members)
        dismissed = [member.name for member in members if scene.roster.is_dismissed(member)]
        assert len(dismissed) == 4
        assert "n3" not in dismissed

    def test_who_feeds_somebody_stays(self, scene: Scene) -> None:
        members = scene.grown(6)
        scene.finish(*members[:5])
        assert not scene.roster.is_dismissed(members[4])
        assert [scene.roster.is_dismissed(member) for member in members[:4]].count(True) == 3

    def test_those_who_have_gone_with_the_image_still_count(self, scene: Scene) -> None:
        members = scene.grown(3)
        scene.finish(*members)
        scene.roster.leave(members[0], scene.now)
        before = scene.roster.ready, scene.roster.nodes
        scene.join(0)
        assert [before, (scene.roster.ready, scene.roster.nodes)] == [(3, 3), (2, 3)]


class TestANewCoordinator:
    def test_streams_are_left_as_they_are_whoever_comes_first(self, scene: Scene) -> None:
        chain = ["origin", *(f"n{number}" for number in range(6))]
        links = [*pairwise(chain)]
        for upstream, name in reversed(links):
            scene.join(int(name[1:]), offset=SIZE // 2, generation=1, upstream=upstream)
        assert scene.chain() == chain[1:]

    def test_nobody_else_gets_the_origin_before_the_grace_is_over(self, scene: Scene) -> None:
        behind = scene.join(3, offset=SIZE // 4, generation=1, upstream="n2")
        assert behind.needy
        ahead = scene.join(0, offset=SIZE // 2, generation=1)
        scene.flow(1.2)
        assert (ahead.upstream, behind.upstream) == ("origin", "n0")

    def test_who_has_not_come_back_is_replaced(self, scene: Scene) -> None:
        scene.join(0, offset=SIZE // 2, generation=1, upstream="origin")
        orphan = scene.join(2, offset=SIZE // 4, generation=1, upstream="n1")
        scene.flow(1.2)
        assert orphan.upstream == "n0"


class TestShape:
    @pytest.mark.parametrize(
        ("nodes", "size", "rate", "fan"),
        [
            (16, 1 << 30, 1e9, 1),
            (1000, 10 << 30, 1e9, 1),
            (1000, 1 << 30, 1e9, 2),
            (10_000, 10 << 30, 1e9, 2),
            (10_000, 50 << 30, 1e9, 1),
            (10_000, 10 << 30, 1e8, 1),
            (10_000, None, 1e9, 1),
        ],
    )
    def test_a_tree_where_a_chain_is_too_long(self, nodes: int, size: int | None, rate: float, fan: int) -> None:
        assert fan_of(nodes, size, rate) == fan

    def test_a_tree_is_as_shallow_as_can_be(self) -> None:
        scene = Scene()
        scene.join(4095)
        for order in range(1000):
            scene.join(order)
        depths = [len(list(member.ancestors())) for member in scene.roster.members.values()]
        assert scene.roster.tree.fan == 2
        assert max(depths) <= 10

    def test_a_cycle_is_refused(self) -> None:
        tree = Tree()
        first, second = (Member(name=name, host="", address="", scope="", order=0, since=0.0) for name in "ab")
        tree.enroll(first)
        tree.enroll(second)
        tree.attach(second, first, 0.0)
        with pytest.raises(ValueError, match="is fed by"):
            tree.attach(first, second, 0.0)

    def test_neighbours_come_by_turns_from_both_sides(self) -> None:
        ring = Ring()
        members = [Member(name=str(i), host="", address="", scope="", order=i, since=0.0) for i in range(5)]
        for member in members:
            ring.add(member)
        assert [other.order for other in ring.nearest(members[2])] == [1, 3, 0, 4]
        assert [other.order for other in ring.before(members[1])] == [0, 4, 3, 2]
