"""Who is in the way of others: accused, silent or sending damage. Whoever is in doubt goes to the end of the chain.

There it costs nothing. Of two members that cannot get on, either may be the one at fault: the first complaint moves
the one that complains; if others cannot get on with the same upstream either, that was it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager.roster_messages import CHUNK
from stager.roster_strikes import avoid

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

COMPLAINTS = 2
"""So many members without a byte from the same upstream, one after the other, and it is the upstream that is mute."""

CORRUPTIONS = 2
"""So many others are believed to have sent damaged bytes to one member; with more, it is that member's own memory."""


class Watch:
    """Moves members of `tree` because of what they say of each other, finding places by `order`."""

    def __init__(self, tree: Tree, order: Order) -> None:
        self.tree = tree
        self.order = order

    def lost(self, member: Member, how: str, now: float) -> None:
        """Take a member's word that its upstream broke off or refuses."""
        accused = member.parent
        if accused is None:
            return
        if how == "reset" and now - member.resets.get(accused.name, -RESET_AGAIN) >= RESET_AGAIN:
            member.resets[accused.name] = now
        else:
            self._refused(member, accused, now)
        self.order.settle(now)

    def corrupt(self, member: Member, accused: Member | None, now: float) -> None:
        """Take a member's word that somebody sends damaged bytes, whether that is still its upstream or not."""
        if accused is None or accused is member or accused.name in member.corruptions:
            return
        avoid(member, accused, now)
        member.corruptions.add(accused.name)
        if len(member.corruptions) > CORRUPTIONS:
            accused = member
        accused.corrupt = True
        self.tree.changed(accused)
        self.tree.splice(accused, now)
        self.order.settle(now)

    def silent(self, member: Member, silence: float, now: float) -> None:
        """Take a member's word that no byte has come for `silence` seconds."""
        above = member.parent
        if above is None or silence < SILENT or now - member.linked < SILENT:
            return
        if above.offset >= member.offset + CHUNK or (above.complete and not member.complete):
            avoid(member, above, now)
            if complaints(above, member, now) < COMPLAINTS:
                self.tree.splice(member, now)
            else:
                hush(self.tree, above, now)
            self.order.settle(now)

    def heard(self, member: Member, now: float) -> None:
        """A member reports: whoever said that it does not answer was wrong, or the only one who cannot reach it."""
        if member.suspected:
            accuser = self.tree.members.get(member.suspected)
            if accuser is not None:
                accuser.doubted = now + REMEMBERED
            member.suspected = ""
            self.tree.changed(member)

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


def complaints(above: Member, member: Member, now: float) -> int:
    """Add a member's complaint about its upstream; return how many have complained about that one lately."""
    above.complaints = {name: when for name, when in above.complaints.items() if now - when < REMEMBERED}
    above.complaints[member.name] = now
    return len(above.complaints)


def hush(tree: Tree, mute: Member, now: float) -> None:
    """Have a member feed nobody any more: nobody gets on with it. Its place goes to whom it fed."""
    mute.complaints.clear()
    mute.mute = True
    tree.changed(mute)
    tree.splice(mute, now)
