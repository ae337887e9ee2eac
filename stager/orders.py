"""What the coordinator tells a member: read with suspicion, since it may be of another version of the program."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from stager.quantity import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.interfaces import Message

MAX_TEXT = 8192
MAX_COUNT = 1 << 32
SHORTEST, LONGEST = 0.05, 30.0
"""Seconds between two reports, whatever a coordinator wants."""

KINDS = ("origin", "node", "wait", "keep", "check")
_HEX = frozenset("0123456789abcdef")


class NotUnderstood(ValueError):
    """An answer that no coordinator of this version would give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """One answer.

    `kind` is whom to pull from: the origin, the `node` at `address`, nobody (`wait`), as before (`keep`). With `check`
    the origin is to be asked about `asked`, and nothing else. `version`, `digest` and `root` are the image's, as far
    as they are known; `furthest` is how many bytes have come from the origin, `doing` what is done before the first of
    them: phase, done and in all. `error` is what ends the staging for
    everybody.
    """

    unknown: bool = False
    generation: int = 1
    kind: str = "keep"
    node: str = ""
    address: str = ""
    asked: Message = field(default_factory=dict)
    version: Message | None = None
    digest: str | None = None
    root: str | None = None
    furthest: int = 0
    interval: float = 0.2
    nodes: int = 0
    ready: int = 0
    error: Message | None = None
    trouble: str = ""
    doing: tuple[str, int, int] | None = None
    dismissed: bool = False
    elsewhere: bool = False
    closed: bool = False
    doubted: bool = False


def read(answer: Mapping[str, Any]) -> Orders:
    """Return what an answer says. Raises NotUnderstood."""
    if answer.get("unknown") is True:
        return Orders(unknown=True)
    upstream = _table(answer.get("upstream"), "upstream") or {}
    return Orders(
        generation=_count(answer, "generation", 1),
        kind=_kind(upstream.get("kind", "keep")),
        node=_text(upstream, "node"),
        address=_text(upstream, "address"),
        asked=_version(upstream.get("version")) or {},
        version=_version(answer.get("version")),
        digest=_sha256(answer, "digest"),
        root=_sha256(answer, "root"),
        furthest=_count(answer, "furthest", 0, MAX_SIZE),
        interval=min(max(_number(answer, "interval", 0.2), SHORTEST), LONGEST),
        nodes=_count(answer, "nodes", 0),
        ready=_count(answer, "ready", 0),
        error=_error(answer.get("error")),
        trouble=_text(answer, "trouble"),
        doing=_doing(answer.get("doing")),
        **{name: answer.get(name) is True for name in ("dismissed", "elsewhere", "closed", "doubted")},
    )


def _kind(value: object) -> str:
    if not isinstance(value, str) or value not in KINDS:
        raise NotUnderstood("there is no such upstream")
    return value


def _table(value: object, what: str) -> Message | None:
    if value is not None and not isinstance(value, dict):
        raise NotUnderstood(f"{what} is no object")
    return value


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise NotUnderstood(f"{name} is no text")
    return value


def _number(table: Mapping[str, Any], name: str, otherwise: float) -> float:
    value = table.get(name, otherwise)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_COUNT <= value <= MAX_COUNT:
        raise NotUnderstood(f"{name} is no number")
    if not isfinite(value):
        raise NotUnderstood(f"{name} is no number")
    return float(value)


def _count(table: Mapping[str, Any], name: str, low: int, high: int = MAX_COUNT) -> int:
    value = table.get(name, low)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise NotUnderstood(f"{name} is no number from {low} on")
    return value


def _sha256(table: Mapping[str, Any], name: str) -> str | None:
    value = _text(table, name)
    if value and (len(value) != 64 or not _HEX.issuperset(value)):
        raise NotUnderstood(f"{name} is no digest")
    return value or None


def _version(value: object) -> Message | None:
    table = _table(value, "version")
    if table is None:
        return None
    size = table.get("size")
    if size is not None:
        _count(table, "size", 0, MAX_SIZE)
    if not isinstance(table.get("private"), bool):
        raise NotUnderstood("private is neither true nor false")
    return {
        "etag": _text(table, "etag"),
        "modified": _text(table, "modified"),
        "size": size,
        "origin": _text(table, "origin"),
        "private": table["private"],
    }


def _doing(value: object) -> tuple[str, int, int] | None:
    table = _table(value, "doing")
    if table is None:
        return None
    phase = _text(table, "phase")
    if not phase.isprintable():  # it goes into a record of lines, and on terminals
        raise NotUnderstood("phase is no word")
    return phase, _count(table, "done", 0, MAX_SIZE), _count(table, "total", 0, MAX_SIZE)


def _error(value: object) -> Message | None:
    table = _table(value, "error")
    if table is None:
        return None
    return {"code": _count(table, "code", 1, 255), "message": _text(table, "message"), "hint": _text(table, "hint")}
