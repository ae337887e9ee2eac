"""Which version of an image is spoken of, as it goes around."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stager import versions
from stager.interfaces import Validators
from stager.store.partial import Partial

if TYPE_CHECKING:
    from pathlib import Path

TAG = Validators('"1"', "Mon", 7)


def copy_of(folder: Path, version: Validators, *, private: bool = False) -> Partial:
    copy = Partial(str(folder / "copy"))
    copy.begin(version, version.size, "origin", private=private)
    return copy


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (TAG, TAG, True),
        (TAG, Validators('"1"', "Mon"), True),
        (Validators('"1"', "Mon"), TAG, True),
        (Validators('"1"', "Mon"), Validators('"1"', "Mon"), True),
        (TAG, Validators('"1"', "Mon", 8), False),
        (TAG, Validators('"2"', "Mon", 7), False),
        (TAG, Validators('"1"', "Tue", 7), False),
        (TAG, Validators("", "", 7), False),
    ],
)
def test_a_size_that_is_not_known_yet_makes_no_difference(
    tmp_path: Path, ours: Validators, theirs: Validators, same: bool
) -> None:
    copy = copy_of(tmp_path, ours)
    assert versions.same(copy, theirs) == same
    copy.close()


@pytest.mark.parametrize("size", [None, 0, 1 << 40])
@pytest.mark.parametrize("private", [True, False])
def test_what_a_copy_is_of_arrives_as_it_was_sent(tmp_path: Path, size: int | None, private: bool) -> None:
    version = Validators('"ä"', "Mon", size)
    copy = copy_of(tmp_path, version, private=private)
    told = versions.of_copy(copy)
    assert versions.validators_of(told) == version
    assert (told["origin"], told["private"]) == ("origin", private)
    copy.close()


def test_a_size_that_becomes_known_is_told(tmp_path: Path) -> None:
    copy = copy_of(tmp_path, Validators('"1"'))
    copy.write(copy.segments[0], b"12345")
    assert versions.of_copy(copy)["size"] is None
    copy.finish()
    assert versions.of_copy(copy)["size"] == 5
    copy.close()


@pytest.mark.parametrize("size", [-1, "7", 7.0, [], {}])
def test_a_size_that_is_none_is_not_believed(size: object) -> None:
    assert versions.validators_of({"etag": "", "modified": "", "size": size}).size is None


def test_what_is_missing_is_empty() -> None:
    assert versions.validators_of({}) == versions.validators_of({"etag": None, "modified": None}) == Validators()
