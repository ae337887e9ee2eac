"""The command line's grammar: one thin module per verb, each adding its own arguments."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NoReturn

from stager import __version__

VERBS = {
    "path": "stage an image and print its path (the default: `stage-image REF`)",
    "mount": "stage and mount an image, and print the mountpoint",
    "umount": "end the use of mounts, and unmount what nobody else uses",
    "exec": "run a command on a staged image",
    "list": "list staged images",
    "status": "show what is being staged: how far each node of the cluster is",
    "prefetch": "have images staged on many nodes, before any job wants them",
    "resolve": "show which image a reference means now, as a reference that always means it",
    "inspect": "show what an image is",
    "convert": "make a squashfs file of a container image",
    "verify": "hash images again; mend or quarantine what is bad",
    "remove": "remove an image from the store",
    "prune": "evict unused images, longest unused first",
    "slurm": "Slurm's hooks, its doctor, and which images a node has, told to it",
    "gridengine": "Grid Engine's hooks, its set-up, and how jobs ask for images",
    "load-sensor": "Grid Engine's load sensor: which images a node has, told to execd",
    "config": "show every setting and where it came from",
    "doctor": "show what this node can do, and what lies about",
    "demo": "show it all: an origin, 32 tasks, one download, one mount",
    "completion": "print a completion script for a shell",
}
"""Verb → what it does; each is a module of this package."""

EXAMPLES = """\
examples:
  IMG=$(stage-image https://example.org/tool.sif)      one download on this node, however many tasks ask
  srun stage-image exec /shared/tool.sqsh -- ./app     run on the mounted image
  stage-image https://example.org/tool.sif@sha256:…    only exactly this image
  stage-image exec docker://ubuntu:24.04 -- ./app      the layers of a registry's image, made one file here
  stage-image status --watch                           how far each node of a cluster is
  stage-image prefetch /shared/tool.sqsh --nodes n1,n2 have it on these nodes, before any job wants it
  stage-image prune --max-size 100GiB                  keep the cache small
  stage-image doctor                                   what this node can mount, and what is in the way

A file whose name is a verb is written with its path: `stage-image ./list`.
Exit codes: 0 the image is usable; everything else is listed in docs/reference/exit-codes.md.
"""


class Parser(argparse.ArgumentParser):
    """argparse, with messages in our shape."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit with 2."""
        sys.stderr.write(f"stage-image: error: {message}\n")
        sys.stderr.write(f"stage-image: try: `{self.prog} --help`\n")
        raise SystemExit(2)


def parse(words: list[str]) -> argparse.Namespace:
    """Return the arguments; `.run` is what to call with them. Exits with 0 for --help and --version, 2 for nonsense."""
    if words and words[0] not in (*VERBS, "-h", "--help", "--version"):
        _refuse_mistyped_verb(words[0])
        words = ["path", *words]
    words, command = _command_of(words)
    parser = build(only=words[0] if words and words[0] in VERBS else None)
    if not words:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.words = words[1:] if words[0] == "path" else words
    if words[0] == "exec":
        arguments.command = command
        arguments.words = [*words, "--", *command]
    return arguments


def _refuse_mistyped_verb(word: str) -> None:
    import difflib
    import os

    if not word.isalpha() or os.path.lexists(word):
        return
    near = difflib.get_close_matches(word, VERBS, n=1)
    sys.stderr.write(f"stage-image: error: there is no verb and no file {word!r}\n")
    sys.stderr.write(f"stage-image: try: `stage-image {near[0] if near else '--help'}`\n")
    raise SystemExit(2)


def _command_of(words: list[str]) -> tuple[list[str], list[str]]:
    # argparse would take `--` and what follows apart; a command is nobody's business but its own.
    if not words or words[0] != "exec" or "--" not in words:
        return words, []
    cut = words.index("--")
    return words[:cut], words[cut + 1 :]


def module_of(verb: str) -> str:
    """Return the name of a verb's module."""
    return f"stager.cli.{verb.replace('-', '_')}_verb"


def build(only: str | None = None) -> Parser:
    """Return the parser; with `only`, the other verbs stay without arguments, and their modules unimported."""
    parser = Parser(
        prog="stage-image",
        description="Stage container images onto HPC nodes: one download, one verified copy, one mount.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"stage-image {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", title="verbs", parser_class=Parser)
    for verb, summary in VERBS.items():
        if only not in (None, verb):
            verbs.add_parser(verb, help=summary)
            continue
        module = importlib.import_module(module_of(verb))
        child = verbs.add_parser(
            verb,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(child)
        child.set_defaults(run=module.run, parser=child)
    return parser
