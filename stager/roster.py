"""Who is in, how far each one is, and who feeds whom; the one place that decides it.

The member that has the most bytes is the head and pulls from the origin; the others form a chain behind it. Members
report; those that do not are dead, those that are in the way are moved. Time is an argument: seconds of any clock that
does not jump.

roster_order finds places, roster_watch and roster_rates move who is in the way, roster_return takes members over from
another coordinator, roster_finished knows who has the image, roster_tree holds the links.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.roster_finished import Finished
from stager.roster_member import Member
from stager.roster_order import Order
from stager.roster_rates import Rates
from stager.roster_return import Return
from stager.roster_shape import fan_of
from stager.roster_tree import Tree
from stager.roster_watch import Watch

if TYPE_CHECKING:
    from stager.roster_messages import Joining, Report

INTERVAL = 0.2
"""Seconds between two reports of a member, as long as there are few."""
REPORTS = 500
"""Reports per second that the coordinator wants to answer at most, beside its own image: some 10 % of a core."""

SOON = 5
"""So many times sooner comes a member's first report."""

DEAD = 1.0
DEAD_INTERVALS = 3
"""Silent for DEAD seconds and DEAD_INTERVALS of its intervals, a member is dead. Less took busy nodes for dead ones."""

STALL = 0.5
"""Seconds without a tick after which it was the coordinator that slept: nobody's silence from before counts."""

EXPECTED_RATE = 1e9
"""Bytes per second of a link until it has been measured: what one node can verify while it receives and sends."""

MAX_NODES = 1 << 16
"""More than any cluster has; what else a member says about its place in a node list is not believed."""


