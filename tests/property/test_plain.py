"""What stager.plain makes behaves as what the standard library makes of the same words."""

# ruff: noqa: ANN401 - classes are made here that nobody has written down

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager import plain
from tests.support.effort import effort

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = ("a", "b", "c", "d")
VALUES = st.one_of(st.integers(0, 3), st.text(max_size=2), st.lists(st.integers(0, 1), max_size=2))

# A field without a default, with one, or with one that is made.
DEFAULTS = st.sampled_from(["none", "value", "made", "hidden", "apart"])


@st.composite
def classes(draw: st.DrawFn) -> tuple[Any, Any]:
    """Return the same class, with a base class, made by both."""
    options: dict[str, Any] = {"frozen": draw(st.booleans()), "kw_only": draw(st.booleans())}
    kinds = draw(st.lists(DEFAULTS, max_size=len(NAMES)))
    if not options["kw_only"]:
        kinds.sort(key=lambda kind: kind != "none")  # else the standard library refuses the class
    cut = draw(st.integers(0, len(kinds)))
    return _class(dataclasses, kinds, cut, options), _class(plain, kinds, cut, options)


def _class(module: Any, kinds: list[str], cut: int, options: dict[str, Any]) -> Any:
    rows = list(zip(NAMES, kinds, strict=False))
    base = _decorated(module, "Base", (), rows[:cut], options)
    return _decorated(module, "Made", (base,), rows[cut:], options)


def _decorated(module: Any, name: str, bases: Any, rows: list[tuple[str, str]], options: dict[str, Any]) -> Any:
    fields: dict[str, Callable[[], Any]] = {
        "value": lambda: 7,
        "made": lambda: module.field(default_factory=list),
        "hidden": lambda: module.field(default=1, repr=False),
        "apart": lambda: module.field(default=2, compare=False),
    }
    body = {name: fields[kind]() for name, kind in rows if kind != "none"}
    body |= {"__annotations__": dict.fromkeys((name for name, _ in rows), object), "__module__": __name__}
    return module.dataclass(**options)(type(name, bases, {**body, "__qualname__": name}))


CALLS = st.tuples(st.lists(VALUES, max_size=5), st.dictionaries(st.sampled_from([*NAMES, "e"]), VALUES, max_size=4))


def outcome(action: Any, *values: Any, **given: Any) -> tuple[str, Any]:
    try:
        return "", action(*values, **given)
    except (TypeError, AttributeError) as error:
        return type(error).__name__, None


@given(classes(), CALLS, CALLS)
@effort(60)
def test_it_does_what_the_original_does(pair: tuple[Any, Any], one: Any, other: Any) -> None:
    made = [[outcome(cls, *values, **given) for values, given in (one, other)] for cls in pair]
    assert [word for word, _ in made[0]] == [word for word, _ in made[1]]
    theirs, ours = ([found for word, found in each if not word] for each in made)
    assert list(map(repr, theirs)) == list(map(repr, ours))
    assert [a == b for a in theirs for b in theirs] == [a == b for a in ours for b in ours]
    for a, b in zip(theirs, ours, strict=True):
        assert outcome(hash, a) == outcome(hash, b)
        assert dataclasses.asdict(a) == dataclasses.asdict(b) == plain.asdict(b)
        assert a != b
        changes = outcome(setattr, a, "a", 5), outcome(setattr, b, "a", 5)
        assert changes[0] == changes[1]
        assert outcome(delattr, a, "z")[0] == outcome(delattr, b, "z")[0]


@given(classes(), CALLS, st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2))
@effort(40)
def test_a_changed_one_is_another(pair: tuple[Any, Any], call: Any, changes: dict[str, Any]) -> None:
    values, given = call
    (word, theirs), (_, ours) = (outcome(cls, *values, **given) for cls in pair)
    if not word:
        expected = outcome(dataclasses.replace, theirs, **changes)
        found = outcome(plain.replace, ours, **changes), outcome(dataclasses.replace, ours, **changes)
        assert repr(expected) == repr(found[0]) == repr(found[1])
        assert repr(theirs) == repr(ours)


def test_what_a_class_says_itself_counts() -> None:
    @plain.dataclass(frozen=True)
    class Own:
        a: int

        def __post_init__(self) -> None:
            if self.a < 0:
                raise ValueError("negative")

        def __repr__(self) -> str:
            return "Own"

    assert repr(Own(1)) == "Own"
    assert Own(1) == Own(1)
    with pytest.raises(ValueError, match="negative"):
        Own(-1)
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"Own\.a"):
        Own(1).a = 2  # type: ignore[misc]


def test_metadata_is_kept() -> None:
    @plain.dataclass
    class Told:
        a: int = plain.field(default=1, metadata={"doc": "what it is"})

    assert [field.metadata["doc"] for field in plain.fields(Told)] == ["what it is"]
    assert [field.metadata["doc"] for field in dataclasses.fields(Told)] == ["what it is"]
