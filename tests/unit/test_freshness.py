"""Asking the origin whether it still has a version: the answer, and what becomes of each way not to get one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from stager.errors import AccessDenied, NotFound, OriginStalled, OriginUnavailable, StageImageError
from stager.freshness import Freshness
from stager.interfaces import Validators

if TYPE_CHECKING:
    from stager.task import Task

VERSION = {"etag": '"1"', "modified": "", "size": 7, "origin": "origin", "private": False}


class Asked:
    """Stands for a task and its download: says `answer`, or raises it."""

    copy = None

    def __init__(self, answer: bool | Exception, *, offline: bool = False) -> None:
        self.answer = answer
        self.offline = offline
        self.versions: list[Validators] = []

    def download(self, _copy: object) -> Asked:
        return self

    def is_current(self, version: Validators) -> bool:
        self.versions.append(version)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def ask(asked: Asked, version: dict[str, Any] = VERSION) -> Freshness:
    """Return what has been found out, once it says that it has."""
    wake = threading.Event()
    freshness = Freshness(cast("Task", asked), version, wake)
    freshness.start()
    assert wake.wait(20)
    freshness.join(20)
    return freshness


@pytest.mark.parametrize("answer", [True, False])
def test_the_origin_has_the_last_word(answer: bool) -> None:
    asked = Asked(answer)
    freshness = ask(asked)
    assert (freshness.fresh, freshness.error) == (answer, None)
    assert asked.versions == [Validators('"1"', "", 7)]


def test_what_nothing_tells_from_another_version_is_not_asked_about() -> None:
    asked = Asked(True)
    assert ask(asked, {**VERSION, "etag": ""}).fresh is False
    assert asked.versions == []


@pytest.mark.parametrize("error", [OriginUnavailable("away"), OriginStalled("silent")])
def test_an_origin_that_cannot_be_asked_is_no_obstacle_unless_it_shall_be(error: StageImageError) -> None:
    assert ask(Asked(error, offline=True)).fresh is True
    kept = ask(Asked(error))
    assert (kept.fresh, kept.error) == (None, error)


@pytest.mark.parametrize("error", [NotFound("gone"), AccessDenied("no")])
def test_what_the_origin_says_of_the_reference_counts(error: StageImageError) -> None:
    for offline in (True, False):
        freshness = ask(Asked(error, offline=offline))
        assert (freshness.fresh, freshness.error) == (None, error)


def test_nothing_that_goes_wrong_is_lost_in_the_thread() -> None:
    error = ask(Asked(ZeroDivisionError("oops"))).error
    assert error is not None
    assert "a bug in the relay: ZeroDivisionError: oops" in error.message
