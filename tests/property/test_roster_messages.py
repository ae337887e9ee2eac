"""Whatever comes in, something comes out: an answer that JSON can carry, and never an exception."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stager.coordinator import Coordinator
from tests.support.effort import effort

GOOD: dict[str, Any] = {
    "node": "n1",
    "host": "n1",
    "address": "10.0.0.1:80",
    "order": 3,
    "scope": "job",
    "offset": 0,
    "generation": 1,
    "version": {"etag": "1", "modified": "", "size": 100, "origin": "o", "private": False},
    "since": 1.0,
    "silence": 0.0,
    "upstream": "origin",
    "lost": None,
    "state": "receiving",
    "downstream": 0,
    "digest": "ab" * 32,
    "root": "ab" * 32,
    "error": {"code": 68, "message": "no", "hint": ""},
}

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
changed = st.dictionaries(st.sampled_from(sorted(GOOD)), junk, max_size=3).map(lambda bad: {**GOOD, **bad})
names = st.sampled_from(["n1", "n2", "n3"])
verbs = st.sampled_from(["join", "report", "leave", "status", "nonsense"])
messages = st.tuples(verbs, changed | st.builds(lambda name, made: {**made, "node": name}, names, changed))


@effort(60)
@given(st.lists(messages, max_size=12))
def test_every_message_has_an_answer(said: list[tuple[str, dict[str, Any]]]) -> None:
    coordinator = Coordinator("0" * 32, "https://o/i")
    for number, (verb, message) in enumerate(said):
        answer = coordinator.answer(verb, message, number * 0.3)
        assert json.loads(json.dumps(answer, allow_nan=False)) == answer
        coordinator.is_over(number * 0.3)
