"""The long way: parse the command line, build what the verb needs, run it inside the error boundary."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, cast

from stager.cli.boundary import guarded

if TYPE_CHECKING:
    import argparse

MANY = 50_000
"""Objects between two searches for cycles; imports make 100,000 that stay, and searching them takes 6 ms (measured)."""


def run(words: list[str]) -> int:
    """Run one command line; return its exit code."""
    gc.set_threshold(MANY)
    arguments = lone(words) or _parsed(words)
    return guarded(lambda: arguments.run(arguments))


def lone(words: list[str]) -> argparse.Namespace | None:
    """Return what the parser makes of a reference alone, or None if that is not all there is.

    On each node of a cluster one task comes here, nearly always with this. A parser with all verbs takes 8 ms of CPU.
    """
    if len(words) != 1 or "/" not in words[0] or words[0].startswith("-"):
        return None  # a verb, a mistyped one, or nothing that we know
    from types import SimpleNamespace

    from stager.cli.path_verb import run

    arguments = SimpleNamespace(run=run, reference=words[0], words=words, json=False, retry=False)
    return cast("argparse.Namespace", arguments)


def _parsed(words: list[str]) -> argparse.Namespace:
    from stager.cli.parser import parse

    return parse(words)
