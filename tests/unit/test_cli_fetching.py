"""What is said of tries that failed."""

from __future__ import annotations

import pytest

from stager.cli.fetching import say_wait
from stager.errors import OriginUnavailable
from tests.support.fake_node import SilentTeller


@pytest.mark.parametrize(("seconds", "when"), [(0.0, "at once"), (0.4, "at once"), (0.7, "in 1 s"), (61.2, "in 61 s")])
def test_the_next_try_is_told_of_in_seconds_that_are_some(seconds: float, when: str) -> None:
    heard = SilentTeller()
    say_wait(heard, OriginUnavailable("cannot reach it"), seconds)
    assert heard.said == [f"cannot reach it; trying again {when}"]
