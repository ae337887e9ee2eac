"""The page of the command line, docs/reference/cli.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docs.commands import commands

if TYPE_CHECKING:
    from docs.commands import Command, Option


def page(notice: str) -> str:
    """Return docs/reference/cli.md."""
    known = commands()
    rows = [f"| [`{command.verb}`](#{_anchor(command)}) | {_cell(command.summary)} |" for command in known]
    sections = [section(command) for command in known]
    return "\n\n".join((f"{notice}\n{HEAD.rstrip()}\n" + "\n".join(rows), GENERAL.strip(), *sections)) + "\n"


HEAD = """
# Command line

| verb | what it does |
|------|--------------|
"""

GENERAL = """
`stage-image REF` is short for `stage-image path REF`. A file whose name is a verb is written with its path:
`stage-image ./list`. Without a verb and a reference, the help is printed to stderr, with exit code 2.

- A **reference** is `https://…`, `http://…`, `file:///…` or a path, absolute or relative, and may end in
  `@sha256:<64 hexadecimal digits>`, which pins it: nothing but exactly this image will do.
- Options may stand before or after the reference, as `--option=value` or `--option value`. They are not abbreviated.
- **stdout carries the answer only**: a path, a table, JSON. Everything else goes to stderr.
- **Exit code 0 means that what was asked for is there.** All others are in [exit codes](exit-codes.md).
- Options named like a [setting](configuration.md) override it. All settings have an environment variable; not all
  have an option.
- [JSON](json.md) describes the answers of `--json`.
"""


def section(command: Command) -> str:
    """Return what there is to say about one verb."""
    parts = [f"## stage-image {command.verb}", f"{command.summary[:1].upper()}{command.summary[1:]}."]
    parts.append(f"```text\n{command.usage}\n```")
    if command.arguments or command.options:
        head = "| argument or option | meaning |\n|--------------------|---------|\n"
        parts.append(head + "\n".join(map(_row, (*command.arguments, *command.options))))
    parts += [f"```text\n{block.text}\n```" if block.literal else _escaped(block.text) for block in command.notes]
    return "\n\n".join(parts)


def _row(option: Option) -> str:
    return f"| `{option.words.replace('|', BAR)}` | {_cell(option.help)} |"


BAR = "\\|"


def _anchor(command: Command) -> str:
    return f"stage-image-{command.verb}"


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Protect what Markdown would take for HTML, but not within code, where it takes nothing for anything."""
    return "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(text.split("`")))
