"""Settings: defaults < site file < user file < environment < flags, each value knowing where it came from.

What settings there are is in `stager.settings`; whoever reads them imports this. Not imported on the warm path.
"""

from __future__ import annotations

import os
from itertools import chain
from typing import TYPE_CHECKING, Any

from stager import settings_file
from stager.errors import ConfigError
from stager.kinds import Malformed
from stager.settings import KEYS, LABELLED, TABLES, Config, Key, Setting
from stager.variables import PREFIX, SITE_FILE, SITE_VARIABLE, is_setting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["KEYS", "TABLES", "Config", "Key", "Setting", "default_user_file", "load"]


def load(
    environ: Mapping[str, str],
    flags: Mapping[str, object] | None = None,
    *,
    site_file: str = SITE_FILE,
    user_file: str | None = None,
) -> Config:
    """Return the settings of all sources. `flags` maps names to values, None where not given.

    STAGE_IMAGE_CONFIG replaces `site_file`; `user_file` is by default the one of `environ`, and none if empty. An empty
    variable counts as unset. Raises ConfigError.
    """
    own_file = default_user_file(environ) if user_file is None else user_file
    named = environ.get(SITE_VARIABLE, "")
    values: dict[str, Any] = {}
    sources = dict.fromkeys(KEYS, "default")
    for source, label, raw in chain(
        _from_file(named or site_file, own=False, must_exist=bool(named)),
        _from_file(own_file, own=True, must_exist=False),
        _from_environ(environ),
        _from_flags(flags or {}),
    ):
        value = _parsed(source, label, raw)
        name = LABELLED[label].name
        if name == "registry" and values.get(name):
            # A table for each host: one's own for one host does not undo the site's for another.
            values[name], sources[name] = {**values[name], **value}, f"{sources[name]}, {source}"
        else:
            values[name], sources[name] = value, source
    return Config(**values, sources=sources)


def default_user_file(environ: Mapping[str, str]) -> str:
    """Return where the user's settings are by the XDG base directory specification; empty without a home.

    The home is never looked up in the user database: on a cluster that is LDAP, asked by all tasks at once.
    """
    home = environ.get("HOME", "")
    folder = environ.get("XDG_CONFIG_HOME", "") or (home and f"{home}/.config")
    return f"{folder}/stage-image/config.toml" if folder.startswith("/") else ""


def _from_file(path: str, *, own: bool, must_exist: bool) -> Iterator[tuple[str, str, object]]:
    if path in ("", os.devnull):
        return
    content = settings_file.read(path, own=own)
    if content is None and must_exist:
        raise ConfigError(f"{path}, named by {SITE_VARIABLE}, is not there")
    if not content:
        return
    import tomllib  # 3 ms of CPU, and most nodes have no file

    try:
        table = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="see https://toml.io") from error
    for name, raw in table.items():
        if name in TABLES and isinstance(raw, dict):
            yield from ((path, f"{name}.{key}", value) for key, value in raw.items())
        else:
            yield path, name, raw


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, str, object]]:
    for variable in sorted(environ):
        if is_setting(variable) and environ[variable]:
            yield variable, _label(variable.removeprefix(PREFIX).lower()), environ[variable]


def _from_flags(flags: Mapping[str, object]) -> Iterator[tuple[str, str, object]]:
    for name, raw in flags.items():
        if raw is not None:
            yield f"--{name.removeprefix('convert_').replace('_', '-')}", _label(name), raw


def _label(name: str) -> str:
    return KEYS[name].label if name in KEYS else name


def _parsed(source: str, label: str, raw: object) -> Any:  # noqa: ANN401 - as many kinds as there are settings
    place = source if source.isprintable() else ascii(source)
    if label not in LABELLED:
        if label in TABLES and not source.startswith(PREFIX):
            hint = f"its settings stand below a line [{label}], or are written {label}.name = …"
            raise ConfigError(f"{place}: {label} is a table, and cannot be {ascii(raw)[:80]}", hint=hint)
        raise ConfigError(f"{place}: there is no setting {label!a}", hint=_suggestion(source, label, LABELLED))
    kind = LABELLED[label].kind
    try:
        return kind.parse(raw)
    except Malformed as error:
        hint = error.hint or _suggestion(source, error.word, error.words)
        raise ConfigError(f"{place}: {label}{error.message}", hint=hint) from error
    except ValueError as error:
        shown = ascii(raw)[:80]
        message = f"{place}: {label} cannot be {shown}; allowed: {kind.allowed}"
        raise ConfigError(message, hint=_suggestion(source, str(raw)[:80], kind.words)) from error


def _suggestion(source: str, word: str, words: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word.lower().replace("-", "_"), list(words), n=1)
    if not close:
        return ""
    known_variable = source.startswith(PREFIX) and close[0] in LABELLED
    return f"did you mean {LABELLED[close[0]].variable if known_variable else close[0]}?"
