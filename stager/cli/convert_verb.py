"""`stage-image convert SRC DEST`: make a squashfs file of a container image, and nothing else."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stager.cli import registries
from stager.cli.node import Node
from stager.cli.options import add_json, add_platform, add_store, flags
from stager.cli.output import write, write_json
from stager.errors import AccessDenied, NoSpace, StageImageError, UsageError
from stager.layers.options import Options
from stager.store import files
from stager.store.trouble import FULL
from stager.variants import CONVERTED

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from stager.reference import Reference

EPILOG = """\
  stage-image convert docker://example.org/lab/tool:2 /shared/tool-2.sqsh
  stage-image convert oci-archive:tool.tar tool.sqsh --compression gzip --level 9
SRC is docker://, oci:, docker-archive: or oci-archive:. Its layers are kept in the store, where the next image that
shares them finds them, and the work is done there, on the node's disk; DEST may be anywhere, and appears as a whole or
not at all. The same layers, tools and options give the same bytes on every node.
"""

LAYERED = "docker://, oci:, docker-archive: and oci-archive:"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("reference", metavar="SRC", help=f"an image made of layers: {LAYERED}")
    parser.add_argument("dest", metavar="DEST", help="the squashfs file to make")
    parser.add_argument("--compression", metavar="NAME", help="zstd, gzip, lz4, lzo or xz (default: the setting)")
    parser.add_argument("--level", metavar="N", help="how hard: up to 22 for zstd, 9 for gzip and lzo")
    parser.add_argument("--force", action="store_true", help="replace DEST if it is there")
    add_platform(parser)
    add_store(parser)
    parser.add_argument("--deadline", metavar="TIME", help="give up after so long without progress, e.g. 5m")
    parser.add_argument("--stall-timeout", metavar="TIME", help="reconnect after so long without a byte, e.g. 60s")
    parser.add_argument("--connections", metavar="N", help="layers to fetch at a time")
    parser.add_argument("--progress", metavar="HOW", help="auto, bar, lines or none")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Convert, and print where to."""
    node = Node(flags(arguments) | _how(arguments))
    reference = node.reference(arguments.reference)
    if reference.scheme not in CONVERTED:
        _refuse(reference)
    options = Options(node.config.convert_compression, node.config.convert_level or None)
    dest = _absolute(arguments.dest)
    tell = node.teller(reference.name)
    try:
        with _appearing(dest, force=arguments.force) as aside:
            made = registries.convert(node, reference, aside, options=options, tell=tell)
    except StageImageError as error:
        error.reference = error.reference or reference.shown
        raise
    finally:
        tell.close()
    if arguments.json:
        answer = {"path": dest, "digest": str(made.digest), "size": made.size}
        write_json(answer | {"manifest": str(made.manifest), "parameters": made.parameters})
    else:
        write(dest)
    return 0


def _how(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the settings of conversions; a level that is set belongs to the compression that is set."""
    if arguments.compression is None:
        return {} if arguments.level is None else {"convert_level": arguments.level}
    return {"convert_compression": arguments.compression, "convert_level": arguments.level or "0"}


def _refuse(reference: Reference) -> None:
    what = "a file as it is" if reference.scheme in ("oras", "library") else "one file already, or none"
    raise UsageError(
        f"convert makes images of {LAYERED}; {reference.shown} is {what}",
        hint="`stage-image REF` stages SIF, squashfs and EROFS images without any conversion",
    )


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise UsageError(f"the current directory cannot be read: {error.strerror}", hint="give DEST's path") from error


@contextmanager
def _appearing(dest: str, *, force: bool) -> Iterator[str]:
    """Give a name beside `dest`; what is there at the end becomes `dest`, at once, and after a failure nothing is left.

    That the directory can be written to is found out before hours of work, not after.
    """
    _look(dest, force=force)
    folder, name = os.path.split(dest)
    probe, aside = (f"{folder}/.{name[:40]}.{files.unique()}" for _ in range(2))
    with _told(dest):
        # Of another name, so that nobody has seen that of the file before it is there.
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.unlink(probe)
    try:
        with _told(dest):
            yield aside
            _appear(aside, dest, force=force)
    finally:
        files.discard(aside)


def _look(dest: str, *, force: bool) -> None:
    if os.path.isdir(dest):
        raise UsageError(f"{dest} is a directory", hint="give the name of the file to make")
    if os.path.lexists(dest) and not force:
        raise _there(dest)


def _there(dest: str) -> UsageError:
    return UsageError(f"{dest} is there already", hint="choose another name, or use --force")


def _appear(aside: str, dest: str, *, force: bool) -> None:
    if force:
        os.replace(aside, dest)
    else:
        _link(aside, dest)
    files.sync_directory(os.path.dirname(dest))


def _link(aside: str, dest: str) -> None:
    # A rename would replace what somebody else has made there meanwhile.
    try:
        os.link(aside, dest)
    except FileExistsError:
        raise _there(dest) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        _look(dest, force=False)  # a file system without hard links
        os.replace(aside, dest)


@contextmanager
def _told(dest: str) -> Iterator[None]:
    """Raise NoSpace and AccessDenied for an OSError that is not the store's alone."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            hint = "free space there, or choose another place; `stage-image doctor` shows the store's"
            raise NoSpace(f"{dest} cannot be made: {error.strerror}", hint=hint) from error
        if os.path.dirname(os.fsdecode(error.filename or "")) != os.path.dirname(dest):
            raise
        hint = "DEST's directory must be there, and yours to write in"
        raise AccessDenied(f"{dest} cannot be made: {error.strerror}", hint=hint) from error
