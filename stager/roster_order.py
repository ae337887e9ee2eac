"""Who is to feed whom: where a member finds its place.

One chain, as long as that is the fastest (`fan_of`), in the order of the node list, so that each cable between racks
is crossed once. Bytes only ever flow from who has more to who has less, but for a member that was moved to the end of
a chain: what flows there has passed its own place a moment later.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from stager.roster_strikes import AGAIN, AVOID, struck_out, worked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stager.roster_member import Member
    from stager.roster_tree import Tree

LITTLE = 8 << 20
"""Bytes: a member that holds no more than that, or LITTLE_PART of the image, may wait for a new one before it."""
LITTLE_PART = 0.01

TURN = 5.0
"""Seconds for which somebody who reaches nobody is left at the origin, if others do not reach it either."""

NEIGHBOURS = 8
"""So many predecessors are looked at for one that can feed; a number for which a join stays cheap."""

MARGIN = 32 << 20
"""Bytes that somebody must be ahead of the head to take its place: less is the age of a report, not a lead."""
MARGIN_SECONDS = 2.0

FRESH = 0.02
"""Seconds for which a report says where a member is now."""


class Order:
    """Finds places in `tree`; `origins` members may pull from the origin at the same time."""

    def __init__(self, tree: Tree, *, origins: int) -> None:
        self.tree = tree
        self.origins = origins
        self.size: int | None = None
        self.usual = 0.0
        """The rate, in bytes per second, at which members usually receive; 0 while unknown."""
        self.vouched = False
        """Whether somebody has said what the complete image is: without that, complete bytes cannot be published."""
        self._relieved: float | None = None
        self._ahead: Member | None = None
        """Who may be ahead of the head, or only have reported later."""
        self.hold_until = 0.0
        """Until then nobody is given a place: somebody who belongs before them may still come."""

    def admit(self, member: Member, now: float) -> None:
        """Find a place for a member that has just come: in the order of nodes, where nobody has to wait for it."""
        if now < self.hold_until:
            return
        tree = self.tree
        flowing = bool(tree.heads or tree.complete) and not tree.idle
        before = self._neighbour(member, now) if tree.fan == 1 and flowing and self._little(member) else None
        kids = before.kids() if before is not None else []
        if before is not None and not kids:
            self._attach(member, before, now)
        elif len(kids) == 1 and self._little(kids[0]):
            self._insert(member, kids[0], now)
        else:
            self.settle(now)

    def settle(self, now: float) -> None:
        """Find a place for everybody who needs one, the furthest first."""
        if now < self.hold_until or not (self.tree.needy or self.tree.complete):
            return
        self._have_led(now)
        for member in sorted(self.tree.needy, key=lambda needy: (needy.leaf, -needy.offset)):
            if member.needy:
                self._place(member, now)
        if not self.vouched and not self.tree.heads and self.tree.complete:
            self._have_vouched(now)

    def send_back(self, member: Member, now: float) -> None:
        """Move a member to the end of a chain, though it has more bytes than who is there now."""
        self.tree.splice(member, now)
        end = self._end(member, now)
        if end is not None:
            self._attach(member, end, now)
        self.settle(now)

    def feeders(self) -> Iterable[Member]:
        """Return the complete members that others may be sent to."""
        return (member for member in self.tree.complete if member.feeds)

    def margin(self) -> float:
        """Bytes that make a lead."""
        return max(MARGIN, MARGIN_SECONDS * self.usual)

    def lead(self, member: Member, now: float) -> None:
        """Make a member the head if it is far ahead of it, by reports of which the head's is the later one."""
        ahead = member
        if member.at_origin and self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            if ahead.name not in self.tree.members or ahead.leaf or ahead.complete:
                return
        if ahead.at_origin or not self._leads(ahead):
            return
        if ahead is member and any(now - head.heard > FRESH for head in self.tree.heads):
            self._ahead = ahead
        else:
            self.promote(ahead, now)

    def promote(self, member: Member, now: float) -> None:
        """Make a member that is ahead of the head the head."""
        heads = list(self.tree.heads)
        if not member.at_origin:
            self.tree.splice(member, now)
        for head in heads:
            self.tree.detach(head)
        self.tree.to_origin(member, now)
        self.settle(now)

    def _have_led(self, now: float) -> None:
        """Send the furthest of those in need to the origin, if there is nobody whom bytes could come from."""
        if self.tree.heads or any(True for _ in self.feeders()):
            return
        may = [member for member in self.tree.needy if not member.barred and not member.leaf]
        if may:
            self.tree.to_origin(max(may, key=lambda member: member.offset), now)

    def _have_vouched(self, now: float) -> None:
        """Send a complete member to the origin, if whoever was the head died before it had said what the image is."""
        may = [member for member in self.tree.complete if not (member.barred or member.corrupt or member.dismissed)]
        if may:
            self.tree.to_origin(max(may, key=lambda member: (member.was_head, member.feeds)), now)

    def _neighbour(self, member: Member, now: float) -> Member | None:
        """Return the member before this one in the order that can feed it."""
        near = islice(self.tree.ring.before(member), NEIGHBOURS)
        return next((before for before in near if before.feeds and self._may(member, before, now)), None)

    def _place(self, member: Member, now: float) -> None:
        if member.leaf:
            self._hang(member, now)
            return
        if member.avoided and self._struck_out(member, now) and self._ask_origin(member, now):
            return
        if (feeder := self._best(member, now)) is not None:
            self._attach(member, feeder, now)
        elif not (member.barred or self.tree.heads or any(True for _ in self.feeders())):
            self.tree.to_origin(member, now)
        else:
            self._squeeze_in(member, now)

    def _best(self, member: Member, now: float) -> Member | None:
        """Return who can feed it at full rate: a complete member that is idle, or the end of a chain."""
        for idle in self.tree.idle.nearest(member):
            if self._may(member, idle, now):
                return idle
        for end in self.tree.open:
            room = not member.leaf or self._has_room(end)
            if end.offset >= member.offset and room and self._may(member, end, now):
                return end
        return None

    def _struck_out(self, member: Member, now: float) -> bool:
        sources = [*self.feeders(), *(head for head in self.tree.heads if head.feeds)]
        return struck_out(member, sources, self.tree, now)

    def _ask_origin(self, member: Member, now: float) -> bool:
        """Let a member that reaches nobody ask the origin, if it can be spared; return whether it does."""
        if not member.barred and len(self.tree.heads) < self.origins:
            self.tree.to_origin(member, now)
        elif not member.leaf and self._may_relieve(member, now):
            self._relieved = now
            self.promote(member, now)
        return member.at_origin

    def _squeeze_in(self, member: Member, now: float) -> None:
        """Find a place that costs somebody else something."""
        below = None if member.children else self._between(member, now)
        if below is not None:
            self._insert(member, below, now)
        elif self._leads(member) and all(now - head.heard <= FRESH for head in self.tree.heads):
            self.promote(member, now)
        elif (
            feeder := self._end(member, now) or self._spare(member, now) or self._spare(member, now, AGAIN)
        ) is not None:
            self._attach(member, feeder, now)

    def _attach(self, member: Member, feeder: Member, now: float) -> None:
        """Link two, at the cost of a leaf if there are too many already."""
        leaves = [child for child in feeder.children if child.leaf]
        if leaves and not member.leaf and len(feeder.children) > self.tree.fan:
            self.tree.detach(leaves[-1])
        self.tree.attach(member, feeder, now)

    def _may_relieve(self, member: Member, now: float) -> bool:
        """Whether the head's place may go to a member that reaches nobody: not if the head's lead would be lost.

        Two that do not reach each other take turns.
        """
        heads = self.tree.heads
        if self._relieved is not None and now - self._relieved < TURN:
            return False
        return bool(heads) and not member.barred and member.offset + self.margin() >= max(h.offset for h in heads)

    def _leads(self, member: Member) -> bool:
        heads = self.tree.heads
        if not heads or member.barred or any(True for _ in self.feeders()):
            return False
        return member.offset > max(head.offset for head in heads) + self.margin()

    def _between(self, member: Member, now: float) -> Member | None:
        """Return who has fewer bytes than the member, fed by somebody who has more."""
        for end in self._ends(member):
            below = next((m for m in (end, *end.ancestors()) if m.parent and m.parent.offset >= member.offset), None)
            if below is None or below.parent is None or below.leaf or below.offset > member.offset:
                continue
            if below.parent.feeds and self._may(member, below.parent, now):
                return below
        return None

    def _ends(self, member: Member) -> list[Member]:
        """Return the ends of chains that the member is not part of, the furthest first."""
        ends = [end for end in self.tree.open if end is not member and not self.tree.below(member, end)]
        return sorted(ends, key=lambda end: -end.offset)

    def _end(self, member: Member, now: float) -> Member | None:
        """Return the end of a chain, though it has fewer bytes: they are on their way."""
        may = (end for end in self._ends(member) if self._may(member, end, now))
        return next((end for end in may if not member.leaf or self._has_room(end)), None)

    def _spare(self, member: Member, now: float, pause: float = AVOID) -> Member | None:
        """Return the least busy of those who have more, even slow ones if they are complete."""
        limit = self.tree.fan + 1
        found = [
            other
            for other in self.tree.members.values()
            if len(other.children) < limit
            and (other.complete or (other.feeds and other.offset >= member.offset))
            and not (other.corrupt or other.suspected or other.dismissed)
            and self._may(member, other, now, pause)
        ]
        return min(found, key=lambda other: (not other.feeds, len(other.children), -other.offset), default=None)

    def _hang(self, member: Member, now: float) -> None:
        """Find a place for a leaf where it takes nothing from a chain; wait for one as long as there are chains."""
        feeder = self._best(member, now) or self._end(member, now)
        if feeder is None and self._struck_out(member, now) and self._ask_origin(member, now):
            return
        if feeder is None and not self.tree.open:
            feeder = self._spare(member, now) or self._spare(member, now, AGAIN)
        if feeder is not None:
            self.tree.attach(member, feeder, now)

    def relieve(self, member: Member, now: float) -> None:
        """Have a member pull from a complete one that feeds nobody else, if there is one."""
        idle = next((idle for idle in self.tree.idle.nearest(member) if self._may(member, idle, now)), None)
        if idle is not None:
            self.tree.attach(member, idle, now)

    def hang_better(self, member: Member, now: float) -> None:
        """Have a leaf pull from somebody else, if there is one who feeds nobody else."""
        feeder = self._best(member, now) or self._end(member, now)
        if feeder is not None and feeder is not member.parent:
            self.tree.attach(member, feeder, now)

    def _has_room(self, member: Member) -> bool:
        return member.feeds and len(member.children) <= self.tree.fan

    def _insert(self, member: Member, below: Member, now: float) -> None:
        """Put a member between another one and its upstream."""
        above = below.parent
        if above is None:
            raise ValueError(f"{below.name} has no upstream to share")
        self.tree.detach(below)
        self.tree.attach(member, above, now)
        self.tree.attach(below, member, now)

    def _little(self, member: Member) -> bool:
        return member.offset <= max(LITTLE, LITTLE_PART * (self.size or 0))

    def _may(self, member: Member, feeder: Member, now: float, pause: float = AVOID) -> bool:
        """Whether the member may be sent to this one: no cycle, and nothing went wrong between them lately."""
        if feeder is member or self.tree.below(member, feeder):
            return False
        return worked(member, feeder, now, pause)
