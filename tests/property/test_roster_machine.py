"""Members come, get on, die, break links, lie, and the origin fails: nobody waits for ever, and no law is broken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stager.coordinator import Coordinator
from stager.roster_messages import CHUNK
from tests.support.effort import effort

SIZE = 40 * CHUNK
STEP = 0.2
PATIENCE = 3000
"""Steps that an end may take: ten minutes, though an upstream is only tried again after half a minute."""

numbers = st.integers(0, 7)


@dataclass
class Fake:
    """A member as it is, whatever the coordinator believes."""

    name: str
    order: int
    offset: int = 0
    generation: int | None = None
    upstream: str | None = None
    alive: bool = True
    silent: float = 0.0
    slow: int = 1
    damaged: bool = False
    done: bool = False
    lost: str | None = None
    digest: str | None = None
    version: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    told: dict[str, Any] = field(default_factory=dict)
    joined: bool = False


class Cluster(RuleBasedStateMachine):
    """Every rule is something that nodes, links, origins or fate may do; the invariants are the laws."""

    origins = 1

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.members: dict[str, Fake] = {}
        self.cut: dict[tuple[str, str], str] = {}
        """Links that do not work (who cannot pull from whom), and how that shows."""
        self.version = 1
        self.bad_origin: dict[str, int] = {}
        """Members that the origin fails, and the exit code."""
        self.damaging: set[str] = set()
        self.accused: dict[str, set[str]] = {}
        self.born = 0
        self.ever_done: set[str] = set()
        self.appoint()

    def appoint(self) -> None:
        self.coordinator = Coordinator("0" * 32, "https://o/i", origins=self.origins, linger=5.0)

    # What happens

    @rule(number=numbers, held=st.sampled_from([0, 0, 0, SIZE // 2]))
    def join(self, number: int, held: int) -> None:
        if any(m.alive and m.order == number for m in self.members.values()):
            return
        self.born += 1
        fake = Fake(f"m{number}/{self.born}", number, offset=held)
        self.members[fake.name] = fake
        self._join(fake)

    @rule(steps=st.integers(1, 8))
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    @rule(data=st.data())
    @precondition(lambda self: self.living())
    def die(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.living())).alive = False

    @rule(data=st.data())
    @precondition(lambda self: self.living())
    def leave(self, data: st.DataObject) -> None:
        fake = data.draw(st.sampled_from(self.living()))
        fake.alive = False
        self.coordinator.answer("leave", {"node": fake.name}, self.now)

    @rule(data=st.data(), how=st.sampled_from(["silent", "refused", "reset"]))
    @precondition(lambda self: len(self.living()) > 1)
    def cut_link(self, data: st.DataObject, how: str) -> None:
        """One direction between two members stops working for good."""
        one = data.draw(st.sampled_from(self.living()))
        if one.told.get("upstream", {}).get("node"):
            self.cut[one.name, one.told["upstream"]["node"]] = how

    @rule(data=st.data())
    @precondition(lambda self: self.living())
    def slow_down(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.living())).slow = 10

    @rule(data=st.data())
    @precondition(lambda self: self.living() and not self.damaging)
    def rot(self, data: st.DataObject) -> None:
        """All that this member sends is damaged."""
        self.damaging.add(data.draw(st.sampled_from(self.living())).name)

    @rule(data=st.data(), code=st.sampled_from([68, 74]))
    @precondition(lambda self: len(self.living()) > 3 and not self.bad_origin)
    def fail_at_origin(self, data: st.DataObject, code: int) -> None:
        self.bad_origin[data.draw(st.sampled_from(self.living())).name] = code

    @rule()
    @precondition(lambda self: not self.ever_done and self.version < 4)
    def change_origin(self) -> None:
        self.version += 1

    @rule()
    def stop_for_a_while(self) -> None:
        """The coordinator gets no turn."""
        self.now += 5.0

    @rule()
    def lose_coordinator(self) -> None:
        self.appoint()
        self.accused.clear()

    # What holds

    @invariant()
    def no_cycles(self) -> None:
        for member in self.coordinator.roster.members.values():
            seen = {member}
            for above in member.ancestors():
                assert above not in seen
                seen.add(above)

    @invariant()
    def few_at_the_origin(self) -> None:
        members = self.coordinator.roster.members.values()
        assert sum(member.at_origin for member in members) <= self.origins

    @invariant()
    def few_children(self) -> None:
        tree = self.coordinator.roster.tree
        assert [m for m in tree.members.values() if len(m.children) > tree.fan + 1] == []

    @invariant()
    def links_are_known_on_both_ends(self) -> None:
        for member in self.coordinator.roster.members.values():
            assert all(child.parent is member for child in member.children)
            assert member.parent is None or member in member.parent.children
            assert not (member.parent is not None and member.at_origin)

    @invariant()
    def liars_feed_nobody(self) -> None:
        for name, accusers in self.accused.items():
            member = self.coordinator.roster.members.get(name)
            assert member is None or not member.children, accusers

    @invariant()
    def one_digest(self) -> None:
        assert len({fake.digest for fake in self.members.values() if fake.done}) <= 1

    def teardown(self) -> None:
        """Whatever happened: all that are left have the image in the end, or all know why not."""
        steps = 0
        while any(not fake.done for fake in self.living()) and steps < PATIENCE:
            self.step()
            steps += 1
        assert [fake for fake in self.living() if not fake.done] == []

    # How it is done

    def living(self) -> list[Fake]:
        return [fake for fake in self.members.values() if fake.alive and fake.error is None]

    def step(self) -> None:
        """Let STEP seconds pass: bytes move, everybody reports, the dead do not."""
        self.now += STEP
        self.coordinator.tick(self.now)
        for fake in sorted(self.living(), key=lambda fake: -fake.offset):
            self._move(fake)
        for fake in self.living():
            self._report(fake)

    def _move(self, fake: Fake) -> None:
        if fake.done or fake.upstream is None or fake.lost:
            return
        before = fake.offset
        if fake.upstream == "origin":
            fake.offset = min(SIZE, fake.offset + 2 * CHUNK // fake.slow)
            return
        above = self.members[fake.upstream]
        how = self.cut.get((fake.name, above.name)) or ("refused" if not above.alive else "")
        if how in {"refused", "reset"}:
            fake.lost = how
        elif above.name in self.damaging and above.offset > fake.offset:
            fake.lost = "corrupt"
        elif not how:
            fake.offset = min(max(above.offset, fake.offset), fake.offset + 2 * CHUNK // fake.slow)
        waits = not fake.done
        fake.silent = fake.silent + STEP if fake.offset == before and waits else 0.0

    def _report(self, fake: Fake) -> None:
        if not fake.joined:
            self._join(fake)
            return
        at_origin = fake.upstream == "origin"
        code = self.bad_origin.pop(fake.name, None) if at_origin else None
        if at_origin and fake.version is None:
            fake.version = self._described()
        if at_origin and fake.version != self._described() and fake.offset < SIZE:
            fake.version, fake.offset = self._described(), 0
        whole = fake.offset == SIZE
        if whole and fake.digest is not None:
            fake.done = True
            self.ever_done.add(fake.name)
        knows = at_origin and whole and fake.version is not None
        digest = f"{fake.version['etag']:0>64}" if knows and fake.version is not None else None
        answer = self.coordinator.answer(
            "report",
            {
                "node": fake.name,
                "generation": fake.generation,
                "offset": fake.offset,
                "silence": 0.0 if fake.done or at_origin else fake.silent,
                "upstream": fake.upstream,
                "lost": fake.lost,
                "state": "done" if fake.done else "receiving",
                "downstream": sum(other.upstream == fake.name for other in self.living()),
                "version": fake.version if at_origin else None,
                "digest": digest,
                "root": digest,
                "error": {"code": code, "message": "no", "hint": ""} if code else None,
            },
            self.now,
        )
        if fake.lost == "corrupt" and fake.upstream is not None and answer.get("generation") == fake.generation:
            self.accused.setdefault(fake.upstream, set()).add(fake.name)
        if code == 74:
            fake.error = {"code": code}
            fake.alive = False
        self._told(fake, answer)

    def _join(self, fake: Fake) -> None:
        fake.joined = True
        answer = self.coordinator.answer(
            "join",
            {
                "node": fake.name,
                "host": fake.name,
                "address": f"127.0.0.1:{fake.order + 1}",
                "order": fake.order,
                "scope": "job",
                "offset": fake.offset,
                "generation": fake.generation,
                "version": fake.version,
                "since": 0.0,
                "upstream": fake.upstream,
                "state": "done" if fake.done else "waiting",
                "digest": fake.digest,
                "root": fake.digest,
            },
            self.now,
        )
        self._told(fake, answer)

    def _told(self, fake: Fake, answer: dict[str, Any]) -> None:
        fake.told, fake.lost = answer, None
        if answer["unknown"]:
            fake.joined = False
            return
        fake.error = answer["error"]
        if fake.generation not in {None, answer["generation"]} and not fake.done:
            fake.offset, fake.version, fake.digest = 0, None, None
        fake.generation = answer["generation"]
        if not fake.done:
            fake.version, fake.digest = answer["version"] or fake.version, answer["digest"] and answer["root"]
        kind, node = answer["upstream"]["kind"], answer["upstream"]["node"]
        wanted = {"origin": "origin", "node": node, "wait": None, "keep": fake.upstream}[kind]
        if wanted != fake.upstream:
            fake.upstream, fake.silent = wanted, 0.0
        if fake.done and answer["dismissed"]:
            fake.alive = False
            self.coordinator.answer("leave", {"node": fake.name}, self.now)

    def _described(self) -> dict[str, Any]:
        return {"etag": str(self.version), "modified": "", "size": SIZE, "origin": "o", "private": False}


TestCluster = Cluster.TestCase
TestCluster.settings = effort(30, 30)
