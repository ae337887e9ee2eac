"""What a node tells Grid Engine of its images: the values of a load sensor's report; pure.

A value is `;name@digits;name@digits;`, delimited on both sides, so that `*;name@*` matches exactly one name. Limits,
by source/daemons/execd/sge_load_sensor.c (8.1.9) and by measurement: a host, a name and a value have 1,000 bytes each
on execd's stack, and sscanf writes beyond them without a word; a line of 10,000 bytes aborts execd; matching refuses
2,048 bytes. Only the first two colons of a line divide it, an empty value makes execd drop the line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VALUE_MAX = 900
"""Bytes of a value."""

IMAGES = ("stage_images", *(f"stage_images{number}" for number in range(2, 9)))
CUT, FREE, BUSY = "stage_images_cut", "stage_free", "stage_busy"
"""The complexes: images, the last used ones in the first; whether there are more; bytes free; stagings in progress."""

NONE = "none"
"""The value where there is no image."""

HOST_MAX = 255
"""RFC 1035, section 2.3.4."""


def values(items: Iterable[str]) -> tuple[list[str], bool]:
    """Return the values of IMAGES, and whether some items did not fit. The items go into them in order."""
    filled = [";"]
    for item in dict.fromkeys(items):
        if len(filled[-1]) + len(item) + 1 > VALUE_MAX:
            if len(filled) == len(IMAGES):
                return filled, True
            filled.append(";")
        filled[-1] += f"{item};"
    if filled == [";"]:
        filled = []
    return filled + [NONE] * (len(IMAGES) - len(filled)), False


def named_values(items: Iterable[str]) -> dict[str, str]:
    """Return complex → value, of IMAGES and CUT."""
    each, is_cut = values(items)
    return {**dict(zip(IMAGES, each, strict=True)), CUT: str(int(is_cut))}


def report(host: str, items: Iterable[str], *, free: int, busy: int) -> str:
    """Return a whole report: `begin`, a line for each complex, `end`. `free` in bytes."""
    told = {**named_values(items), FREE: str(free), BUSY: str(busy)}
    return "".join(("begin\n", *(f"{host}:{name}:{value}\n" for name, value in told.items()), "end\n"))


def host_name(environ: Mapping[str, str], node: str) -> str:
    """Return what execd calls this host: $HOST, which it sets for its sensors; `node` where that is no name."""
    host = environ.get("HOST", "")
    plain = host.isascii() and all(letter.isalnum() or letter in "._-" for letter in host)
    return host if host and plain and len(host) <= HOST_MAX else node
