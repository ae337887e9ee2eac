"""What a coordinator says is understood, whatever it has been through; what anybody else says is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager import orders
from stager.coordinator import Coordinator
from stager.orders import KINDS, NotUnderstood, Orders
from tests.support.effort import effort

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
VERSION = {"etag": '"1"', "modified": "", "size": 7, "origin": "origin", "private": True}
GOOD: dict[str, Any] = {
    "generation": 3,
    "upstream": {"kind": "node", "node": "n1", "address": "10.0.0.1:1"},
    "ahead": 7,
    "furthest": 9,
    "version": VERSION,
    "digest": "ab" * 32,
    "root": "cd" * 32,
    "interval": 0.5,
    "nodes": 4,
    "ready": 2,
    "error": {"code": 66, "message": "no", "hint": "look"},
    "trouble": "slow",
    "dismissed": True,
    "elsewhere": True,
    "closed": True,
    "doubted": True,
    "unknown": False,
}
NAMES = sorted({*GOOD, "upstream.kind", "upstream.node", "upstream.address", "upstream.version", "version.size"})


def changed(name: str, value: object) -> dict[str, Any]:
    """Return a good answer with one thing in it replaced."""
    table, _, inner = name.partition(".")
    return {**GOOD, table: {**GOOD[table], inner: value} if inner else value}


def test_everything_is_taken_in() -> None:
    told = orders.read(GOOD)
    assert told == Orders(
        generation=3,
        kind="node",
        node="n1",
        address="10.0.0.1:1",
        version=VERSION,
        digest="ab" * 32,
        root="cd" * 32,
        furthest=9,
        interval=0.5,
        nodes=4,
        ready=2,
        error={"code": 66, "message": "no", "hint": "look"},
        trouble="slow",
        dismissed=True,
        elsewhere=True,
        closed=True,
        doubted=True,
    )


def test_who_is_not_known_is_told_nothing_else() -> None:
    assert orders.read({"unknown": True, "generation": "x"}) == Orders(unknown=True)


def test_what_is_not_said_is_nothing() -> None:
    assert orders.read({}) == Orders(unknown=False)
    assert not Orders().unknown


@pytest.mark.parametrize("interval", [-5, 0, 0.001, 1e6])
def test_reports_are_neither_a_flood_nor_forgotten(interval: float) -> None:
    told = orders.read({**GOOD, "interval": interval})
    assert orders.SHORTEST <= told.interval <= orders.LONGEST


@effort(200)
@given(st.sampled_from(NAMES), JSON)
def test_any_other_value_is_understood_or_refused(name: str, value: object) -> None:
    try:
        told = orders.read(changed(name, value))
    except NotUnderstood:
        return
    _is_sound(told)


@effort(50)
@given(st.dictionaries(st.sampled_from(sorted(GOOD)), JSON))
def test_so_is_any_other_answer(answer: dict[str, Any]) -> None:
    try:
        _is_sound(orders.read(answer))
    except NotUnderstood:
        return


def _is_sound(told: Orders) -> None:
    assert told.kind in KINDS
    assert told.generation >= 1
    assert orders.SHORTEST <= told.interval <= orders.LONGEST
    for digest in (told.digest, told.root):
        assert digest is None or len(bytes.fromhex(digest)) == 32
    for version in (told.version, told.asked or None):
        assert version is None or (isinstance(version["private"], bool) and isinstance(version["etag"], str))
        assert version is None or version["size"] is None or version["size"] >= 0
    assert told.error is None or (isinstance(told.error["message"], str) and 0 < told.error["code"] < 256)
    assert min(told.nodes, told.ready, told.furthest) >= 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("generation", "3"),
        ("generation", 0),
        ("generation", True),
        ("interval", float("nan")),
        ("interval", 1e400),
        ("upstream", []),
        ("upstream.kind", "elsewhere"),
        ("upstream.address", 5),
        ("version", "1"),
        ("version.size", -1),
        ("version.private", None),
        ("version.private", 1),
        ("digest", "AB" * 32),
        ("root", "ab"),
        ("error", "boom"),
        ("trouble", "x" * 100_000),
        ("ready", -1),
        ("doing", "pulling"),
        ("doing", {"phase": "a\nholder 1", "done": 0, "total": 0}),
        ("doing", {"phase": "pulling", "done": -1, "total": 0}),
    ],
)
def test_what_no_coordinator_says_is_refused(name: str, value: object) -> None:
    with pytest.raises(NotUnderstood):
        orders.read(changed(name, value))


WORDS = st.fixed_dictionaries(
    {
        "verb": st.sampled_from(["join", "report", "leave"]),
        "node": st.sampled_from(["n0", "n1", "n2"]),
        "offset": st.integers(0, 9),
        "generation": st.integers(1, 3),
        "state": st.sampled_from(["waiting", "receiving", "verifying", "done", "failed"]),
        "version": st.sampled_from([None, VERSION, {**VERSION, "etag": '"2"', "size": None}]),
        "digest": st.sampled_from([None, "ab" * 32]),
        "error": st.sampled_from([None, {"code": 68, "message": "m", "hint": ""}, GOOD["error"]]),
        "scope": st.sampled_from(["", "job"]),
        "fresh": st.sampled_from([None, True, False]),
        "doing": st.sampled_from([None, {"phase": "pulling 3/8 layers of", "done": 5, "total": 9}]),
    }
)


@effort(50)
@given(st.lists(WORDS, max_size=12))
def test_every_answer_of_a_coordinator_is_understood(story: list[dict[str, Any]]) -> None:
    coordinator = Coordinator("0" * 32, "https://origin/tool.sif", own="n0")
    for second, words in enumerate(story):
        message = {"host": "h", "address": "10.0.0.1:1", "order": None, "since": 1.0, "silence": 0.0, "upstream": None}
        message |= {"lost": None, "downstream": 0, "root": words["digest"], **words}
        answer = coordinator.answer(words["verb"], message, 100.0 + second)
        told = orders.read(json.loads(json.dumps(answer)))
        _is_sound(told)
        if not told.unknown and words["verb"] != "leave":
            assert answer["upstream"]["kind"] in KINDS  # type: ignore[index]
