"""One copy for all nodes: where heads write it, what they leave to each other, and how it is known afterwards."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from stager.errors import StoreUnusable
from stager.images import recognise
from stager.interfaces import Validators
from stager.layout import Layout
from stager.reference import Digest, parse
from stager.shared import SharedStore
from stager.store import files, images
from tests.support.fake_clock import FakeClock
from tests.support.tasks import image

if TYPE_CHECKING:
    from pathlib import Path

    from stager.store.partial import Partial

CONTENT = image(70000)
DIGEST = Digest(sha256(CONTENT).hexdigest())


@pytest.fixture
def shared(tmp_path: Path) -> SharedStore:
    return SharedStore(Layout(str(tmp_path / "shared")), parse("https://origin/tool.sqsh"), FakeClock())


def fill(copy: Partial, length: int = len(CONTENT), *, private: bool = False) -> Partial:
    copy.begin(Validators('"1"', "", len(CONTENT)), len(CONTENT), "origin", private=private)
    copy.write(copy.segments[0], CONTENT[:length])
    return copy


def published(shared: SharedStore, copy: Partial) -> images.StagedImage:
    return shared.publish(copy, DIGEST, recognise(copy.fileno(), len(CONTENT)))


def test_what_a_head_left_the_next_one_goes_on_with(shared: SharedStore) -> None:
    first = fill(shared.copy(), 4096)
    first.leave()
    second = shared.copy()
    assert (second.position, second.validators.etag) == (4096, '"1"')
    second.discard()


def test_who_still_writes_keeps_its_copy(shared: SharedStore) -> None:
    first = fill(shared.copy(), 4096)
    second = shared.copy()
    assert second.held == 0
    assert first.folder != second.folder
    for copy in (first, second):
        copy.discard()


@pytest.mark.parametrize("private", [True, False])
def test_an_image_is_published_and_known(shared: SharedStore, private: bool) -> None:
    copy = fill(shared.copy(), private=private)
    staged = published(shared, copy)
    assert staged.private == private
    assert images.lookup(shared.layout, DIGEST) == staged
    with open(staged.path, "rb") as file:
        assert file.read() == CONTENT
    assert (os.stat(staged.path).st_mode & 0o044 == 0) == private
    seen = shared.seen()
    assert seen is not None
    assert (seen.digest, seen.etag, seen.size) == (DIGEST, '"1"', len(CONTENT))
    assert not os.path.exists(copy.folder), "nothing is left of the copy"


def test_what_is_about_to_be_published_is_safe_and_says_what_it_is(
    shared: SharedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that dies between the two leaves a copy that needs no second download, nor another look at the origin."""
    copy = fill(shared.copy())

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "publish", die)
    with pytest.raises(KeyboardInterrupt):
        published(shared, copy)
    state = files.read_record(f"{copy.folder}/state")
    assert state is not None
    assert state["digest"] == str(DIGEST)
    assert os.path.exists(f"{copy.folder}/durable"), "a power loss costs nothing"
    copy.discard()


def test_the_place_becomes_a_store(shared: SharedStore) -> None:
    shared.copy().discard()
    assert os.path.exists(f"{shared.layout.root}/CACHEDIR.TAG"), "backups leave it out, and nobody else's is taken"


def test_two_heads_publish_one_image(shared: SharedStore) -> None:
    """One that was taken for dead, and its successor."""
    copies = [fill(shared.copy()), fill(shared.copy())]
    first, second = (published(shared, copy) for copy in copies)
    assert first == second
    assert first.inode == os.stat(first.path).st_ino


def test_a_place_that_is_none_is_refused(shared: SharedStore) -> None:
    with open(shared.layout.root, "w") as file:
        file.write("not a directory")
    with pytest.raises((StoreUnusable, OSError)):
        shared.copy()
