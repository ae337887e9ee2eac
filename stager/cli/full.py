"""The long way: parse the command line, build what the verb needs, run it inside the error boundary."""

from __future__ import annotations

from stager.cli.boundary import guarded
from stager.cli.parser import parse


def run(words: list[str]) -> int:
    """Run one command line; return its exit code."""
    arguments = parse(words)
    return guarded(lambda: arguments.run(arguments))
