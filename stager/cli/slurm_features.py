"""`stage-image slurm features`: tells Slurm which images this node holds, so that jobs can prefer it."""

from __future__ import annotations

import argparse

from stager.cli.options import add_json, add_store, flags
from stager.cli.output import write, write_json

EPILOG = """\
For root's timer (stage-image-features.timer), on every node. Each image of the store becomes a feature of the node: the
prefix of slurm.features_prefix and 12 digits of its digest, available and active; what is made of a registry's image
has one more, of its manifest's digest. Features of others stay. Slurm hears only of changes, and again what it has
forgotten, as it does at `scontrol reconfigure`. Then `sbatch --prefer` and `--constraint` know where images are.
Private images, and the stores of users, are not told.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this action's arguments."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--dry-run", action="store_true", help="only say what would change")
    parser.add_argument("--extra", action="store_true", help="tell it in the node's Extra, too (JSON), from 22.05 on")
    parser.add_argument("--node", metavar="NAME", help="what Slurm calls this node (default: what slurm.conf says)")
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Tell Slurm what has changed, and say so; 0 also if nothing has."""
    # Here, because this module is imported for the arguments of every hook.
    from stager.cli import slurm_publishing
    from stager.schedulers import hook

    if hook.is_off():
        return 0
    rows = slurm_publishing.publish(
        flags(arguments), name=arguments.node or "", extra=arguments.extra, dry=arguments.dry_run
    )
    if arguments.json:
        write_json(rows)
    else:
        for row in rows:
            write(_shown(row, dry=arguments.dry_run))
    return 0


def _shown(row: dict[str, object], *, dry: bool) -> str:
    parts = [f"{word} {', '.join(map(str, names))}" for word in ("added", "removed") if (names := _list(row[word]))]
    if row["extra"]:
        parts.append("changed Extra")
    what = f"{'would have ' * (dry and bool(parts))}{'; '.join(parts) or 'nothing to change'}"
    return f"{row['node']}: {what} ({row['images']} image{'s' * (row['images'] != 1)})"


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
