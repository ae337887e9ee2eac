"""Who is in the way of others: accused, silent, slow. Whoever is in doubt goes to the end, where it costs nothing.

Of two members that cannot get on, either may be the one at fault. The first complaint moves the one that complains;
if another one cannot get on with the same upstream, that was it.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from stager.roster_messages import CHUNK

if TYPE_CHECKING:
    from stager.roster_member import Member
    from stager.roster_order import Order
    from stager.roster_tree import Tree

SILENT = 1.0
"""Seconds without a byte while the upstream has some, after which the link between the two is given up."""

RESET_AGAIN = 5.0
"""Seconds: a stream that broke off is tried once more, and then not again within that time. A process that is gone
refuses the second try at once, which a link that was cut for a moment does not."""

REMEMBERED = 10.0
"""Seconds for which a complaint counts against an upstream, and a wrong accusation against the accuser."""

CORRUPTIONS = 2
"""So many others are believed to have sent damaged bytes to one member; with more, it is that member's own memory."""

SLOW = 0.5
"""A member is slow below this part of the others' median rate; measured with chains in which one link had a tenth."""
WELL = 0.8
"""And well again above that part."""
HELD_BACK = 0.3
"""Seconds of data that the upstream must hold beyond the member: what comes late for other reasons is less."""
STALE = 1.5
"""The same in intervals between reports, where those are long: an upstream's report may be that much younger."""
SPAN = 0.8
"""Seconds of reports on the present upstream before a rate means anything."""
PENANCE = 2.0
"""Seconds before a slow member may be well again; twice as long each time."""
JUDGED = 8
"""So many members at most are looked at closely in one round: a bound on the work, not on the outcome."""

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


