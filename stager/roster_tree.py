"""Who feeds whom: the links between members, and who has room for one more. Decides nothing."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stager.roster_member import Key, Member


class Ring:
    """Members in the order of their keys, neighbours found by bisection."""

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._members: dict[Key, Member] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, member: Member) -> bool:
        return self._members.get(member.key) is member

    def add(self, member: Member) -> None:
        if member.key not in self._members:
            insort(self._keys, member.key)
        self._members[member.key] = member

    def remove(self, member: Member) -> None:
        if member in self:
            del self._members[member.key]
            del self._keys[bisect_left(self._keys, member.key)]

    def before(self, member: Member) -> Iterator[Member]:
        """Yield the others, from its predecessor backwards and around."""
        place = bisect_left(self._keys, member.key)
        for step in range(1, len(self._keys) + 1):
            other = self._members[self._keys[place - step]]
            if other is not member:
                yield other

    def nearest(self, member: Member) -> Iterator[Member]:
        """Yield the others, those of the same job first, and the nearer ones in its node list before the others."""
        keys, key = self._keys, member.key
        above = bisect_left(keys, key)
        below = above - 1
        while below >= 0 or above < len(keys):
            down = below >= 0 and (above >= len(keys) or _distance(key, keys[below]) <= _distance(key, keys[above]))
            other = self._members[keys[below if down else above]]
            below, above = (below - 1, above) if down else (below, above + 1)
            if other is not member:
                yield other


def _distance(key: Key, other: Key) -> tuple[bool, int]:
    return key[0] != other[0], abs(key[1] - other[1])


class Tree:
    """The members that are there, linked. Every member has at most one upstream, and no cycle is ever made."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.ring = Ring()
        self.heads: dict[Member, None] = {}
        """Who pulls from the origin."""
        self.complete: dict[Member, None] = {}
        self.needy: dict[Member, None] = {}
        """Who has no upstream and lacks bytes."""
        self.open: dict[Member, None] = {}
        """Incomplete members that can feed another one at full rate, longest open first."""
        self.idle = Ring()
        """Complete members that can feed and do not."""
        self._fan = 1

    @property
    def fan(self) -> int:
        """How many members one member feeds at once, leaves apart."""
        return self._fan

    @fan.setter
    def fan(self, fan: int) -> None:
        if fan != self._fan:
            self._fan = fan
            for member in self.members.values():
                self.refresh(member)

    def enroll(self, member: Member) -> None:
        """Take in a member without links."""
        self.members[member.name] = member
        self.ring.add(member)
        self.refresh(member)

    def drop(self, member: Member) -> None:
        """Forget a member; whoever it fed is needy."""
        for child in list(member.children):
            self.detach(child)
        self.detach(member)
        del self.members[member.name]
        self.ring.remove(member)
        self.idle.remove(member)
        for group in (self.open, self.needy, self.complete):
            group.pop(member, None)

    def attach(self, child: Member, parent: Member, now: float) -> None:
        """Have `child` pull from `parent`, which must not be below it."""
        if child.parent is parent:
            return
        if child is parent or self.below(child, parent):
            raise ValueError(f"{parent.name} is fed by {child.name}")
        self._release(child)
        child.parent = parent
        parent.children[child] = None
        self._relinked(child, now)
        self.refresh(parent)

    def to_origin(self, child: Member, now: float) -> None:
        """Have `child` pull from the origin."""
        if not child.at_origin:
            self._release(child)
            child.at_origin = child.was_head = True
            self.heads[child] = None
            self._relinked(child, now)

    def detach(self, child: Member) -> None:
        """Leave `child` without an upstream."""
        self._release(child)
        self.refresh(child)

    def splice(self, member: Member, now: float) -> None:
        """Take a member out of its place, which goes to its furthest child; the other children are left needy."""
        above, kids = member.parent, member.kids() or list(member.children)
        for child in list(member.children):
            self.detach(child)
        self.detach(member)
        if kids and above is not None:
            self.attach(kids[0], above, now)

    def below(self, member: Member, other: Member) -> bool:
        """Whether the bytes of `other` come through `member`."""
        return bool(member.children) and any(above is member for above in other.ancestors())

    def subtree(self, member: Member) -> set[Member]:
        """Return the member and all whose bytes come through it."""
        found, front = {member}, [member]
        while front:
            front = [child for above in front for child in above.children if child not in found]
            found.update(front)
        return found

    def refresh(self, member: Member) -> None:
        """Sort a member in again after something about it or its links has changed."""
        _put(self.needy, member, wanted=member.needy)
        _put(self.complete, member, wanted=member.complete)
        feeds = member.feeds and member.name in self.members
        kids = sum(not child.leaf for child in member.children)
        _put(self.open, member, wanted=feeds and not member.complete and kids < self._fan)
        if feeds and member.complete and not member.children:
            self.idle.add(member)
        else:
            self.idle.remove(member)

    def changed(self, member: Member) -> None:
        """Sort a member and its upstream in again: what it is decides what room its upstream has."""
        self.refresh(member)
        if member.parent is not None:
            self.refresh(member.parent)

    def _release(self, child: Member) -> None:
        if child.at_origin:
            child.at_origin = False
            self.heads.pop(child, None)
        parent, child.parent = child.parent, None
        if parent is not None:
            del parent.children[child]
            self.refresh(parent)

    def _relinked(self, child: Member, now: float) -> None:
        child.linked, child.claims = now, None
        child.samples.clear()
        self.refresh(child)


def _put(group: dict[Member, None], member: Member, *, wanted: bool) -> None:
    if wanted:
        group.setdefault(member)
    else:
        group.pop(member, None)
