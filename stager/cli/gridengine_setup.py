"""`stage-image gridengine setup`: makes a Grid Engine know images, and takes it back."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from stager.cli.output import write

if TYPE_CHECKING:
    from stager.cli.gridengine_changes import Setup

EPILOG = """\
On an administrative host, as root or a manager. Shown are the differences; --apply makes them, --undo takes all of it
back, and both may be repeated. What others have put in the place of a hook stays, and is told of. The scripts have to
be in the same directory on all hosts, since a queue whose prolog cannot be started is disabled.
"""

ELSEWHERE = "/usr/local/share/stage-image/gridengine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this action's arguments."""
    parser.epilog, parser.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="only show what would change (the default)")
    how.add_argument("--apply", action="store_true", help="show it, and change it")
    parser.add_argument("--undo", action="store_true", help="take it back; with --dry-run, only show that")
    parser.add_argument("--push", action="store_true", help="no load sensor: hosts push by gridengine.push")
    parser.add_argument("--only", metavar="PART", action="append", help="complexes, sensor, hooks or starter; repeated")
    parser.add_argument(
        "--queue", metavar="NAME", action="append", help="a queue that starts jobs by ours (default: all)"
    )
    parser.add_argument("--as-user", action="store_true", help="prolog and epilog run as the job's user, not as root")
    parser.add_argument("--hooks", metavar="DIR", help=f"where the scripts are (default: {ELSEWHERE})")


def run(arguments: argparse.Namespace) -> int:
    """Show what would change, and change it if asked to; return 0 also if there is nothing to do."""
    applies = arguments.apply or (arguments.undo and not arguments.dry_run)
    setup = _setup(arguments)
    if applies and not arguments.undo:
        setup.check_scripts()
    count = 0
    for change in setup.changes():
        if change.before == change.after:
            continue
        count += 1
        write(change.diff)
        if applies:
            change.make()
    for note in setup.notes:
        write(f"note: {note}")
    if not count:
        write("nothing to change")
    return 0


def _setup(arguments: argparse.Namespace) -> Setup:
    # Here, because this module is imported for the arguments of every hook.
    from stager.cli.gridengine_changes import Setup
    from stager.errors import UsageError
    from stager.schedulers.gridengine_setup import PARTS

    parts = tuple(arguments.only or PARTS)
    if strange := set(parts) - set(PARTS):
        raise UsageError(f"--only {min(strange)}: there is no such part", hint=f"parts are {', '.join(PARTS)}")
    if arguments.push and not arguments.undo:
        parts = tuple(part for part in parts if part != "sensor")
    hooks = os.path.abspath(arguments.hooks) if arguments.hooks else _hooks()
    return Setup(hooks, parts, "" if arguments.as_user else "root", arguments.queue or [], undo=arguments.undo)


def _hooks() -> str:
    own = f"{sys.prefix}/share/stage-image/gridengine"
    return own if os.path.isdir(own) and not os.path.isdir(ELSEWHERE) else ELSEWHERE
