"""The command line, as the pages need it: read from the parsers, so that no page knows an option of its own."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import groupby
from textwrap import dedent
from typing import TYPE_CHECKING

from stager.cli.parser import VERBS, Parser, build

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Option:
    """An option or argument: how it is written (`--store DIR`, `REF`) and what it does."""

    words: str
    help: str


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph of text, or lines that are to stay as they are."""

    text: str
    literal: bool


@dataclass(frozen=True, slots=True)
class Command:
    """One verb. `usage` begins with `stage-image`; `notes` is the text below its help, in blocks."""

    verb: str
    summary: str
    usage: str
    arguments: tuple[Option, ...]
    options: tuple[Option, ...]
    notes: tuple[Block, ...]


def commands() -> list[Command]:
    """Return every verb, in the order of `stage-image --help`."""
    children = verb_parsers(build())
    return [_command(verb, children[verb]) for verb in VERBS]


def verb_parsers(parser: Parser) -> dict[str, argparse.ArgumentParser]:
    """Return verb → its parser."""
    groups = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    return dict(next(groups).choices)


def known_options() -> dict[str, set[str]]:
    """Return verb → the options that it takes, as they are written on a command line."""
    return {verb: set(_options_of(child)) for verb, child in verb_parsers(build()).items()}


def _options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:  # noqa: SLF001
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for child in action.choices.values():
                yield from _options_of(child)


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of a help text: lines that are indented are literal, all others are paragraphs."""
    lines = [line for line in text.splitlines() if line.strip()]
    for literal, group in groupby(lines, key=lambda line: line.startswith(" ")):
        block = "\n".join(group)
        yield Block(dedent(block) if literal else block, literal)


def _command(verb: str, parser: argparse.ArgumentParser) -> Command:
    actions = [action for action in parser._actions if action.dest != "help"]  # noqa: SLF001
    arguments = tuple(_option(action) for action in actions if not action.option_strings)
    options = tuple(_option(action) for action in actions if action.option_strings)
    word = "[path]" if verb == "path" else verb
    words = [f"stage-image {word}", *_alternatives(parser), *(["[OPTION…]"] if options else [])]
    words += [_usage(action) for action in actions if not action.option_strings and not _is_grouped(parser, action)]
    usage = parser.usage or " ".join(words)
    return Command(verb, VERBS[verb], usage, arguments, options, tuple(blocks(parser.epilog or "")))


def _option(action: argparse.Action) -> Option:
    names = ", ".join(action.option_strings)
    value = "" if action.option_strings and action.nargs == 0 else _value(action)
    return Option(f"{names} {value}".strip(), (action.help or "").replace("%%", "%"))


def _value(action: argparse.Action) -> str:
    if action.choices:
        return "|".join(str(choice) for choice in action.choices)
    return str(action.metavar or action.dest.upper())


def _usage(action: argparse.Action) -> str:
    value = _value(action)
    return {"?": f"[{value}]", "+": f"{value}…"}.get(str(action.nargs), value)


def _alternatives(parser: argparse.ArgumentParser) -> list[str]:
    """Return what must be given one of: `(REF | --scope ID | --all)`."""
    groups = (group._group_actions for group in parser._mutually_exclusive_groups if group.required)  # noqa: SLF001
    return [f"({' | '.join(_option(action).words for action in group)})" for group in groups]


def _is_grouped(parser: argparse.ArgumentParser, action: argparse.Action) -> bool:
    return any(action in group._group_actions for group in parser._mutually_exclusive_groups)  # noqa: SLF001
