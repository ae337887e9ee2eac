"""The tables `[registry."HOST"]` of a settings file: where else a registry's images are, and how it is asked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stager import image_names, reference
from stager.errors import InvalidReference
from stager.kinds import BOOLEAN, Kind, Malformed

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS = ("mirrors", "plain_http")


@dataclass(frozen=True, slots=True)
class RegistrySetting:
    """One host's. `mirrors` are URLs, perhaps with a path, asked in this order before the host itself.

    `plain_http`: the host speaks HTTP, not HTTPS.
    """

    mirrors: tuple[str, ...] = ()
    plain_http: bool = False

    def describe(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def _registries(raw: object) -> dict[str, RegistrySetting]:
    if not isinstance(raw, dict):
        raise ValueError  # noqa: TRY004 - as Kind promises
    return {_host(host): _one(host, table) for host, table in raw.items()}


def _host(text: str) -> str:
    try:
        name = image_names.parse(f"{text}/x")
    except InvalidReference:
        name = None
    if name is None or name.user or name.repository not in ("x", "library/x") or text == "library":
        raise Malformed(
            f".{_key(text)}: {ascii(text)[:80]} is not the host of a registry",
            hint='write a line [registry."docker.io"] or [registry."host:5000"], with quotation marks',
        )
    return name.host


def _one(host: str, raw: object) -> RegistrySetting:
    if isinstance(raw, RegistrySetting):
        return raw
    if not isinstance(raw, dict):
        hint = f"write a line [registry.{_key(host)}], and below it mirrors = […] or plain_http = true"
        raise Malformed(f".{_key(host)} is a table, and cannot be {ascii(raw)[:80]}", hint=hint)
    for key in raw:
        if key not in KEYS:
            raise Malformed(f".{_key(host)}: there is no setting {key[:80]!a}", word=key, words=KEYS)
    return RegistrySetting(_mirrors(host, raw.get("mirrors", ())), _plain(host, raw.get("plain_http", False)))


def _plain(host: str, raw: object) -> bool:
    if not isinstance(raw, bool):
        raise Malformed(f".{_key(host)}: plain_http cannot be {ascii(raw)[:80]}; allowed: {BOOLEAN.allowed}")
    return raw


def _mirrors(host: str, raw: object) -> tuple[str, ...]:
    items = [raw] if isinstance(raw, str) else raw
    found = tuple(map(_url, items)) if isinstance(items, list | tuple) else (None,)
    if None in found:
        allowed = "a list of URLs without a query, each beginning with https:// or http://"
        raise Malformed(f".{_key(host)}: mirrors cannot be {ascii(raw)[:80]}; allowed: {allowed}")
    return tuple(url for url in found if url)


def _url(raw: object) -> str | None:
    try:
        parsed = reference.parse(raw) if isinstance(raw, str) else None
    except InvalidReference:
        return None
    if parsed is None or parsed.scheme not in reference.DEFAULT_PORTS or parsed.digest or "?" in parsed.location:
        return None
    return parsed.location


def _key(text: str) -> str:
    return json.dumps(text)[:80]


def _shown(registries: Mapping[str, RegistrySetting]) -> str:
    rows = (f"{json.dumps(host)} = {_row(one)}" for host, one in registries.items())
    return f"{{ {', '.join(rows)} }}" if registries else "{}"


def _row(one: RegistrySetting) -> str:
    return f"{{ mirrors = [{', '.join(map(json.dumps, one.mirrors))}], plain_http = {BOOLEAN.show(one.plain_http)} }}"


REGISTRY: Kind[Mapping[str, RegistrySetting]] = Kind(
    'tables, in a file, [registry."host"] with mirrors = ["https://…", …] and plain_http = true | false',
    _registries,
    _shown,
)
