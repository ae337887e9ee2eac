"""Claims in doubt, with connections that are lost at every possible moment."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.election.claims import Claims
from stager.errors import ClusterUnavailable
from tests.support.effort import effort

if TYPE_CHECKING:
    from collections.abc import Callable

    from stager.election.records import Records
    from stager.election.session import Session

OURS = 7
THEIRS = 8
PATH = "/p"


class Answer:
    """kazoo's promise, kept at once or broken."""

    def __init__(self, value: object, *, lost: bool) -> None:
        self.value, self._lost = value, lost

    def successful(self) -> bool:
        return not self._lost

    def rawlink(self, then: Callable[[Answer], None]) -> None:
        then(self)


class Server:
    """One znode, a session that lives, and a connection of which `fate` tells request by request what becomes.

    `done`: answered. `mute`: done, and the answer lost. `lost`: neither.
    """

    def __init__(self, fate: list[str], holder: int = 0) -> None:
        self.holder = holder
        self.expired = self.interrupted = 0
        self.identity = OURS
        self.sure = True
        self._fate = fate

    def create(self, path: str, record: bytes, *, ephemeral: bool) -> bool:
        assert ephemeral
        return cast("bool", self._attempt(self._create))

    def ask(self, path: str, request: Callable[[Any], Any]) -> object:
        answer = request(self)
        if not answer.successful():
            self.interrupted += 1
            raise ClusterUnavailable("gone")
        return answer.value

    def post(self, request: Callable[[Any], Any]) -> Answer:
        return cast("Answer", request(self))

    def exists_async(self, path: str) -> Answer:
        stat = SimpleNamespace(ephemeralOwner=self.holder) if self.holder else None
        return Answer(stat, lost=self._next() != "done")

    def delete_async(self, path: str) -> Answer:
        fate = self._next()
        if fate != "lost":
            assert self.holder in (OURS, 0), "removed what is somebody else's"
            self.holder = 0
        return Answer(None, lost=fate != "done")

    def holder_of(self, path: str) -> int:
        return cast("int", self._attempt(lambda: self.holder))

    def _create(self) -> bool:
        won = self.holder == 0
        self.holder = self.holder or OURS
        return won

    def _attempt(self, act: Callable[[], object]) -> object:
        fate = self._next()
        result = act() if fate != "lost" else None
        if fate != "done":
            self.interrupted += 1
            raise ClusterUnavailable("gone")
        return result

    def _next(self) -> str:
        return self._fate.pop(0) if self._fate else "done"


def claims_at(server: Server) -> Claims:
    records = SimpleNamespace(create=server.create, holder=server.holder_of)
    return Claims(cast("Session", server), cast("Records", records))


fates = st.lists(st.sampled_from(["done", "mute", "lost"]), max_size=8)


@effort(150)
@given(fate=fates)
def test_whoever_does_not_know_to_lead_leaves_no_claim(fate: list[str]) -> None:
    server = Server(list(fate))
    claims = claims_at(server)
    try:
        knows = claims.claim(PATH, b"")
    except ClusterUnavailable:
        knows = False
    for _ in range(len(fate) + 1):
        claims.settle()
    assert (server.holder == OURS) == knows == claims.holds(PATH)


@effort(150)
@given(fate=fates)
def test_who_resigns_has_resigned_in_the_end(fate: list[str]) -> None:
    server = Server(["done"])
    claims = claims_at(server)
    assert claims.claim(PATH, b"")
    server._fate = list(fate)
    with suppress(ClusterUnavailable):
        claims.give_up(PATH)
    assert not claims.holds(PATH)
    for _ in range(len(fate) + 1):
        claims.settle()
    assert server.holder == 0


@effort(100)
@given(fate=fates)
def test_what_is_anothers_is_let_alone(fate: list[str]) -> None:
    server = Server(list(fate), holder=THEIRS)
    claims = claims_at(server)
    try:
        assert not claims.claim(PATH, b"")
        claims.give_up(PATH)
    except ClusterUnavailable:
        pass
    for _ in range(len(fate) + 1):
        claims.settle()
    assert server.holder == THEIRS
    assert not claims.holds(PATH)


@effort(100)
@given(fate=fates, tries=st.integers(1, 5))
def test_claiming_again_settles_a_doubt(fate: list[str], tries: int) -> None:
    server = Server(list(fate))
    claims = claims_at(server)
    for _ in range(len(fate) + tries):
        try:
            assert claims.claim(PATH, b"")
        except ClusterUnavailable:
            continue
        break
    assert claims.holds(PATH)
    claims.settle()
    assert server.holder == OURS


def test_an_expired_session_takes_its_claims_along() -> None:
    server = Server([])
    claims = claims_at(server)
    assert claims.claim(PATH, b"")
    server.expired += 1
    server.holder = THEIRS
    assert not claims.holds(PATH)
    claims.give_up(PATH)
    assert server.holder == THEIRS


def test_a_session_in_doubt_holds_nothing() -> None:
    server = Server([])
    claims = claims_at(server)
    assert claims.claim(PATH, b"")
    server.sure = False
    assert not claims.holds(PATH)
    server.sure = True
    assert claims.holds(PATH)
    claims.forget()
    assert not claims.holds(PATH)


def test_a_lost_answer_is_asked_for_by_whose_it_is() -> None:
    server = Server([])
    claims = claims_at(server)
    create = server.create

    def twice(path: str, record: bytes, *, ephemeral: bool) -> bool:
        create(path, record, ephemeral=ephemeral)
        server.interrupted += 1  # as Session does with each reconnection on the way
        return create(path, record, ephemeral=ephemeral)

    records = SimpleNamespace(create=twice, holder=server.holder_of)
    claims = Claims(cast("Session", server), cast("Records", records))
    assert claims.claim(PATH, b"")
    with pytest.raises(AssertionError):
        assert not claims.holds(PATH)
