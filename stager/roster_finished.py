"""Who has the image: they are counted, and stay as long as somebody may need what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stager.roster_member import Member

KEPT = 2
"""So many stay for those who may still come."""


class Finished:
    """Members that have published the image. `own` is the coordinator's own member, which stays to the end."""

    def __init__(self, own: str) -> None:
        self.own = own
        self.present: dict[Member, None] = {}
        self.gone: dict[str, Member] = {}
        """Who was there: published the image and left, or failed."""
        self._kept: dict[Member, None] = {}
        self._left = 0

    def __len__(self) -> int:
        return len(self.present) + self._left

    @property
    def left(self) -> int:
        """How many have gone with the image."""
        return self._left

    def add(self, member: Member) -> None:
        self.present[member] = None
        self._kept[member] = None

    def remove(self, member: Member) -> None:
        """A member goes, or has nothing to give."""
        self.present.pop(member, None)
        self._kept.pop(member, None)

    def remember(self, member: Member) -> None:
        """A member goes for good, with the image or with an error."""
        if member.state in {"done", "failed"} and member.name not in self.gone:
            self.gone[member.name] = member
            self._left += member.state == "done"

    def recall(self, name: str) -> None:
        """A member that had gone is back."""
        before = self.gone.pop(name, None)
        self._left -= before is not None and before.state == "done"

    def clear(self) -> None:
        """The image is another one now; who has left with the old one does not count."""
        self.present.clear()
        self._kept.clear()
        self.gone.clear()
        self._left = 0

    def dismiss(self, member: Member, *, wanted: int) -> bool:
        """Dismiss a member if nobody needs it any more; return whether it is dismissed.

        KEPT members stay, the coordinator's own among them, and one for each of the `wanted` members that are fed when
        the others are done.
        """
        if member.dismissed:
            return True
        needed = bool(member.children) or member.downstream > 0 or member.name == self.own
        if member not in self._kept or needed or len(self._kept) <= KEPT + wanted:
            return False
        member.dismissed = True
        del self._kept[member]
        return True

    def excuse(self, member: Member) -> None:
        """Dismiss a member that has the image, but nothing to give."""
        member.dismissed = True
        self._kept.pop(member, None)
