"""Verbs with actions of their own, as `stage-image slurm prolog`: one module and one parser for each action."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

Actions = dict[str, tuple[str, str]]
"""Action → module of this package, and what it does."""


def add(
    parser: argparse.ArgumentParser, plain: Mapping[str, tuple[str, str]], others: Mapping[str, tuple[str, str]]
) -> None:
    """Add a parser for each action. Those in `plain` have no arguments, and their modules wait until they run."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, parser_class=type(parser))
    for action, (name, summary) in {**plain, **others}.items():
        child = actions.add_parser(action, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        child.set_defaults(module=f"stager.cli.{name}", parser=child)
        if action in others:
            importlib.import_module(f"stager.cli.{name}").add_arguments(child)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    code: int = importlib.import_module(arguments.module).run(arguments)
    return code
