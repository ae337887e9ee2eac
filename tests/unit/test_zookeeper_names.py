from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stager.election import names
from stager.election.names import BUCKETS, MAX_COMPONENT, Tree, component, original, parent
from stager.errors import ConfigError
from tests.support.effort import effort

texts = st.text(st.characters(), min_size=1, max_size=20) | st.text("./%-_~:2E", min_size=1, max_size=6)


@effort(60)
@given(text=texts)
def test_a_component_is_one_and_can_be_read_back(text: str) -> None:
    encoded = component(text)
    assert original(encoded) == text
    assert encoded.isascii()
    assert encoded.isprintable()
    assert not {"/", "\0", " "} & set(encoded)
    assert encoded not in (".", "..")


@effort(60)
@given(one=texts, other=texts)
def test_no_two_texts_share_a_component(one: str, other: str) -> None:
    assert (component(one) == component(other)) == (one == other)


@effort(60)
@given(name=texts, owner=texts, word=texts, key=texts)
def test_every_path_is_below_the_owners_own(name: str, owner: str, word: str, key: str) -> None:
    tree = Tree(name, owner)
    assert tree.root.count("/") == 3
    for path in (tree.staging(word), tree.node(word), tree.scope(word), tree.pin(word, key)):
        assert path.startswith(f"{tree.root}/")
        assert all(part not in ("", ".", "..") for part in path.split("/")[1:])
        assert not tree.is_shared(path)
    assert tree.pin(word, key) == f"{tree.scope(word)}/{component(key)}"
    assert parent(parent(tree.scope(word))) == tree.pins


def test_what_users_share_ends_where_one_begins() -> None:
    tree = Tree("c", "uid-1")
    paths = ["/stage-image", "/stage-image/c", "/stage-image/c/uid-1", "/stage-image/c/uid-1/stagings"]
    assert [tree.is_shared(path) for path in paths] == [True, True, False, False]
    assert tree.is_shared("/stage-image/c/uid-10")


def test_jobs_are_spread() -> None:
    tree = Tree("c", "site")
    buckets = {parent(tree.scope(f"slurm-{number}")).rpartition("/")[2] for number in range(3000)}
    assert buckets == set(BUCKETS)


@pytest.mark.parametrize("text", ["", "x" * (MAX_COMPONENT + 1), "/" * 100])
def test_what_cannot_be_a_name(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a name in ZooKeeper"):
        component(text)
    with pytest.raises(ConfigError):
        Tree(text, "site")
    with pytest.raises(ConfigError):
        Tree("c", text)


def test_parents() -> None:
    assert (parent("/a/b"), parent("/a")) == ("/a", "")
    assert names.TOP == "/stage-image"