class Watch:
    """Moves members of `tree` because of how they are, finding places by `order`."""

    def __init__(self, tree: Tree, order: Order) -> None:
        self.tree = tree
        self.order = order
        self.interval = 0.0
        """Seconds between the reports of one member."""
        self.fastest = 0.0
        """The best rate that anybody has had for a second, from whomever."""
        self._trials = 0
        self._trial: tuple[Member, Member, float, float] | None = None

    # What members say.

    def lost(self, member: Member, how: str, now: float) -> None:
        """Take a member's word that its upstream broke off, refuses or sends damaged bytes."""
        accused = member.parent
        if accused is None:
            return
        if how == "corrupt":
            self._corrupt(member, accused, now)
        elif how == "reset" and now - member.resets.get(accused.name, -RESET_AGAIN) >= RESET_AGAIN:
            member.resets[accused.name] = now
        else:
            self._refused(member, accused, now)
        self.order.settle(now)

    def silent(self, member: Member, silence: float, now: float) -> None:
        """Take a member's word that no byte has come for `silence` seconds."""
        above = member.parent
        if above is None or silence < SILENT or now - member.linked < SILENT:
            return
        if above.offset >= member.offset + CHUNK or (above.complete and not member.complete):
            avoid(member, above, now)
            self._complain(member, above, now)
            self.order.settle(now)

    def heard(self, member: Member, now: float) -> None:
        """A member reports: whoever said that it does not answer was wrong, or the only one who cannot reach it."""
        if member.suspected:
            accuser = self.tree.members.get(member.suspected)
            if accuser is not None:
                accuser.doubted = now + REMEMBERED
            member.suspected = ""
            self.tree.changed(member)

    # What the rates say.

    def judge(self, now: float) -> None:
        """Move the slow ones to the end, and let those that are well again feed others."""
        receivers = [m for m in self.tree.members.values() if not m.complete and m.upstream and m.span >= SPAN]
        rates = [member.rate for member in receivers]
        if rates:
            self.order.usual = median(rates)
            self.fastest = max(self.fastest, *rates)
        best = max(rates, default=0.0) or self.order.usual
        suspects = (m for m in receivers if not m.leaf and m.rate < SLOW * best and self._held_back(m, best))
        for member in sorted(suspects, key=lambda m: -m.offset)[:JUDGED]:
            self._judge(member, receivers, now)
        for member in [m for m in self.tree.members.values() if m.slow and not m.complete]:
            self._forgive(member, now)
        self._judge_head(now)
        self.order.settle(now)

    def _judge(self, member: Member, receivers: list[Member], now: float) -> None:
        # Whoever comes after a slow member is as slow, and no measure of anything.
        behind = self.tree.subtree(member)
        rates = [other.rate for other in receivers if other not in behind and not other.slow]
        usual = median(rates) if rates else self.order.usual
        above = member.parent
        share = max(1.0, len(above.children) / self.tree.fan) if above is not None else 1.0
        if above is not None and member.rate * share < SLOW * usual and self._held_back(member, usual):
            self._complain(member, above, now)
            if not above.slow:
                self._mark_slow(member, now)

    def _held_back(self, member: Member, rate: float) -> bool:
        """Whether the upstream has more, so that the member is not slow because of those before it."""
        above = member.parent
        return above is not None and above.offset - member.offset > max(HELD_BACK, STALE * self.interval) * rate

    def _forgive(self, member: Member, now: float) -> None:
        patience = PENANCE * 2 ** min(member.slow_times, 10)
        if now - member.slow_since < patience or member.span < SPAN:
            return
        above, well = member.parent, WELL * self.order.usual
        caught_up = above is not None and above.rate >= well and not self._held_back(member, self.order.usual)
        if member.rate >= well or caught_up:
            member.slow = False
            self.tree.changed(member)

    def _judge_head(self, now: float) -> None:
        """Try another head, if the present one gets far less than links can carry and the others wait for it.

        Nobody but the head pulls from the origin, so that there is nothing to compare it with. What is slow is the
        origin, most often; to find out costs one connection.
        """
        if self._trial is not None:
            self._end_trial(now)
        if len(self.tree.heads) != 1 or self._trials >= TRIALS or self.order.size is None:
            return
        (head,) = self.tree.heads
        rate = head.rate
        if head.complete or now - head.linked < PENANCE or head.span < SPAN:
            return
        left = self.order.size - head.offset
        known = rate < SLOW * self.fastest and left > WORTH * rate
        guessed = self._trials == 0 and now - head.linked > GUESS_AFTER and left > WORTH_A_GUESS * rate
        kids = [kid for kid in head.kids() if not kid.barred and kid.feeds and head.offset - kid.offset <= rate]
        if kids and (known or guessed):
            self._trials += 1
            self._trial = (head, kids[0], rate, now)
            self.tree.splice(head, now)
            self.tree.detach(kids[0])
            self.tree.to_origin(kids[0], now)

    def _end_trial(self, now: float) -> None:
        if self._trial is None or now - self._trial[3] < TRIAL:
            return
        before, after, rate, _ = self._trial
        self._trial = None
        known = self.tree.members.get(before.name) is before
        if known and after.at_origin and after.rate * SLOW > rate and not before.complete:
            self._mark_slow(before, now)

    # What is done about it.

    def _complain(self, member: Member, above: Member, now: float) -> None:
        recent = {name: when for name, when in above.complaints.items() if now - when < REMEMBERED}
        above.complaints = recent
        recent[member.name] = now
        if len(recent) > 1:
            for name in recent:
                if (cleared := self.tree.members.get(name)) is not None and cleared.slow:
                    cleared.slow = False
                    self.tree.changed(cleared)
            recent.clear()
            self._mark_slow(above, now)
            self.tree.splice(above, now)
        else:
            self.tree.splice(member, now)

    def _mark_slow(self, member: Member, now: float) -> None:
        member.slow, member.slow_since = True, now
        member.slow_times += 1
        self.tree.changed(member)

    def _corrupt(self, member: Member, accused: Member, now: float) -> None:
        avoid(member, accused, now)
        member.corruptions.add(accused.name)
        if len(member.corruptions) > CORRUPTIONS:
            member.corrupt = True
            self._empty(member)
            self.tree.detach(member)
        else:
            accused.corrupt = True
            self.tree.changed(accused)
            self.tree.splice(accused, now)

    def _empty(self, member: Member) -> None:
        for child in list(member.children):
            self.tree.detach(child)

    def _refused(self, member: Member, accused: Member, now: float) -> None:
        avoid(member, accused, now)
        others = [kid for kid in accused.kids() if kid is not member]
        if member.doubted > now or others or member.leaf or accused.complete:
            # Others get on with it, or it is not needed for anything else: only the accuser moves.
            self.tree.splice(member, now)
        else:
            accused.suspected = member.name
            self.tree.changed(accused)
            self.tree.splice(accused, now)


def avoid(member: Member, upstream: Member, now: float) -> None:
    """Remember that this upstream went wrong for the member."""
    count = member.avoided.get(upstream.name, (0.0, 0))[1]
    member.avoided[upstream.name] = (now, count + 1)
