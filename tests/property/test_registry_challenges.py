"""WWW-Authenticate: what is well-formed comes back, what is not never does harm."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.sources.registry.challenges import LONGEST, Challenge, best, parse

WORDS = st.text("abcdefghijklmnopqrstuvwxyz-_", min_size=1, max_size=8)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30)
CHALLENGES = st.lists(
    st.builds(Challenge, WORDS, st.dictionaries(WORDS, VALUES, min_size=1, max_size=5)), min_size=1, max_size=4
)


def written(challenges: list[Challenge], quote: str = '"') -> str:
    def value(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f"{quote}{escaped}{quote}"

    return ", ".join(
        f"{challenge.scheme} " + ", ".join(f"{name} = {value(text)}" for name, text in challenge.parameters.items())
        for challenge in challenges
    )


@given(CHALLENGES)
def test_what_is_written_is_read(challenges: list[Challenge]) -> None:
    assert parse(written(challenges)) == challenges


@given(st.text(max_size=300) | st.text('Bearer realm="\\,= ', max_size=300))
def test_anything_is_harmless(text: str) -> None:
    for challenge in parse(text):
        assert challenge.scheme == challenge.scheme.lower() != ""
        assert len(challenge.parameters) <= 16
    best(parse(text))


@pytest.mark.parametrize("piece", ["a", 'a="', 'a="\\', "a=b,", "a ", ",", '"', "\\"])
def test_long_ones_are_cut_and_quick(piece: str) -> None:
    begun = time.process_time()
    found = parse("Bearer " + piece * (1 << 20))
    assert time.process_time() - begun < 1
    assert len(found) <= 16
    assert all(len(value) <= LONGEST for challenge in found for value in challenge.parameters.values())


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", None),
        ("Negotiate", None),
        ("Bearer", None),
        ('Basic realm="x"', ("basic", "x")),
        ("BASIC", ("basic", None)),
        ('Basic realm="x", Bearer realm="https://t/",scope="a b"', ("bearer", "https://t/")),
        ("Bearer realm=https://t/token?x=1,service=s", ("bearer", "https://t/token?x=1")),
        ("Negotiate abc==, Basic realm=x", ("basic", "x")),
    ],
)
def test_the_best(text: str, chosen: tuple[str, str | None] | None) -> None:
    found = best(parse(text))
    assert (found and (found.scheme, found.parameters.get("realm"))) == chosen
