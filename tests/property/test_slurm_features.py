"""Laws of telling Slurm about images: others keep what is theirs, what is told is what is held, once is enough."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from stager.reference import Digest
from stager.schedulers import features, scontrol
from tests.property.strategies import hostile_text
from tests.support import slurm_texts

PREFIX = "img_"
DIGESTS = [Digest(f"{number:02x}" * 32) for number in range(6)]
OURS = [features.feature(digest, PREFIX) for digest in DIGESTS]
FOREIGN = ["gpu", "ib", "img_viewer", "img_", "img_0000000000000", "IMG_000000000000", "knl/flat"]

held = st.lists(st.sampled_from(DIGESTS), unique=True)
foreign = st.lists(st.sampled_from(FOREIGN), unique=True)
told = st.lists(st.sampled_from([*FOREIGN, *OURS]), unique=True)


@st.composite
def known(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """What Slurm has: available features in any order, of which some are active."""
    available = draw(told)
    return available, [name for name in available if draw(st.booleans())]


def ours(names: tuple[str, ...] | list[str]) -> list[str]:
    return [name for name in names if name in OURS]


def others(names: tuple[str, ...] | list[str]) -> list[str]:
    return [name for name in names if name not in OURS]


def applied(change: features.Change, available: list[str], active: list[str]) -> tuple[list[str], list[str]]:
    """Do what Slurm does with each update; it refuses active features that are not available, at every step."""
    for settings in change.updates:
        new = dict(word.split("=", 1) for word in settings)
        available = [name for name in new.get("AvailableFeatures", ",".join(available)).split(",") if name]
        active = [name for name in new["ActiveFeatures"].split(",") if name]
        assert set(active) <= set(available), "Slurm would refuse"
    return available, active


@given(held, known())
def test_what_is_told_is_what_is_held(images: list[Digest], state: tuple[list[str], list[str]]) -> None:
    change = features.change(images, *state, PREFIX)
    available, active = applied(change, *state) if change else state
    wanted = sorted(features.feature(digest, PREFIX) for digest in images)
    assert sorted(ours(available)) == sorted(ours(active)) == wanted


@given(held, known())
def test_others_keep_what_is_theirs_in_order(images: list[Digest], state: tuple[list[str], list[str]]) -> None:
    change = features.change(images, *state, PREFIX)
    if change:
        for before, after in zip(state, (change.available, change.active), strict=True):
            assert others(after) == others(before)


@given(held, known())
def test_once_is_enough(images: list[Digest], state: tuple[list[str], list[str]]) -> None:
    change = features.change(images, *state, PREFIX)
    if change:
        assert features.change(images, change.available, change.active, PREFIX) is None


@given(held, known())
def test_no_active_feature_is_taken_from_the_available_ones(
    images: list[Digest], state: tuple[list[str], list[str]]
) -> None:
    change = features.change(images, *state, PREFIX)
    active = state[1]
    for settings in change.updates if change else ():
        new = dict(word.split("=", 1) for word in settings)
        if "AvailableFeatures" in new:
            assert set(active) <= set(new["AvailableFeatures"].split(",")), "scontrol(1) wants it inactive first"
        active = [name for name in new["ActiveFeatures"].split(",") if name]


@given(held, known())
def test_what_it_says_has_changed_has_changed(images: list[Digest], state: tuple[list[str], list[str]]) -> None:
    change = features.change(images, *state, PREFIX)
    if change:
        before, after = set(ours([*state[0], *state[1]])), set(ours(change.available))
        assert set(change.removed) == before - after
        assert set(change.added) == set(ours(change.active)) - set(state[1])


members = st.dictionaries(
    st.sampled_from([*FOREIGN, *OURS]) | st.text(max_size=4), st.booleans() | st.integers() | st.text(max_size=4)
)


@given(held, members)
def test_extra_has_the_images_and_the_members_of_others(images: list[Digest], before: dict[str, object]) -> None:
    text = json.dumps(before)
    new = features.merged(images, text, PREFIX)
    after = before if new is None else json.loads(new) if new else {}
    assert {name: value for name, value in after.items() if name in OURS} == {
        features.feature(digest, PREFIX): True for digest in images
    }
    assert {k: v for k, v in after.items() if k not in OURS} == {k: v for k, v in before.items() if k not in OURS}
    assert features.merged(images, json.dumps(after) if after else "", PREFIX) is None


@given(held, hostile_text)
def test_extra_that_is_no_object_is_left_alone(images: list[Digest], text: str) -> None:
    try:
        is_object = isinstance(json.loads(text), dict)
    except ValueError:
        is_object = not text.strip()
    if not is_object:
        assert features.merged(images, text, PREFIX) is None


@given(known(), st.text(st.characters(exclude_characters="\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"), max_size=40))
def test_no_comment_is_taken_for_a_feature(state: tuple[list[str], list[str]], comment: str) -> None:
    shown = slurm_texts.node(",".join(state[0]), ",".join(state[1]) or "(null)")
    read = scontrol.read_node(shown.replace("Comment=hi", f"Comment={comment}"))
    assert (list(read.available), list(read.active), read.extra) == (state[0], state[1], "")
