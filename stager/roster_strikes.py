"""What went wrong between two members, and for how long that keeps them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stager.roster_member import Member
    from stager.roster_tree import Tree

AVOID = 30.0
"""Seconds for which a member is not sent again to an upstream that went wrong for it."""
AGAIN = 2.0
"""The same if there is nobody else."""
STRIKES = 2
"""So often does it go wrong before the origin is asked instead, though others hold the bytes."""


def avoid(member: Member, upstream: Member, now: float) -> None:
    """Remember that an upstream went wrong for a member."""
    count = member.avoided.get(upstream.name, (0.0, 0))[1]
    member.avoided[upstream.name] = (now, count + 1)


def worked(member: Member, upstream: Member, now: float, pause: float) -> bool:
    """Whether nothing has gone wrong between the two for `pause` seconds."""
    bad = member.avoided.get(upstream.name)
    return bad is None or now - bad[0] > pause


def struck_out(member: Member, sources: Sequence[Member], tree: Tree, now: float) -> bool:
    """Whether everybody who could feed a member has failed it more than once.

    Who gets nothing from the `sources`, which have bytes of their own, cannot feed anybody either.
    """
    others = [o for o in tree.members.values() if o is not member and o.feeds and not tree.below(member, o)]
    near = (o for o in others if o in sources or not all(_failed(o, source, now) for source in sources))
    return bool(sources) and all(_failed(member, other, now) for other in near)


def _failed(member: Member, upstream: Member, now: float) -> bool:
    when, count = member.avoided.get(upstream.name, (0.0, 0))
    return count >= STRIKES and now - when < AVOID
