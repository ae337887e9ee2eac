"""One node of a staging, as the coordinator knows it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW = 1.0
"""Seconds over which a rate is taken. Half of that took slow starts of TCP for slow nodes in simulated runs."""

Key = tuple[str, int, str]
"""What members are ordered by: job, place in the job's node list, name."""

LAST = 1 << 40
"""The place of a member that does not know its own."""


@dataclass(eq=False, slots=True, kw_only=True)
class Member:
    """Who it is, how far it is, whom it pulls from, and what is held against it.

    `offset` counts verified bytes of the present generation. Times are those of the coordinator's clock, but for
    `since`, which is wall-clock time and for people.
    """

    name: str
    host: str
    address: str
    scope: str
    order: int | None
    since: float

    offset: int = 0
    state: str = "waiting"
    downstream: int = 0
    heard: float = 0.0
    interval: float = 0.0
    """Seconds until its next report, as it was told."""
    complete: bool = False
    """All bytes are verified, whether published already or not."""

    parent: Member | None = None
    children: dict[Member, None] = field(default_factory=dict)
    at_origin: bool = False
    was_head: bool = False
    linked: float = 0.0
    """Since when it has had the present upstream."""
    claims: str | None = None
    """Whom it said to pull from when it came in; counts until the grace is over."""

    crowded: float = -1e9
    """When more members than it can feed at full rate were last seen to pull from it."""
    slow: bool = False
    slow_since: float = 0.0
    slow_times: int = 0
    slow_under: set[str] = field(default_factory=set)
    """Upstreams under which it was slow."""
    mute: bool = False
    """What it sends comes slowly or not at all, whatever it receives: others are sent to it only as a last resort."""
    tried: float = 0.0
    """When a slow one was last given another upstream."""
    corrupt: bool = False
    """Damaged bytes came from it: it never feeds anybody again."""
    suspected: str = ""
    """Who said that it does not answer; empty once it has reported."""
    barred: bool = False
    """The origin failed it: it is another's turn there."""
    dismissed: bool = False

    avoided: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Upstreams that went wrong for this member: when last, and how often."""
    resets: dict[str, float] = field(default_factory=dict)
    complaints: dict[str, float] = field(default_factory=dict)
    """Members that could not get on with this one as their upstream, and when."""
    corruptions: set[str] = field(default_factory=set)
    """Whom it has accused of damaged bytes."""
    doubted: float = 0.0
    """Until when its accusations move nobody but itself: the last one was wrong."""

    samples: deque[tuple[float, int]] = field(default_factory=deque)

    def __repr__(self) -> str:
        return f"<{self.name} {self.offset}>"

    @property
    def key(self) -> Key:
        return self.scope, LAST if self.order is None else self.order, self.name

    @property
    def leaf(self) -> bool:
        """Whether it hangs at an end, feeding nobody."""
        return self.corrupt or bool(self.suspected) or ((self.slow or self.mute) and not self.complete)

    @property
    def feeds(self) -> bool:
        """Whether others may be sent to it, as far as it is concerned."""
        return not (self.slow or self.mute or self.corrupt or self.suspected or self.dismissed)

    @property
    def upstream(self) -> str | None:
        """As on the wire: a name, `origin` or nothing."""
        return self.parent.name if self.parent else "origin" if self.at_origin else None

    @property
    def needy(self) -> bool:
        """Whether it lacks bytes and has nobody to get them from."""
        return not (self.complete or self.at_origin or self.parent)

    def kids(self) -> list[Member]:
        """Return the children that pass bytes on, the furthest first; leaves do not count."""
        return sorted((child for child in self.children if not child.leaf), key=lambda child: -child.offset)

    def ancestors(self) -> Iterator[Member]:
        """Yield whom its bytes come through, nearest first."""
        above = self.parent
        while above is not None:
            yield above
            above = above.parent

    def sample(self, now: float) -> None:
        """Remember where it is now, and no more of what was than the rate needs."""
        samples = self.samples
        if samples and self.offset < samples[-1][1]:
            samples.clear()
        samples.append((now, self.offset))
        while len(samples) > 2 and samples[1][0] <= now - WINDOW:
            samples.popleft()

    @property
    def span(self) -> float:
        """Seconds that the rate is taken over."""
        return self.samples[-1][0] - self.samples[0][0] if self.samples else 0.0

    @property
    def rate(self) -> float:
        """Bytes per second over the last second or the last two reports, whichever is longer."""
        span = self.span
        return (self.samples[-1][1] - self.samples[0][1]) / span if span > 0 else 0.0
