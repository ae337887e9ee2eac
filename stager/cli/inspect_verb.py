"""`stage-image inspect REF|PATH`: what an image is, by its own headers."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from hashlib import file_digest
from shlex import quote
from typing import TYPE_CHECKING, Any

from stager.cli.local import image_of
from stager.cli.node import Node
from stager.cli.options import add_json, add_platform, add_store, flags
from stager.cli.output import show_time, write, write_json
from stager.errors import AccessDenied, NotAnImage
from stager.store.room import show_bytes

if TYPE_CHECKING:
    import argparse

    from stager.interfaces import ImageInfo

EPILOG = """\
A path is looked at where it lies; anything else must be staged. The digest of a path is computed by reading it all.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("reference", metavar="REF|PATH", help="a staged reference, a digest, or any file")
    add_platform(parser)
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what is known of the image."""
    node = Node(flags(arguments))
    if os.path.exists(arguments.reference):
        answer = _of_file(arguments.reference)
    else:
        image = image_of(node, arguments.reference)
        answer = {"digest": str(image.digest), "path": image.path, "origin": image.origin}
        answer |= {"fetched": image.fetched, **_of_info(image.info)}
    if arguments.json:
        write_json(answer)
    else:
        for name, value in _for_people(answer):
            write(f"{name + ':':13}{value}")
    return 0


def _of_file(path: str) -> dict[str, object]:
    from stager.images import recognise

    if not os.path.isfile(path):
        raise NotAnImage("it is not a regular file", reference=path)
    try:
        with open(path, "rb") as file:
            info = recognise(file.fileno(), os.fstat(file.fileno()).st_size)
            digest = file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AccessDenied(f"it cannot be read: {error.strerror}", reference=path) from error
    return {"digest": f"sha256:{digest}", "path": os.path.abspath(path), **_of_info(info)}


def _of_info(info: ImageInfo) -> dict[str, object]:
    return asdict(replace(info, config=None)) | {"config": info.config.describe() if info.config else None}


def _for_people(answer: dict[str, object]) -> list[tuple[str, str]]:
    lines = [
        (name, str(answer[name]))
        for name in ("path", "digest", "origin", "format", "compression", "arch")
        if answer.get(name)
    ]
    lines.append(("size", f"{show_bytes(float(str(answer['size'])))} ({answer['size']} bytes)"))
    if "fetched" in answer:
        lines.append(("fetched", show_time(float(str(answer["fetched"])))))
    partitions = answer["partitions"] or [answer["root"]]
    for part in partitions if isinstance(partitions, (list, tuple)) else []:
        primary = ", the root" if part == answer["root"] else ""
        lines.append(("partition", f"{part['kind']} at {part['offset']}, {show_bytes(part['size'])}{primary}"))
    config = answer["config"]
    return lines + (_config_for_people(config) if isinstance(config, dict) else [])


def _config_for_people(config: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [(name.lower(), _plain(config[name])) for name in ("Platform", "User") if config[name]]
    lines += [("workdir", _plain(config["WorkingDir"]))] if config["WorkingDir"] else []
    for name in ("Entrypoint", "Cmd"):
        if config[name]:
            lines.append((name.lower(), " ".join(_plain(quote(word)) for word in config[name])))
    lines += [("env", _plain(line)) for line in config["Env"]]
    return lines + [("label", _plain(f"{key}={value}")) for key, value in sorted(config["Labels"].items())]


def _plain(text: str) -> str:
    # A stranger wrote it, and a terminal obeys some characters.
    return text if text.isascii() and text.isprintable() else ascii(text)
