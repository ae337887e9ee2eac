"""What a server says of how to log in: WWW-Authenticate (RFC 9110, 11.6.1), written by strangers; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

LONGEST = 8192
"""Characters of the header that are looked at."""

_MANY = 16
"""Challenges, and parameters of each, that are kept."""

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_BLANK = re.compile(r"[ \t,]*+")
_SCHEME = re.compile(rf"({_WORD})(?=[ \t,]|$)")
# Values without quotes hold more than the grammar allows, in practice: realm=https://host/token.
_PARAMETER = re.compile(rf'({_WORD})[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|([^\s,"]++))')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to log in: `scheme` and the names of parameters in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> list[Challenge]:
    """Return the challenges in a header, or in several joined by commas, up to where it cannot be understood."""
    text = text[:LONGEST]
    found: list[Challenge] = []
    position = _after_blanks(text, 0)
    while position < len(text):
        # A parameter first: `realm = "x"` could begin a challenge of the scheme `realm`.
        match = _PARAMETER.match(text, position)
        if match and found:
            _add(found[-1].parameters, match[1].lower(), match[3] or _ESCAPED.sub(r"\1", match[2] or ""))
        elif (match := _SCHEME.match(text, position)) and len(found) < _MANY:
            found.append(Challenge(match[1].lower()))
        else:
            break
        position = _after_blanks(text, match.end())
    return found


def best(challenges: list[Challenge]) -> Challenge | None:
    """Return the challenge to meet: a token, which is for one repository and an hour, before a password."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme and (scheme == "basic" or challenge.parameters.get("realm")):
                return challenge
    return None


def _after_blanks(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _add(parameters: dict[str, str], name: str, value: str) -> None:
    if len(parameters) < _MANY:
        parameters.setdefault(name, value)
