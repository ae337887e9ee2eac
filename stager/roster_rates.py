"""Who is slow. A slow member throttles all that come after it: it is moved to the end, and back when it is well.

Whoever comes after a slow member is as slow, and nothing shows what it could do: slow ones are found one after the
other, the first one first. It is the first one whose upstream has more bytes than it manages to take.
"""

from __future__ import annotations

from itertools import islice
from statistics import median
from typing import TYPE_CHECKING

from stager.roster_watch import REMEMBERED, complaints, hush

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.roster_member import Member
    from stager.roster_order import Order
    from stager.roster_tree import Tree

SLOW = 0.5
"""A member is slow below this part of the others' median rate; measured with chains in which one link had a tenth."""
LAGGING = 0.8
"""Below that part it feeds the end of a chain only: fast members first, so that each waits for faster ones alone."""
WELL = 0.8
"""A slow one is well again above that part."""
HELD_BACK = 0.3
"""Seconds of data that the upstream must hold beyond the member: what comes late for other reasons is less."""
LONG = 4
"""So many times that must it be for a lagging one: what is that little slower takes longer to see."""
STALE = 1.5
"""At least so many intervals between reports, where those are long: an upstream's report may be that much younger."""
SPAN = 0.8
"""Seconds of reports on the present upstream before a rate means anything."""
PENANCE = 2.0
"""Seconds before a slow member may be well again; twice as long each time."""
JUDGED = 8
"""So many members at most are looked at closely in one round: a bound on the work, not on the outcome."""

COMPLAINTS = 3
"""So many members that are slow under the same upstream, one after the other, and it is slow to send.

More than for silence: neighbours that are slow to receive (disks, ports of one switch) are likelier than a node that
receives well and sends badly.
"""
MOVED = 64
"""So many members at most are moved at once."""

TRIAL = 3.0
"""Seconds after which a new head is compared with the old one."""
TRIALS = 2
"""So often may the head change because of its rate: each costs the origin a connection."""
WORTH = 10.0
"""Seconds that the rest must take at the head's rate before a change is tried, if links are known to be faster."""
WORTH_A_GUESS = 60.0
"""The same if nothing is known but how long it will take."""
GUESS_AFTER = 5.0
"""Seconds before that is tried."""


