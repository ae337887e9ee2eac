"""A new coordinator of an image that is under way: members come back, and most of them are where they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.roster_messages import ORIGIN

if TYPE_CHECKING:
    from stager.roster_member import Member
    from stager.roster_messages import Joining
    from stager.roster_order import Order
    from stager.roster_tree import Tree

GRACE = 1.0
"""Seconds for which nobody is given another upstream, or the origin: somebody who has more bytes may still come."""


class Return:
    """Leaves members where they say they are, if that makes sense."""

    def __init__(self, tree: Tree, order: Order) -> None:
        self.tree = tree
        self.order = order
        self._awaited: dict[str, list[Member]] = {}
        self._born: float | None = None

    def begin(self, joining: Joining, now: float) -> None:
        """Find out by its first members whether the image is under way already."""
        if self._born is None:
            self._born = now
        if joining.generation is not None and now - self._born < GRACE and not self.order.hold_until:
            self.order.hold_until = self._born + GRACE

    def claim(self, member: Member, upstream: str | None, now: float) -> None:
        """Take a member's word for whom it pulls from."""
        early = now < self.order.hold_until
        if upstream == ORIGIN and early and not self.tree.heads and not member.complete:
            self.tree.to_origin(member, now)
        elif upstream in self.tree.members:
            self._keep(member, self.tree.members[upstream], now, early=early)
        elif upstream is not None and upstream != ORIGIN and early:
            self._awaited.setdefault(upstream, []).append(member)
        for child in self._awaited.pop(member.name, ()):
            if child.needy and self.tree.members.get(child.name) is child:
                self._keep(child, member, now, early=True)
        if early and self.tree.heads and not self._awaited and not self.tree.needy:
            self.order.hold_until = now

    def end(self, now: float) -> None:
        """Once the grace is over, who has not come back is not waited for."""
        if self._awaited and now >= self.order.hold_until:
            self._awaited.clear()

    def _keep(self, member: Member, above: Member, now: float, *, early: bool) -> None:
        room = len(above.children) < self.tree.fan + early
        ahead = above.offset + self.order.margin() >= member.offset
        if member.needy and room and ahead and above.feeds and above is not member:
            self._attach(member, above, now)

    def _attach(self, member: Member, above: Member, now: float) -> None:
        if not self.tree.below(member, above):
            self.tree.attach(member, above, now)
