"""`stage-image config show`: every setting and where it came from, as a settings file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stager.cli.options import add_json
from stager.cli.output import write, write_json
from stager.config import KEYS, load
from stager.registry_setting import RegistrySetting

if TYPE_CHECKING:
    import argparse

EPILOG = """\
Defaults < /etc/stage-image/config.toml < ~/.config/stage-image/config.toml < STAGE_IMAGE_<KEY> < flags.
Every key is described in docs/reference/configuration.md.
"""

WIDEST = 50
"""Column, in characters, at which the sources stand unless a value is longer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("action", choices=["show"], nargs="?", default="show", help="print all settings")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what could be a settings file, or JSON."""
    config = load(dict(os.environ), {})
    settings = {name: config.setting(name) for name in KEYS}
    if arguments.json:
        write_json({KEYS[name].label: {"value": _plain(s.value), "source": s.source} for name, s in settings.items()})
        return 0
    lines = [(f"{KEYS[name].label} = {KEYS[name].kind.show(s.value)}", s.source) for name, s in settings.items()]
    width = min(max(len(line) for line, _ in lines), WIDEST)
    for line, source in lines:
        # A comment ends with its line, and may not hold control characters: https://toml.io/en/v1.0.0#comment
        write(f"{line.ljust(width)}  # {source if source.isprintable() else ascii(source)}")
    return 0


def _plain(value: object) -> object:
    """Return a value as JSON can hold it."""
    if isinstance(value, dict):
        return {key: each.describe() if isinstance(each, RegistrySetting) else each for key, each in value.items()}
    return value
