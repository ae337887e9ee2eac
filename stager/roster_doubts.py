"""Whether an image that is known already is still what a job that comes later means by the reference.

A job that was there before the image was known has it from its origin, as of now. One that comes later, while the
relays still linger, may mean a newer one: a member of it asks the origin, and the others of the job wait for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

    from stager.roster_member import Member


class Doubts:
    """What is known of jobs. A member outside of jobs stands for itself."""

    def __init__(self) -> None:
        self._sure: set[str] = set()
        self._elsewhere: set[str] = set()
        self._asking: dict[str, str] = {}

    @property
    def closed(self) -> bool:
        """Whether the origin has a newer image, so that nobody else should come for this one by the reference alone."""
        return bool(self._elsewhere)

    def settle(self, member: Member, *, sure: bool) -> None:
        """This image is what the member's job means, or it is not."""
        key = _job(member)
        self._asking.pop(key, None)
        (self._sure if sure else self._elsewhere).add(key)

    def about(self, member: Member) -> bool:
        """Whether it is not known what the member's job means, or known to be another image."""
        return _job(member) not in self._sure

    def elsewhere(self, member: Member) -> bool:
        """Whether the member's job means another image."""
        return _job(member) in self._elsewhere and self.about(member)

    def asks(self, member: Member, present: Container[str]) -> bool:
        """Whether it is this member that asks; another one's turn comes when it has gone."""
        key = _job(member)
        if self._asking.get(key) not in present:
            self._asking[key] = member.name
        return self._asking[key] == member.name


def _job(member: Member) -> str:
    return f"job {member.scope}" if member.scope else member.name
