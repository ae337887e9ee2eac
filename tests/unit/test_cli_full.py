from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from stager.cli import full
from stager.cli.parser import VERBS, parse

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

REFERENCES = ["https://example.org/tool.sif", "/shared/tool.sif", "./list", "file:///a b", "dir/--json", "a/b@sha256:0"]


@pytest.mark.parametrize("text", REFERENCES)
def test_a_lone_reference_is_what_the_parser_makes_of_it(text: str) -> None:
    arguments = full.lone([text])
    assert arguments is not None
    long = {name: value for name, value in vars(parse([text])).items() if value is not None and name != "parser"}
    assert vars(arguments) == long


@pytest.mark.parametrize("words", [[], ["tool.sif"], ["--help"], ["-/x"], ["/x", "--json"], *([v] for v in VERBS)])
def test_all_else_is_left_to_the_parser(words: list[str]) -> None:
    assert full.lone(words) is None


@pytest.fixture(name="thresholds")
def _thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("thresholds")
def test_a_lone_reference_is_staged_with_what_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def stage(arguments: argparse.Namespace) -> int:
        seen.append(arguments.reference)
        return 3

    monkeypatch.setattr(full, "guarded", lambda action: action())  # which would keep the signals for itself
    monkeypatch.setattr(import_module("stager.cli.path_verb"), "run", stage)
    assert (full.run(["./x"]), seen) == (3, ["./x"])
