"""Kinds of settings: what a value may be, how it is read from a file, a variable or a flag, and how it is shown."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from stager import quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

LONGEST = 7 * 86400.0
"""Seconds. A wait without a bound is a hang; a week is longer than any."""

_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252})(?::([0-9]{1,5}))?")
_INTERFACE = re.compile(r"[A-Za-z0-9._@-]{1,15}")
"""15 bytes and a NUL: IFNAMSIZ of linux/if.h."""

ZOOKEEPER_PORT = 2181
_PLACES = ("https://", "http://", "file:///", "/")
_PREFIXES = (*_PLACES, "docker://", "oras://", "library://")


@dataclass(frozen=True)
class Kind(Generic[T]):
    """`parse` takes a TOML value or a text and raises ValueError; `show` gives the TOML that `parse` takes back.

    `allowed` says in words what is taken; `words` lists the only values, if there is a list.
    """

    allowed: str
    parse: Callable[[object], T]
    show: Callable[[T], str]
    words: tuple[str, ...] = ()


class Malformed(ValueError):
    """What exactly is wrong within a table: `message` goes on behind the setting's name, `words` are what there is."""

    def __init__(self, message: str, *, hint: str = "", word: str = "", words: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message, self.hint, self.word, self.words = message, hint, word, words


def choice(*words: str) -> Kind[str]:
    """Return the kind of a setting that is one of some words."""

    def parse(raw: object) -> str:
        if raw not in words:
            raise ValueError
        return str(raw)

    return Kind(" | ".join(words), parse, _quoted, words)


def count(low: int, high: int) -> Kind[int]:
    """Return the kind of a whole number within bounds, both included."""

    def parse(raw: object) -> int:
        number = int(raw) if isinstance(raw, str) and raw.isascii() and raw.isdigit() and len(raw) < 10 else raw
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise ValueError
        return number

    return Kind(f"a whole number from {low} to {high}", parse, str)


def duration(low: float, high: float, bounds: str) -> Kind[float]:
    """Return the kind of a time within bounds in seconds, both included; `bounds` says them in words."""

    def parse(raw: object) -> float:
        seconds = _seconds(raw)
        if not low <= seconds <= high:
            raise ValueError
        return seconds

    return Kind(f"{quantity.TIME_WORDS}; {bounds}", parse, lambda seconds: _quoted(quantity.format_duration(seconds)))


def port_range(text: str) -> range:
    """Return the ports that `21940-21964` or `21940` means, the last one included; ValueError for anything else."""
    match = _PORTS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no range of ports")
    ports = range(int(match[1]), int(match[2] or match[1]) + 1)
    if not ports or ports[0] < 1 or ports[-1] > 65535:
        raise ValueError(f"{text!r} is no range of ports")
    return ports


def _text(raw: object) -> str:
    if not isinstance(raw, str) or any(ord(c) < 32 or ord(c) == 127 for c in raw):
        raise ValueError
    return raw


def _path(raw: object) -> str:
    path = _text(raw)
    if path and not path.startswith("/"):
        raise ValueError
    return path


def _name(raw: object) -> str:
    name = _text(raw)
    if not _NAME.fullmatch(name):
        raise ValueError
    return name


def _ports(raw: object) -> str:
    text = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else _text(raw)
    if text:
        port_range(text)
    return text


def _zookeeper(raw: object) -> str:
    text = _text(raw)
    servers, slash, chroot = text.partition("/")
    if not text:
        return ""
    if slash and not all(_NAME.fullmatch(word) and word.strip(".") for word in chroot.split("/")):
        raise ValueError
    return ",".join(_server(server.strip(" ")) for server in servers.split(",")) + slash + chroot


def _server(text: str) -> str:
    match = _SERVER.fullmatch(text)
    if match is None:
        raise ValueError
    if match[1].startswith("["):
        from ipaddress import IPv6Address

        IPv6Address(match[1][1:-1])
    return f"{match[1]}:{port_range(match[2] or str(ZOOKEEPER_PORT))[0]}"


def _interface(raw: object) -> str:
    from ipaddress import ip_address, ip_network

    text = _text(raw)
    if "/" in text:
        return str(ip_network(text, strict=False))
    if ":" in text or (text and not text.strip("0123456789.")):
        return str(ip_address(text))
    if text and not _INTERFACE.fullmatch(text):
        raise ValueError
    return text


def _platform(raw: object) -> str:
    from stager.errors import InvalidReference
    from stager.oci import Platform

    text = _text(raw)
    try:
        return str(Platform.parse(text)) if text else ""
    except InvalidReference as error:
        raise ValueError(error.message) from error


def _url(raw: object) -> str:
    from stager.errors import InvalidReference
    from stager.reference import DEFAULT_PORTS, parse

    try:
        parsed = parse(_text(raw))
    except InvalidReference as error:
        raise ValueError(error.message) from error
    if parsed.scheme not in DEFAULT_PORTS or parsed.digest or "?" in parsed.location:
        raise ValueError
    return parsed.location.rstrip("/")


def _boolean(raw: object) -> bool:
    value = raw if isinstance(raw, bool) else _BOOLEANS.get(_text(raw).lower())
    if value is None:
        raise ValueError
    return value


def _size(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise ValueError  # noqa: TRY004 - as Kind promises
    return quantity.parse_size(str(raw))


def _limit(raw: object) -> int | None:
    return None if raw == "" else _positive(_size(raw))


def _seconds(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise ValueError  # noqa: TRY004 - as Kind promises
    seconds = quantity.parse_duration(raw) if isinstance(raw, str) else float(raw)
    if not 0 <= seconds <= LONGEST:
        raise ValueError
    return seconds


def _positive(number: T) -> T:
    if not number:
        raise ValueError
    return number


def _mirrors(raw: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(raw, dict):
        raise ValueError  # noqa: TRY004 - as Kind promises
    lists = {_place(prefix): [to] if isinstance(to, str) else to for prefix, to in raw.items()}
    if not all(isinstance(to, list | tuple) and to for to in lists.values()):
        raise ValueError
    return {prefix: tuple(_place(item) for item in to) for prefix, to in lists.items()}


def _place(raw: object) -> str:
    if not _text(raw).startswith(_PLACES):
        raise ValueError
    return str(raw)


def _prefix(raw: object) -> str:
    if not _text(raw).startswith(_PREFIXES):
        raise ValueError
    return str(raw)


def _prefixes(raw: object) -> tuple[str, ...]:
    return tuple(_prefix(item) for item in _list(raw))


def _places(raw: object) -> tuple[str, ...]:
    items = tuple(_text(item) for item in _list(raw))
    if not all(part.startswith("/") for item in items for part in item.split("=", 1)):
        raise ValueError
    return items


def _paths(raw: object) -> tuple[str, ...]:
    items = tuple(_path(item) for item in _list(raw))
    if not all(item == os.path.normpath(item) != "/" for item in items):
        raise ValueError
    return items


def _list(raw: object) -> list[object]:
    if isinstance(raw, str):
        return list(_text(raw).split())
    if not isinstance(raw, list | tuple):
        raise ValueError  # noqa: TRY004 - as Kind promises
    return list(raw)


def _listed(items: tuple[str, ...]) -> str:
    return f"[{', '.join(map(_quoted, items))}]"


def _quoted(text: str) -> str:
    # A TOML basic string is a JSON string, as long as no DEL and no surrogate pair is in it; parse refuses the first.
    return json.dumps(text, ensure_ascii=False)


def _table(mirrors: Mapping[str, tuple[str, ...]]) -> str:
    rows = (f"{_quoted(prefix)} = [{', '.join(map(_quoted, to))}]" for prefix, to in mirrors.items())
    return f"{{ {', '.join(rows)} }}" if mirrors else "{}"


PATH = Kind("an absolute path, or empty", _path, _quoted)
BOOLEAN = Kind("true | false", _boolean, lambda value: str(value).lower())
SIZE = Kind(quantity.SIZE_WORDS, _size, lambda size: _quoted(quantity.format_size(size)))
LIMIT: Kind[int | None] = Kind(
    f"{quantity.SIZE_WORDS}; not 0; empty for none",
    _limit,
    lambda size: _quoted("" if size is None else quantity.format_size(size)),
)
TIME = Kind(
    f"{quantity.TIME_WORDS}; more than 0, at most 7d",
    lambda raw: _positive(_seconds(raw)),
    lambda seconds: _quoted(quantity.format_duration(seconds)),
)
TIME_OR_ZERO = Kind(f"{quantity.TIME_WORDS}; at most 7d", _seconds, TIME.show)
MIRRORS: Kind[Mapping[str, tuple[str, ...]]] = Kind(
    'a table, in a file, of "prefix" = ["prefix", …], each beginning with https://, http://, file:/// or /',
    _mirrors,
    _table,
)
PREFIXES = Kind(
    "a list, in a file, or words, each beginning with https://, http://, docker://, oras://, library://, file:/// or /",
    _prefixes,
    _listed,
)
PLATFORM = Kind("os/architecture, os/architecture/variant, an architecture, or empty", _platform, _quoted)
URL = Kind("a URL that begins with https:// or http://, without a query", _url, _quoted)
PATHS = Kind("a list, in a file, or words, each an absolute path in its shortest form", _paths, _listed)
PLACES = Kind("a list, in a file, or words, each an absolute path or two with = between them", _places, _listed)
NAME = Kind("1 to 64 letters, digits, dots, underscores and hyphens", _name, _quoted)
PORTS = Kind("first-last, each from 1 to 65535, or one port, or empty", _ports, _quoted)
ZOOKEEPER = Kind(
    "host:port,host:port…/path, or empty; the port may be left out, and so may the path", _zookeeper, _quoted
)
INTERFACE = Kind("the name of an interface, an address, a network such as 10.1.0.0/16, or empty", _interface, _quoted)
