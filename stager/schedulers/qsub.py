"""The command line of Grid Engine's qsub or qrsh, with `--stage-image` in it: taken apart, and told what we know; pure.

What is not ours stays as it is, in its order. Ours is taken out, and told behind the user's options: which images the
job wants, by `-v`, and where they are, by a soft request: hosts that have them are preferred, and one that has not
stages them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stager.errors import InvalidReference, UsageError
from stager.schedulers.affinity import known_as
from stager.schedulers.request import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stager.reference import Reference

IMAGE = "--stage-image"
COMPLEXES = ("stage_images", *(f"stage_images{number}" for number in range(2, 9)))
"""The values of a load sensor that say which images a host has; a value has room for some of them only."""

_ONE = """
    @ a ac ar A b c ckpt C dc display dl e he hold_jid hold_jid_ad i j js jsv l m M masterq N now o ot P p pty q R r S
    sc shell sync t tc u v w wd
"""
_NONE = "clear cwd h hard help inherit nostdin noshell notify soft terse V verbose verify"
VALUES = dict.fromkeys(_ONE.split(), 1) | dict.fromkeys(_NONE.split(), 0) | {"pe": 2}
"""Option → how many words it takes, from submit(1) of 8.1.9. `-binding` takes one or two."""

_BINDINGS = ("env", "pe", "set")
_HINT = f"write {IMAGE}=https://host/path, …=docker://host/name:tag or …=/path, several with commas between them"


@dataclass(slots=True)
class CommandLine:
    """`options` and `rest`, the command or script with its arguments, are Grid Engine's; `images` were for us."""

    options: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)
    images: tuple[str, ...] = ()
    binary: bool = False

    @property
    def script(self) -> str:
        """Return what is submitted as a script: a path, `-` for stdin; empty if it is a binary."""
        if self.binary:
            return ""
        return self.rest[0] if self.rest and self.rest[0] != "--" else "-"


def read(words: Sequence[str], program: str, ask: Callable[[str], int | None] = lambda _name: None) -> CommandLine:
    """Take a command line apart; `ask` tells how many words an option takes that is in no table of ours.

    Raises UsageError for a `--stage-image` without a value.
    """
    line, left = CommandLine(binary=program == "qrsh"), list(words)
    while left and left[0] not in ("-", "--") and left[0].startswith("-"):
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name == IMAGE:
            line.images += _listed(value if equals else left.pop(0) if left else "")
            continue
        count = _count(word[1:], left, ask)
        if word == "-b" and left:
            line.binary = left[0].startswith("y")
        line.options += [word, *left[:count]]
        del left[:count]
    line.rest = left
    return line


def _count(name: str, left: Sequence[str], ask: Callable[[str], int | None]) -> int:
    if name == "binding":
        return 2 if left and left[0] in _BINDINGS else 1
    known = VALUES.get(name)
    return (ask(name) or 0) if known is None else known


def _listed(value: str) -> tuple[str, ...]:
    texts = tuple(value.split(","))
    if not all(texts):
        raise UsageError(f"{IMAGE} needs a reference, and has {value[:80]!a}", hint=_HINT)
    return texts


def in_help(text: str) -> dict[str, int]:
    """Return the options that `qsub -help` shows, and how many words each takes."""
    found = re.findall(r"^ +\[-([A-Za-z@_]+)((?: [^\]\s]+)*)\]", text, re.MULTILINE)
    return {name: len(values.split()) for name, values in found}


def requestable(text: str) -> list[str]:
    """Return those of COMPLEXES that a job may ask for, by what `qconf -sc` prints."""
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    known = {row[0] for row in rows if len(row) >= 5 and row[2].endswith("STRING") and row[4] != "NO"}
    return [name for name in COMPLEXES if name in known]


def wish(references: Sequence[Reference], complexes: Sequence[str]) -> list[str]:
    """Return the options that prefer hosts which have all of these pinned images; none if nothing tells of images.

    By digest: what is called the same on a host may be another image. Each value that has them counts for a host, so
    that it does not matter in which of a host's values an image is told of.
    """
    digests = dict.fromkeys(digest.hex[:12] for digest in map(known_as, references) if digest is not None)
    pattern = "&".join(f"*@{digits};*" for digits in digests)
    if not pattern or not complexes:
        return []
    return ["-soft", "-l", ",".join(f"{name}={pattern}" for name in complexes), "-hard"]


def tell(references: Sequence[str]) -> list[str]:
    """Return the options that tell the job, and its prolog, what it wants.

    Raises InvalidReference for what `-v` takes for a quotation, in which commas part nothing (measured with 8.1.9).
    """
    for reference in references:
        if {"'", '"', "\\"}.intersection(reference):
            raise InvalidReference(f"{reference[:80]!a} has quotation marks, which qsub would take for its own")
    told = [f"{name}={reference}" for name, reference in zip(VARIABLES, references, strict=False)]
    return ["-v", ",".join(told)] if told else []