class Roster:
    """The members of one staging. `own` is the coordinator's own member, `origins` how many may use the origin at once.

    `tick` must be called at least every 0.3 s, better every 0.1 s.
    """

    def __init__(self, *, own: str = "", origins: int = 1, interval: float = INTERVAL) -> None:
        self.own = own
        self.tree = Tree()
        self.order = Order(self.tree, origins=origins)
        self.watch = Watch(self.tree, self.order)
        self.rates = Rates(self.tree, self.order)
        self.returning = Return(self.tree, self.order)
        self.finished = Finished(own)
        self.busy = 0.0
        """When somebody last needed something."""
        self._interval = interval
        self._expected = 0
        self._ticked: float | None = None
        self._awake = 0.0
        self._judged = 0.0

    @property
    def members(self) -> dict[str, Member]:
        """Who is in, by name."""
        return self.tree.members

    @property
    def interval(self) -> float:
        """Seconds between two reports of one member."""
        return max(self._interval, len(self.members) / REPORTS)

    @property
    def ready(self) -> int:
        """How many have published the image, whether they are still there or not."""
        return len(self.finished)

    @property
    def nodes(self) -> int:
        """How many are in, or were until they had the image."""
        return len(self.members) + self.finished.left

    @property
    def idle(self) -> bool:
        """Whether nobody who is in lacks the image."""
        return len(self.finished.present) == len(self.members)

    @property
    def gone(self) -> dict[str, Member]:
        """Who was there: published the image and left, or failed."""
        return self.finished.gone

    def waits(self, now: float) -> bool:
        """Whether somebody who has more bytes may still come, so that nothing is changed yet."""
        return now < self.order.hold_until

    # What members say.

    def join(self, joining: Joining, offset: int, now: float) -> Member:
        """Take a member in, with `offset` bytes of the present generation; one of its name from before is forgotten."""
        self.returning.begin(joining, now)
        if (before := self.members.get(joining.node)) is not None:
            self._remove(before, now)
        self.finished.recall(joining.node)
        member = _member(joining, offset, now)
        # It is told soon if somebody has been put before it, as happens to who has hardly anything yet.
        member.interval = max(self._interval, len(self.members) / (SOON * REPORTS))
        self.tree.enroll(member)
        self._reckon(joining.order)
        self._advance(member, joining.state, offset, now)
        self.returning.claim(member, joining.upstream, now)
        if member.needy:
            self.order.admit(member, now)
        self._lead(member, now)
        self.busy = now
        return member

    def report(self, member: Member, report: Report, now: float) -> None:
        """Take in how a member is; `report` is about the present generation."""
        self.watch.heard(member, now)
        member.downstream = report.downstream
        self._advance(member, report.state, report.offset, now)
        above = member.parent.name if member.parent is not None else ""
        if report.lost == "corrupt":
            self.watch.corrupt(member, self.members.get(report.upstream or ""), now)
        elif report.lost is not None and report.upstream == above:
            self.watch.lost(member, report.lost, now)
        elif report.silence and report.upstream == above:
            self.watch.silent(member, report.silence, now)
        self._lead(member, now)

    def touch(self, member: Member, now: float) -> None:
        """A member is alive, whatever it says."""
        member.heard, member.interval = now, self.interval

    def leave(self, member: Member, now: float) -> None:
        """Close up after a member that goes, has died, or failed by itself."""
        self.finished.remember(member)
        self._remove(member, now)
        self.order.settle(now)

    def bar(self, member: Member, now: float) -> bool:
        """Let another member try the origin; return whether there is one."""
        member.barred = True
        if member.at_origin:
            self.tree.splice(member, now)
        self.order.settle(now)
        return any(not other.barred for other in self.members.values())

    def vouch(self, now: float) -> None:
        """What the image is, is known now: nobody needs to ask the origin for that any more, nor for bytes."""
        self.order.vouched = True
        held = any(True for _ in self.order.feeders())
        for head in [head for head in self.tree.heads if held or head.complete]:
            self.tree.detach(head)
        self.order.settle(now)

    def start_over(self, now: float) -> None:
        """Forget all bytes: the image is another one now. Who feeds whom stays as it is."""
        self.order.vouched = False
        for member in self.members.values():
            member.offset, member.complete = 0, False
            member.samples.clear()
        for member in self.members.values():
            self.tree.refresh(member)
        self.finished.clear()
        self.order.settle(now)

    def is_dismissed(self, member: Member) -> bool:
        """Whether nobody needs this member's bytes any more, so that it may go."""
        before = member.dismissed
        if self.finished.dismiss(member, wanted=self.rates.set_aside) and not before:
            self.tree.changed(member)
        return member.dismissed

    # What time says.

    def tick(self, now: float) -> None:
        """Find out who is dead, silent or slow; cheap when called more often than needed."""
        if self._ticked is not None and 0 <= now - self._ticked < self._pause:
            return
        if self._ticked is None or now - self._ticked > STALL + self._pause:
            self._awake = now
        self._ticked = now
        for member in [member for member in self.members.values() if self._is_dead(member, now)]:
            self.leave(member, now)
        self.returning.end(now)
        if now - self._judged >= self.interval:
            self._judged = now
            self.rates.interval = self.interval
            self.rates.judge(now)
            self._reckon(None)
        self._revive(now)
        if not self.idle:
            self.busy = now

    @property
    def _pause(self) -> float:
        return max(0.05, self.interval / 4)

    def _is_dead(self, member: Member, now: float) -> bool:
        if member.name == self.finished.own:
            return False  # we are that process
        return now - max(member.heard, self._awake) > max(DEAD, DEAD_INTERVALS * member.interval)

    def _revive(self, now: float) -> None:
        """Have somebody pull from the origin even if all that are left were set aside."""
        if self.waits(now) or self.tree.heads or any(member.feeds for member in self.tree.complete):
            return
        left = [member for member in self.members.values() if not member.complete and not member.suspected]
        for member in left if all(member.barred for member in left) else ():
            member.barred = False
        if left:
            best = max(left, key=lambda m: (not m.barred, not m.corrupt, m.needy, m.offset))
            best.slow = False
            self.order.promote(best, now)

    # Coming and going.

    def _remove(self, member: Member, now: float) -> None:
        self.finished.remove(member)
        self.tree.splice(member, now)
        self.tree.drop(member)
        self.busy = now

    def _reckon(self, order: int | None) -> None:
        """Choose the shape by what is known of size, rate and the number of nodes."""
        if order is not None and order < MAX_NODES:
            self._expected = max(self._expected, order + 1)
        nodes = max(self._expected, len(self.members))
        self.tree.fan = fan_of(nodes, self.order.size, self.order.usual or EXPECTED_RATE)

    # Getting on.

    def _advance(self, member: Member, state: str, offset: int, now: float) -> None:
        published = member.state == "done"
        member.state = "done" if published else state
        member.offset = max(member.offset, offset) if published else offset
        size = self.order.size
        complete = member.state in {"verifying", "done"} or bool(size and member.offset >= size)
        if member.state == "done" and not published:
            self.finished.add(member)
        member.sample(now)
        if complete != member.complete:
            self._completed(member, now, complete=complete)

    def _completed(self, member: Member, now: float, *, complete: bool) -> None:
        member.complete = complete
        if complete and not member.was_head and member.offset < (self.order.size or 1):
            # It had the image before; nothing of it was ever vouched for here, so that it has nothing to serve.
            self.finished.excuse(member)
        if complete and not (member.at_origin and not self.order.vouched):
            self.tree.detach(member)
        # What the origin still sends to others is there already. But a head that only has not reported yet is the one
        # that says what the image is: a child's report may come before it.
        for head in list(self.tree.heads) if complete and member.feeds and self.order.vouched else ():
            if head is not member:
                self.tree.detach(head)
        self.tree.changed(member)
        self.order.settle(now)

    def _lead(self, member: Member, now: float) -> None:
        """Make a member the head that has far more than the head; it brought bytes from an earlier download."""
        if not (self.waits(now) or member.complete or member.leaf):
            self.order.lead(member, now)


def _member(joining: Joining, offset: int, now: float) -> Member:
    member = Member(
        name=joining.node,
        host=joining.host,
        address=joining.address,
        scope=joining.scope,
        order=joining.order,
        since=joining.since,
        offset=offset,
        heard=now,
    )
    member.sample(now)
    return member
