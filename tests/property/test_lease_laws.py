"""Leases: a name says it all, the dead hold nothing, and nobody loses another's."""

from __future__ import annotations

import os
import string
import tempfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stager import lease
from stager.lease import Lease
from stager.process import ProcessIdentity
from tests.property.strategies import hostile_text
from tests.support.effort import effort
from tests.support.fake_node import Processes

if TYPE_CHECKING:
    from collections.abc import Iterator

scopes = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=20)
boots = st.text("0123456789abcdef", min_size=8, max_size=8)
identities = st.builds(ProcessIdentity, st.integers(0, 2**31), st.integers(0, 2**63), boots)


@given(scopes, identities)
@effort(20)
def test_a_lease_is_its_name(scope: str, holder: ProcessIdentity) -> None:
    again = Lease.parse(str(Lease(scope, holder)))
    assert again is not None
    assert (again.scope, again.holder) == (scope, holder)


@given(hostile_text | st.builds("{}@{}".format, scopes, hostile_text))
@effort(25)
def test_no_name_is_too_hostile_to_parse(name: str) -> None:
    found = Lease.parse(name)
    assert found is None or Lease.parse(str(found)) is not None


class Leases(RuleBasedStateMachine):
    """Jobs that lease one image, end, die, and litter."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.processes = Processes()
        self.processes.install(self.patch)
        self.base = tempfile.TemporaryDirectory()
        self.folder = f"{self.base.name}/leases/image"
        self.held: set[tuple[str, ProcessIdentity]] = set()

    def teardown(self) -> None:
        self.patch.undo()
        self.base.cleanup()

    @rule(scope=st.sampled_from("abc"))
    def acquire(self, scope: str) -> None:
        holder = self.processes.start()
        for _ in range(2):  # twice is once
            lease.acquire(self.folder, Lease(scope, holder))
        self.held.add((scope, holder))

    @rule(scope=st.sampled_from("abc"))
    def release(self, scope: str) -> None:
        mine = {entry for entry in self.held if entry[0] == scope}
        assert lease.release(self.folder, scope) >= len(mine)
        self.held -= mine

    @rule(data=st.data())
    @precondition(lambda self: self.held)
    def die(self, data: st.DataObject) -> None:
        _, holder = victim = data.draw(st.sampled_from(sorted(self.held, key=str)))
        self.processes.kill(holder)
        self.held.discard(victim)

    @rule(name=hostile_text.filter(lambda t: t not in (".", "..") and "/" not in t and "\0" not in t and t))
    def litter(self, name: str) -> None:
        try:
            encoded = os.fsencode(name)[:255]
            os.makedirs(self.folder, exist_ok=True)
            os.close(os.open(os.fsencode(self.folder) + b"/" + encoded, os.O_CREAT | os.O_WRONLY))
        except (OSError, UnicodeEncodeError):
            return

    @invariant()
    def only_the_living_hold(self) -> None:
        assert {(one.scope, one.holder) for one in lease.survey(self.folder)[0]} == self.held

    @rule()
    def look(self) -> None:
        assert {(one.scope, one.holder) for one in lease.living(self.folder)} == self.held
        lease.collect(self.folder)
        assert set(self._names()) == {str(Lease(*entry)) for entry in self.held}

    def _names(self) -> Iterator[str]:
        return iter(os.listdir(self.folder) if os.path.isdir(self.folder) else [])


Leases.TestCase.settings = effort(6, steps=20)
TestLeases = Leases.TestCase
