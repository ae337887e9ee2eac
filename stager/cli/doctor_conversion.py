"""What `doctor` says of making squashfs images of container images: the tools for it, and their versions."""

from __future__ import annotations

from importlib import metadata

from stager.cli.finding import Finding
from stager.errors import ConverterMissing
from stager.layers import mksquashfs

PACKAGES = ("isal", "zstandard")
"""Of Python: gzip at several times the speed of zlib, and zstd, which Python has from 3.14 on."""
REMEDY = "install squashfs-tools 4.5 or later, and with pip: isal zstandard; or have images converted elsewhere"


def finding() -> Finding:
    """Whether container images can be converted here, and by what, or what is missing."""
    found = [_tool(), *(_package(name) for name in PACKAGES)]
    there = ", ".join(text for ok, text in found if ok)
    missing = ", ".join(text for ok, text in found if not ok)
    if not missing:
        return Finding("container images", ok=True, detail=f"can be converted here, by {there}")
    detail = f"cannot be converted here: {missing}" + (f"; there are {there}" if there else "")
    return Finding("container images", ok=False, detail=detail, remedy=REMEDY)


def _tool() -> tuple[bool, str]:
    # Where and as conversions look for it: that is also where a user's PATH does not lead.
    try:
        return True, f"{mksquashfs.PROGRAM} {mksquashfs.version(mksquashfs.program())}"
    except ConverterMissing as error:
        return False, error.message


def _package(name: str) -> tuple[bool, str]:
    try:
        return True, f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        return False, f"{name} is not installed"
