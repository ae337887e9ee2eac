"""Scenarios side by side: most of the time of each is spent waiting, for links with a rate or for a time to be over.

In a module of tests:

    scenarios = Scenarios()

    @scenarios
    def the_head_dies(folder: Path) -> None: ...

    outcomes = scenarios.fixture()

    @pytest.mark.parametrize("scenario", scenarios.names)
    def test_scenario(scenario: str, outcomes: Outcomes) -> None:
        outcomes[scenario].result()
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Outcomes = dict[str, "Future[None]"]

AT_ONCE = 3
"""With nodes that take half a second of CPU each to begin, more would keep two cores busy, and faults be taken for
others."""


class Scenarios:
    """What a module's tests are to try, by name; called with a function, adds it."""

    def __init__(self) -> None:
        self._all: dict[str, Callable[[Path], None]] = {}

    @property
    def names(self) -> list[str]:
        return list(self._all)

    def __call__(self, function: Callable[[Path], None]) -> Callable[[Path], None]:
        self._all[function.__name__] = function
        return function

    def add(self, function: Callable[..., None], *values: object) -> None:
        """Add a function that takes values before its folder."""
        name = "-".join([function.__name__, *map(str, values)])
        self._all[name] = partial(function, *values)

    def fixture(self) -> Any:  # noqa: ANN401 - what pytest makes of a function has no public name
        """Return a fixture of the module: the outcomes of those scenarios that this session is to try."""

        @pytest.fixture(scope="module", name="outcomes")
        def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
            chosen = [name for name in self._all if name in _chosen(request)]
            folders = {name: tmp_path_factory.mktemp(f"scene{number}") for number, name in enumerate(chosen)}
            with ThreadPoolExecutor(AT_ONCE) as pool:
                yield {name: pool.submit(self._all[name], folders[name]) for name in chosen}
                pool.shutdown(cancel_futures=True)

        return outcomes


def _chosen(request: pytest.FixtureRequest) -> set[str]:
    """Return the scenarios of the tests of a module that have been selected."""
    items = (item for item in request.session.items if isinstance(item, pytest.Function))
    return {str(item.callspec.params["scenario"]) for item in items if item.module is request.module and _has(item)}


def _has(item: pytest.Function) -> bool:
    return "scenario" in getattr(getattr(item, "callspec", None), "params", {})
