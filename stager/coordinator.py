"""What the coordinator answers: one image's generation, version, digest and error, and each member's place.

One member of a staging is its coordinator; it holds the list of members (`roster`) and decides who feeds whom. It
keeps nothing but that: its successor knows all of it again once the members have joined again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stager import roster_messages as messages
from stager.roster import INTERVAL, Roster
from stager.roster_doubts import Doubts
from stager.roster_messages import Failure, Malformed, Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.roster_member import Member
    from stager.roster_messages import Doing, Joining, Report

FATAL = {65, 66, 67, 71, 72, 73, 85, 87}
"""Exit codes of what every node would see: InvalidReference, NotFound, AccessDenied, DigestMismatch, NotAnImage,
DamagedImage, ClusterUnavailable, which is a private image that must not be relayed, and ImageRefused."""
LOCAL = {74, 75}
"""NoSpace and StoreUnusable say nothing of the origin. With all others, as OriginUnavailable and ConverterMissing,
another node may have more luck."""

TRIES = 3
"""So many members may fail at the origin before all believe it."""

CHANGES = 5
"""So often may the image change at the origin while it is being staged."""

UNKNOWN: dict[str, object] = {"unknown": True}
"""The answer to who is not in, and to what makes no sense."""

CHANGING = Failure(68, "the image at the origin keeps changing while it is being staged", "try again later")

OUT_OF_REACH = Failure(
    68,
    "no node that has the image can be reached, and the origin has another one by now",
    "check the network of this node",
)


class Coordinator:
    """Answers the members of `staging`, which want the image that `reference` names (as people may see it).

    `own` is the name of the coordinator's own member, `interval` the seconds between reports while there are few
    members, `linger` the seconds for which two members stay for late ones, `origins` how many members may pull from
    the origin at once. `now` is always in seconds of one clock that does not jump.
    """

    def __init__(
        self,
        staging: str,
        reference: str,
        *,
        own: str = "",
        interval: float = INTERVAL,
        linger: float = 30.0,
        origins: int = 1,
    ) -> None:
        self.staging = staging
        self.reference = reference
        self.roster = Roster(own=own, origins=origins, interval=interval)
        self.linger = linger
        self.generation = 1
        self.version: Version | None = None
        self.digest: str | None = None
        self.root: str | None = None
        self.error: Failure | None = None
        self.doubts = Doubts()
        self.trouble = ""
        self.doing: Doing | None = None
        self._changes = 0
        self._failures = 0
        self._lost: dict[str, Failure] = {}
        self._told: set[str] = set()

    @property
    def nodes(self) -> int:
        """How many members there are, or were until they had the image."""
        return self.roster.nodes

    @property
    def ready(self) -> int:
        """How many have published the image."""
        return self.roster.ready

    @property
    def size(self) -> int | None:
        """The image's, in bytes, once known."""
        return self.roster.order.size

    def answer(self, verb: str, message: Mapping[str, object], now: float) -> dict[str, object]:
        """Return the answer to a message, whatever it says: `{"unknown": True}` to what makes no sense."""
        self.tick(now)
        try:
            if verb == "join":
                return self._join(messages.joining(message), now)
            if verb == "report":
                return self._report(messages.report(message), now)
            if verb == "leave":
                return self._leave(messages.node(message), now)
        except Malformed:
            return dict(UNKNOWN)
        return self._status() if verb == "status" else dict(UNKNOWN)

    def tick(self, now: float) -> None:
        """Let time pass; wanted at least every 0.3 s."""
        self.roster.tick(now)

    def is_over(self, now: float) -> bool:
        """Whether nobody needs a coordinator any more: all have the image since `linger` seconds, or know the error."""
        if self.error is not None:
            return self._told.issuperset(self.roster.members)
        return self.roster.idle and now - self.roster.busy >= self.linger

    # Verbs.

    def _join(self, joining: Joining, now: float) -> dict[str, object]:
        if joining.generation is not None and joining.generation > self.generation and not self._settled:
            self._start_over(joining.generation, joining.version, now)
        if self.version is None and joining.generation == self.generation and joining.version is not None:
            self._adopt(joining.version)
        member = self.roster.join(joining, self._credit(joining), now)
        if self.digest is None or joining.generation is not None or joining.expects == self.digest:
            self.doubts.settle(member, sure=True)
        if joining.generation == self.generation and not self._is_other(joining):
            self._vouch(joining.digest, joining.root, now)
        return self._told_of(member, now)

    def _report(self, report: Report, now: float) -> dict[str, object]:
        member = self.roster.members.get(report.node)
        if member is None:
            return dict(UNKNOWN)
        self.roster.touch(member, now)
        if report.fresh is not None and self.doubts.about(member):
            self.doubts.settle(member, sure=report.fresh)
        self._learn(member, report, now)
        if report.generation == self.generation and report.node in self.roster.members:
            self.roster.report(member, report, now)
            self._conclude(member, report, now)
        return self._told_of(member, now)

    def _leave(self, name: str, now: float) -> dict[str, object]:
        member = self.roster.members.get(name)
        if member is None:
            return dict(UNKNOWN)
        self.roster.leave(member, now)
        return {"unknown": False}

    def _status(self) -> dict[str, object]:
        members = [*self.roster.members.values(), *self.roster.gone.values()]
        return {
            "reference": self.reference,
            "staging": self.staging,
            "since": min((member.since for member in members), default=0.0),
            "size": self.size,
            "digest": self.digest,
            "generation": self.generation,
            "doing": self.doing.shown() if self.doing is not None else None,
            "nodes": [_shown(member) for member in members],
        }

    # What the head says of the image.

    def _credit(self, joining: Joining) -> int:
        """Return how many of a joining member's bytes are of the image that is being staged."""
        if joining.generation is not None:
            same = joining.generation == self.generation and not self._is_other(joining)
        else:
            same = self.version is not None and joining.version is not None and not self._is_other(joining)
        return joining.offset if same else 0

    def _is_other(self, joining: Joining) -> bool:
        """Whether it has bytes of another version. Its generation may be the number of another staging's."""
        return self.version is not None and joining.version is not None and not self.version.same(joining.version)

    @property
    def _settled(self) -> bool:
        """Whether somebody has the whole image already, so that it is no longer the origin that says what it is."""
        return any(member.state == "done" or not member.was_head for member in self.roster.tree.complete)

    def _learn(self, member: Member, report: Report, now: float) -> None:
        """Take in what a member that pulls from the origin knows of the image, by its own generation."""
        version = report.version
        if version is None or not member.was_head or report.generation < self.generation:
            return
        other = self.version is not None and not self.version.same(version)
        if report.generation == self.generation and not other:
            self._adopt(version)
        elif self._settled:
            self._lose(member, now)
        elif self._changes == CHANGES:
            self.error = CHANGING
        else:
            self._changes += 1
            self._start_over(max(report.generation, self.generation + other), version, now)

    def _lose(self, member: Member, now: float) -> None:
        """Give up a member that reaches nobody who has the image, at an origin that has another one by now."""
        if member.at_origin and not member.complete:
            self._lost[member.name] = OUT_OF_REACH
            member.state = "failed"
            self.roster.leave(member, now)

    def _adopt(self, version: Version) -> None:
        self.version = version
        if version.size is not None:
            self.roster.order.size = version.size

    def _start_over(self, generation: int, version: Version | None, now: float) -> None:
        self.generation = generation
        self.version, self.digest, self.root = None, None, None
        self.roster.order.size = None
        if version is not None:
            self._adopt(version)
        self.roster.start_over(now)

    def _conclude(self, member: Member, report: Report, now: float) -> None:
        """Take in what a member says at its end: the digest, or why it failed."""
        if member.complete and self.size is None and member.offset:
            self.roster.order.size = member.offset
        if member.at_origin:
            self.trouble, self.doing = report.trouble or "", report.doing
        if member.was_head or member.complete:
            self._vouch(report.digest, report.root, now)
        if report.error is not None:
            self._failed(member, report.error, now)
        if report.state == "failed" or (report.error is not None and report.error.code in LOCAL):
            member.state = "failed"
            self.roster.leave(member, now)

    def _vouch(self, digest: str | None, root: str | None, now: float) -> None:
        """Believe the first one that says what the image is; the root may come later than the digest."""
        if digest is not None and self.digest in {None, digest} and self.root is None:
            self.digest, self.root = digest, root
            if root is not None:
                self.roster.vouch(now)

    def _failed(self, member: Member, error: Failure, now: float) -> None:
        """Decide whom an error concerns: all, if it came from the origin and nobody has the image."""
        here = self.root is not None and any(True for _ in self.roster.order.feeders())
        if not member.was_head or self.error is not None or error.code in LOCAL or here:
            return
        if error.code in FATAL:
            self.error = error
        elif not member.barred:
            self._failures += 1
            if not self.roster.bar(member, now) or self._failures >= TRIES:
                self.error = error

    # Answers.

    def _told_of(self, member: Member, now: float) -> dict[str, object]:
        if self.error is not None:
            self._told.add(member.name)
        gone = member.name not in self.roster.members
        over = self.error is not None or gone or self.is_over(now)
        above = member.parent
        error = self.error or self._lost.pop(member.name, None)
        if self.doubts.about(member):
            return self._doubted(member)
        return {
            "generation": self.generation,
            "upstream": self._upstream(member, now),
            "ahead": above.offset if above is not None else 0,
            "furthest": max((head.offset for head in self.roster.tree.heads), default=0),
            "doubted": member.corrupt,
            "version": self.version.shown() if self.version is not None else None,
            "digest": self.digest,
            "root": self.root,
            "interval": member.interval,
            "nodes": self.nodes,
            "ready": self.ready,
            "error": error.shown() if error is not None else None,
            "dismissed": over or self.roster.is_dismissed(member),
            "closed": self.doubts.closed,
            "trouble": self.trouble,
            "doing": self.doing.shown() if self.doing is not None else None,
            "unknown": False,
        }

    def _doubted(self, member: Member) -> dict[str, object]:
        """Tell nothing of an image that may not be what the member's job means, but let one of the job find out."""
        upstream: dict[str, object] = {"kind": "wait", "node": "", "address": ""}
        if self.version is not None and self.doubts.asks(member, self.roster.members):
            upstream |= {"kind": "check", "version": self.version.shown()}
        return {
            "generation": self.generation,
            "upstream": upstream,
            "interval": member.interval,
            "nodes": self.nodes,
            "ready": self.ready,
            "elsewhere": self.doubts.elsewhere(member),
            "error": self.error.shown() if self.error is not None else None,
            "unknown": False,
        }

    def _upstream(self, member: Member, now: float) -> dict[str, object]:
        """Return whom the member is to pull from.

        Beside `origin` and `node` there are `wait` (nobody has what it needs yet: let go of what it has) and `keep`:
        the coordinator is new, and does not know yet whether what the member has is the best there is.
        """
        above = member.parent
        if self.error is None and above is not None:
            return {"kind": "node", "node": above.name, "address": above.address}
        if self.error is None and member.at_origin:
            return {"kind": "origin", "node": "", "address": ""}
        return {"kind": "keep" if self.roster.waits(now) else "wait", "node": "", "address": ""}


def _shown(member: Member) -> dict[str, object]:
    return {
        "node": member.name,
        "host": member.host,
        "state": member.state,
        "offset": member.offset,
        "rate": round(member.rate),
        "upstream": member.upstream,
        "since": member.since,
        "scope": member.scope,
        "order": member.order,
    }