class Rates:
    """Moves members of `tree` because of their rates, finding places by `order`."""

    def __init__(self, tree: Tree, order: Order) -> None:
        self.tree = tree
        self.order = order
        self.interval = 0.0
        """Seconds between the reports of one member."""
        self.fastest = 0.0
        """The best rate that anybody has had for a second, from whomever."""
        self.set_aside = 0
        """How many lack bytes and are not to be fed before the others, but as well as can be."""
        self._streak: tuple[int, float] | None = None
        """How many were moved for being slow last time, and when."""
        self._accusers: dict[Member, Member] = {}
        """Whose complaint was the last one that made a member a mute one."""
        self._trials = 0
        self._trial: tuple[Member, Member, float, float] | None = None

    def judge(self, now: float) -> None:
        """Move the slow ones to the end, and let those that are well again feed others."""
        receivers = [m for m in self.tree.members.values() if not m.complete and m.upstream and m.span >= SPAN]
        rates = [member.rate for member in receivers if not member.slow]
        if rates:
            self.order.usual = median(rates)
            self.fastest = max(self.fastest, *rates)
        self._share_out(receivers, now)
        best = max(rates, default=self.order.usual)
        suspects = (m for m in receivers if not m.leaf and m.rate < LAGGING * best and self._held_back(m, best))
        for member in sorted(suspects, key=lambda m: -m.offset)[:JUDGED]:
            self._judge(member, receivers, now)
        leaves = [member for member in self.tree.members.values() if member.leaf and not member.complete]
        self.set_aside = len(leaves)
        for member in leaves:
            self._forgive(member, now)
            self._try_another(member, now)
        self._judge_head(now)
        self.order.settle(now)

    def _share_out(self, receivers: list[Member], now: float) -> None:
        """Note who shares an upstream, and find an own one for who need not."""
        for member in receivers:
            above = member.parent
            if above is None:
                continue
            if len(above.children) > self.tree.fan:
                above.crowded = now
                self.order.relieve(member, now)

    # Slow members.

    def _judge(self, member: Member, receivers: list[Member], now: float) -> None:
        behind = self.tree.subtree(member)
        rates = [other.rate for other in receivers if other not in behind and not other.slow]
        usual = median(rates) if rates else self.order.usual
        above = member.parent
        if above is None or not self._held_back(member, usual):
            return
        if len(above.children) <= self.tree.fan and now - above.crowded < SPAN:
            return  # part of its rate is from when it had to share
        rate = self._rate(member)
        if rate < SLOW * usual:
            self._too_slow(member, above, now)
        elif rate < LAGGING * usual and self._held_back(member, usual * LONG) and member.kids():
            self._move_back(member, above, now)

    def _too_slow(self, member: Member, above: Member, now: float) -> None:
        elsewhere = member.slow_under - {above.name}
        member.slow_under.add(above.name)
        if elsewhere:
            # It is slow under several: so it was not any of them.
            self._absolve(member)
        elif complaints(above, member, now) >= COMPLAINTS:
            self._accusers[member] = above
            hush(self.tree, above, now)
            return
        elif self._set_back(member, above, self._next_count(now), now):
            return
        member.slow, member.slow_since = True, now
        member.slow_times += 1
        self.tree.changed(member)
        self.tree.splice(member, now)

    def _move_back(self, member: Member, above: Member, now: float) -> None:
        if not self._set_back(member, above, self._next_count(now), now):
            self.order.send_back(member, now)

    def _absolve(self, member: Member) -> None:
        mute = self._accusers.pop(member, None)
        if mute is not None and mute.name in self.tree.members:
            mute.mute = False
            self.tree.changed(mute)

    def _next_count(self, now: float) -> int:
        """Return how many to move: one, and twice as many as last time if that was a moment ago."""
        last = self._streak
        count = min(2 * last[0], MOVED) if last is not None and now - last[1] <= REMEMBERED else 1
        self._streak = (count, now)
        return count

    def _set_back(self, member: Member, above: Member, count: int, now: float) -> bool:
        """Move `count` members, from this one on, to the end of the chain, or half of it; False if that is only one.

        Nodes of a rack are slow together, and one by one they would be found in as many seconds.
        """
        chain = list(islice(_chain(member), 2 * count))
        after = chain[min(count, len(chain) // 2)]
        if after in chain[:2]:
            return False
        self.tree.detach(after)
        self.tree.detach(member)
        self.tree.attach(after, above, now)
        return True

    def _rate(self, member: Member) -> float:
        """Return the rate that a member would have if it were the only one of its upstream."""
        others = len(member.parent.children) if member.parent is not None else 1
        return member.rate * max(1.0, others / self.tree.fan)

    def _held_back(self, member: Member, rate: float) -> bool:
        """Whether the upstream has more, so that the member is not slow because of those before it."""
        above = member.parent
        return above is not None and above.offset - member.offset > max(HELD_BACK, STALE * self.interval) * rate

    def _forgive(self, member: Member, now: float) -> None:
        if not member.slow or now - member.slow_since < self._penance(member) or member.span < SPAN:
            return
        above, well = member.parent, WELL * self.order.usual
        caught_up = above is not None and above.rate >= well and not self._held_back(member, self.order.usual)
        if self._rate(member) >= well or caught_up:
            member.slow = False
            member.slow_under.clear()
            self.tree.changed(member)

    def _try_another(self, member: Member, now: float) -> None:
        """Give a leaf another upstream, if the present one has others to feed, or may be what is slow."""
        above = member.parent
        if above is None:
            return
        doubt = now - max(member.tried, member.linked) > self._penance(member)
        held_back = self._rate(member) < WELL * self.order.usual and self._held_back(member, self.order.usual)
        if above.kids() or above.mute or (doubt and held_back):
            member.tried = now
            self.order.hang_better(member, now)

    def _penance(self, member: Member) -> float:
        return PENANCE * 2.0 ** min(member.slow_times, 10)

    # A slow head.

    def _judge_head(self, now: float) -> None:
        """Try another head, if the present one gets far less than links can carry and the others wait for it.

        Nobody but the head pulls from the origin, so that there is nothing to compare it with. What is slow is the
        origin, most often; to find out costs one connection.
        """
        self._end_trial(now)
        if len(self.tree.heads) != 1 or self._trials >= TRIALS:
            return
        (head,) = self.tree.heads
        kids = [kid for kid in head.kids() if kid.feeds and not kid.barred and head.offset - kid.offset <= head.rate]
        if kids and self._is_worth_a_trial(head, now):
            self._trials += 1
            self._trial = (head, kids[0], head.rate, now)
            self.tree.splice(head, now)
            self.tree.detach(kids[0])
            self.tree.to_origin(kids[0], now)

    def _is_worth_a_trial(self, head: Member, now: float) -> bool:
        since, rate = now - head.linked, head.rate
        if head.complete or self.order.size is None or since < PENANCE or head.span < SPAN:
            return False
        left = self.order.size - head.offset
        if rate < SLOW * self.fastest:
            return left > WORTH * rate
        return self._trials == 0 and since > GUESS_AFTER and left > WORTH_A_GUESS * rate

    def _end_trial(self, now: float) -> None:
        if self._trial is None or now - self._trial[3] < TRIAL:
            return
        before, after, rate, _ = self._trial
        self._trial = None
        if before.name in self.tree.members and after.at_origin and after.rate * SLOW > rate and not before.complete:
            before.slow, before.slow_since = True, now
            self.tree.changed(before)


def _chain(member: Member) -> Iterator[Member]:
    """Yield a member and who comes after it, as long as nothing branches off."""
    yield member
    while len(kids := member.kids()) == 1:
        member = kids[0]
        yield member
