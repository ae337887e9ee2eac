"""`stage-image config show`: every setting and where it came from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stager.cli.options import add_json
from stager.cli.output import write_json, write_table
from stager.config import KEYS, load

if TYPE_CHECKING:
    import argparse

EPILOG = """\
Defaults < /etc/stage-image/config.toml < ~/.config/stage-image/config.toml < STAGE_IMAGE_<KEY> < flags.
Every key is described in docs/reference/configuration.md.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("action", choices=["show"], nargs="?", default="show", help="print all settings")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a table, or JSON."""
    config = load(dict(os.environ), {})
    settings = {name: config.setting(name) for name in KEYS}
    if arguments.json:
        write_json({name: {"value": setting.value, "source": setting.source} for name, setting in settings.items()})
        return 0
    rows = [(name, KEYS[name].kind.show(setting.value), setting.source) for name, setting in settings.items()]
    write_table(("KEY", "VALUE", "FROM"), rows)
    return 0
