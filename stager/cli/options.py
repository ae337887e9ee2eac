"""Options that several verbs share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

SETTINGS = (
    "store",
    "freshness",
    "offline",
    "mount",
    "runtime",
    "progress",
    "deadline",
    "stall_timeout",
    "connections",
    "min_nodes",
    "platform",
)
"""The settings that may be given as flags where they matter; all may be given by file or environment."""


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add --store."""
    parser.add_argument("--store", metavar="DIR", help="the store (default: $STAGE_IMAGE_STORE, else /var/tmp)")


REFERENCE = "https://…, docker://…, oras://…, library://…, oci:… or a path"
"""What a reference is, in the help of an argument."""


def add_platform(parser: argparse.ArgumentParser) -> None:
    """Add --platform, wherever a reference may mean an image of several platforms."""
    parser.add_argument("--platform", metavar="P", help="take this platform's image, e.g. linux/arm64")


def add_staging(parser: argparse.ArgumentParser) -> None:
    """Add the reference and how to stage it."""
    parser.add_argument("reference", metavar="REF", help=f"{REFERENCE}; @sha256:<digest> pins")
    add_store(parser)
    add_platform(parser)
    parser.add_argument("--freshness", metavar="WHEN", help="ask the origin for a newer image: always, job or never")
    parser.add_argument("--offline", metavar="HOW", help="use a known image when the origin is away: allow or refuse")
    parser.add_argument("--retry", action="store_true", help="try again at once what has just failed")
    parser.add_argument("--deadline", metavar="TIME", help="give up after so long without progress, e.g. 5m")
    parser.add_argument("--stall-timeout", metavar="TIME", help="reconnect after so long without a byte, e.g. 60s")
    parser.add_argument("--connections", metavar="N", help="connections to the origin at a time, where more pay")
    parser.add_argument("--min-nodes", metavar="N", help="return when so many of the job's nodes have the image")
    parser.add_argument("--progress", metavar="HOW", help="auto, bar, lines or none")


def add_mounting(parser: argparse.ArgumentParser) -> None:
    """Add how to mount."""
    parser.add_argument("--mount", metavar="HOW", help="auto, loop, fuse or none")


def flags(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the settings given on the command line."""
    return {name: getattr(arguments, name) for name in SETTINGS if getattr(arguments, name, None) is not None}
