"""Which images a job asks for: text that a user wrote and root reads.

For the hooks: `read(comment, extra, spank) -> Request`. Of a comment, and of an `extra` that is no JSON object, the
words between white space and `;` count that begin with `stage-image=`; the rest is for others, and may be anything:

    --comment="stage-image=https://host/r.sif,https://host/python.sif; project=x"
    --extra='{"stage-image": "https://host/r.sif"}'        or a list of texts
    --stage-image=docker://host/r:4.3,/apps/python.sif     the SPANK plugin's option

An image on disk has an absolute path: `oci:/apps/r:4.3`. A comma parts two references (in a JSON list it does not):
`%2C` stands for one in a URL. The values arrive raw, newlines included (prep_script_slurmd.c), so what is not printable
ASCII is refused, and messages quote it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager import reference
from stager.errors import InvalidReference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WORD = "stage-image"
MAX_IMAGES = 8
"""Images of a job: tasks are told of each by variables of its own."""

VARIABLES = ("STAGE_IMAGE_REFERENCE", *(f"STAGE_IMAGE_REFERENCE_{number}" for number in range(2, MAX_IMAGES + 1)))
"""By which tasks are told what they got; and by which Grid Engine's jobs say what they want, one reference each."""

MAX_TEXT = 4096
"""Characters that are looked at of each text: what is asked for behind them is not seen. Slurm itself takes more."""

MAX_REFERENCE = 1024
HINT = (
    f"write {WORD}=https://host/path, {WORD}=docker://host/name:tag or {WORD}=/path, several with commas between them"
    " and %2C for a comma in a URL"
)

_BETWEEN = re.compile(r"[ \t\r\n;]+")
_PRINTABLE = re.compile(r"[!-~]+")
_ABSOLUTE = re.compile(r"/|[A-Za-z][A-Za-z0-9+.-]*://|(?:oci|oci-archive|docker-archive):/", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """The references a job asks for, as they were written, in order, each meaning once; at most MAX_IMAGES.

    Each is printable ASCII without blanks, absolute, and understood by `stager.reference.parse`.
    """

    references: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.references)


def read(comment: str, extra: str, spank: str) -> Request:
    """Return what is asked for in SLURM_JOB_COMMENT, SLURM_JOB_EXTRA and SPANK_STAGE_IMAGE, each empty if not set.

    Raises InvalidReference, whose message is one printable line, if an image is asked for in a way that cannot be
    followed. Never raises for text that does not ask for any.
    """
    return gathered((*_in_words(comment), *_in_extra(extra), *_in_list(spank, whole=len(spank) <= MAX_TEXT)))


def gathered(texts: Iterable[str]) -> Request:
    """Return what texts ask for that are one reference each. Raises InvalidReference, as `read`."""
    found: dict[reference.Reference, str] = {}
    for text in texts:
        found.setdefault(_meaning(text), text)
        if len(found) > MAX_IMAGES:
            raise InvalidReference(f"the job asks for more than {MAX_IMAGES} images", hint=HINT)
    return Request(tuple(found.values()))


def _in_words(text: str) -> Iterator[str]:
    seen = text[:MAX_TEXT]
    words = _BETWEEN.split(seen)
    for number, word in enumerate(words, 1):
        if word.startswith(f"{WORD}="):
            # What is cut off might have pinned a digest, or named another directory.
            whole = number < len(words) or len(text) == len(seen) or _BETWEEN.match(text, MAX_TEXT) is not None
            yield from _in_list(word[len(WORD) + 1 :] or ",", whole=whole)


def _in_list(text: str, *, whole: bool) -> Iterable[str]:
    if not whole:
        raise InvalidReference(f"{WORD}= goes on behind the first {MAX_TEXT} characters", hint=HINT)
    return text.split(",") if text else ()


def _in_extra(text: str) -> Iterable[str]:
    if not text[:MAX_TEXT].lstrip(" \t\r\n").startswith("{"):
        return _in_words(text)
    from json import loads

    try:
        # Objects as pairs, so that a name that is there twice is seen: readers differ in which one counts.
        members = loads(text, object_pairs_hook=tuple) if len(text) <= MAX_TEXT else None
    except (ValueError, RecursionError):
        members = None
    if members is None:
        return _no_object(text)
    return [one for name, value in members if name == WORD for one in _in_value(value)]


def _no_object(text: str) -> tuple[()]:
    if f'"{WORD}"' in text[:MAX_TEXT]:
        raise InvalidReference(f"the job's extra is no JSON object of up to {MAX_TEXT} characters", hint=HINT)
    return ()


def _in_value(value: object) -> Iterable[str]:
    if isinstance(value, str):
        return _in_list(value or ",", whole=True)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    raise InvalidReference(f'"{WORD}" in the job\'s extra is neither a text nor a list of texts', hint=HINT)


def _meaning(text: str) -> reference.Reference:
    if not text:
        raise InvalidReference(f"{WORD}= names no image, or has a comma too many", hint=HINT)
    if len(text) > MAX_REFERENCE:
        why = f"the reference is {len(text)} characters long, the limit for jobs is {MAX_REFERENCE}"
        raise InvalidReference(why, hint=HINT)
    if not _PRINTABLE.fullmatch(text):
        raise InvalidReference(f"{_shown(text)} is not printable ASCII without blanks", hint=HINT)
    if not _ABSOLUTE.match(text):
        raise InvalidReference(f"{_shown(text)} is neither a URL nor an absolute path", hint=HINT)
    return reference.parse(text)


def _shown(text: str) -> str:
    """Quote what was refused, without what may be a password."""
    return ascii(text.rpartition("@")[2][:80])
