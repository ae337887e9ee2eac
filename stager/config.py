"""Settings: defaults < site file < user file < environment < flags, each value knowing where it came from.

The fields of `Config` are the one table of all settings, with kind, default and meaning: the files, the variables,
`stage-image config show` and docs/reference/configuration.md come from it. Not imported on the warm path.
"""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from stager import kinds
from stager.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from stager.kinds import Kind

T = TypeVar("T")

SITE_FILE = "/etc/stage-image/config.toml"
PREFIX = "STAGE_IMAGE_"
SITE_VARIABLE = "STAGE_IMAGE_CONFIG"
RESERVED = {
    SITE_VARIABLE: f"a file to read instead of {SITE_FILE}; `/dev/null` for none",
    "STAGE_IMAGE_PYTHON": "the Python interpreter that the shell wrapper starts",
    "STAGE_IMAGE_PATH": "set for the command that `exec` runs: the staged file",
    "STAGE_IMAGE_ROOT": "set for the command that `exec` runs: the mountpoint, if mounted",
    "STAGE_IMAGE_DIGEST": "set for the command that `exec` runs: the image's digest",
}
"""Variables that are no settings. So are all that begin with STAGE_IMAGE_TEST_."""

MAX_FILE = 1 << 20
"""Bytes. No settings file comes near."""


def _setting(default: T, kind: Kind[Any], doc: str) -> T:
    return field(default_factory=lambda: default, metadata={"kind": kind, "doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings; sizes in bytes, times in seconds. `sources` maps every name to where its value came from."""

    store: str = _setting("", kinds.PATH, "The store's directory, on the node's local disk; empty: the default place.")
    freshness: Literal["always", "job", "never"] = _setting(
        "job",
        kinds.choice("always", "job", "never"),
        "When to ask the origin whether a staged image is still current: at every call, once per job, or never.",
    )
    offline: Literal["allow", "refuse"] = _setting(
        "allow",
        kinds.choice("allow", "refuse"),
        "Whether a staged image may be used while its origin cannot be reached.",
    )
    mount: Literal["auto", "loop", "fuse", "none"] = _setting(
        "auto",
        kinds.choice("auto", "loop", "fuse", "none"),
        "How to mount images; `auto` takes the first way that works here.",
    )
    runtime: Literal["auto", "apptainer", "singularity", "none"] = _setting(
        "auto",
        kinds.choice("auto", "apptainer", "singularity", "none"),
        "The container runtime of `exec`; `none` runs the command on the host.",
    )
    connect_timeout: float = _setting(10.0, kinds.TIME, "How long an origin may take to accept a connection.")
    stall_timeout: float = _setting(60.0, kinds.TIME, "How long an origin may send nothing before it is given up.")
    deadline: float = _setting(300.0, kinds.TIME, "How long to go on without any progress, retries included.")
    failure_backoff: float = _setting(
        10.0, kinds.TIME_OR_ZERO, "How long a failure is remembered, so that waiting tasks do not each repeat it."
    )
    connections: int = _setting(4, kinds.count(1, 16), "How many connections to an origin one download may use.")
    ca_file: str = _setting("", kinds.PATH, "Certificates to trust for HTTPS, as PEM; empty: those of the system.")
    token_file: str = _setting("", kinds.PATH, "A file with a bearer token for the origin; empty: none.")
    min_free: int = _setting(64 << 20, kinds.SIZE, "How much space to leave free on the store's file system.")
    max_size: int | None = _setting(None, kinds.LIMIT, "How large all images of the store together may become.")
    allow_unsafe_store: bool = _setting(
        default=False,
        kind=kinds.BOOLEAN,
        doc="Whether to go on with a warning where the store's file system cannot be trusted.",
    )
    progress: Literal["auto", "bar", "lines", "none"] = _setting(
        "auto",
        kinds.choice("auto", "bar", "lines", "none"),
        "How to show progress on stderr; `auto` draws a bar on a terminal and writes lines elsewhere.",
    )
    mirrors: Mapping[str, tuple[str, ...]] = _setting(
        {},
        kinds.MIRRORS,
        "Where else to fetch from: a prefix of references, and what to put in its place, in order.",
    )
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def setting(self, name: str) -> Setting[Any]:
        """Return a value with its source; KeyError for a name that is none."""
        return Setting(getattr(self, KEYS[name].name), self.sources.get(name, "default"))


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """A value, and where it came from: `default`, a file's path, a variable's name or a flag."""

    value: T
    source: str


@dataclass(frozen=True, slots=True)
class Key:
    """A row of the table."""

    name: str
    kind: Kind[Any]
    default: Any
    doc: str

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()


def _keys(defaults: Config) -> dict[str, Key]:
    rows = [(f.name, f.metadata["kind"], f.metadata["doc"]) for f in fields(defaults) if f.metadata]
    return {name: Key(name, kind, getattr(defaults, name), doc) for name, kind, doc in rows}


KEYS = _keys(Config())


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
    for source, name, raw in chain(
        _from_file(named or site_file, own=False, must_exist=bool(named)),
        _from_file(own_file, own=True, must_exist=False),
        _from_environ(environ),
        _from_flags(flags or {}),
    ):
        values[name] = _parsed(source, name, raw)
        sources[name] = source
    return Config(**values, sources=sources)


def default_user_file(environ: Mapping[str, str]) -> str:
    """Return where the user's settings are by the XDG base directory specification; empty without a home.

    The home is never looked up in the user database: on a cluster that is LDAP, asked by all tasks at once.
    """
    home = environ.get("HOME", "")
    folder = environ.get("XDG_CONFIG_HOME", "") or (home and f"{home}/.config")
    return f"{folder}/stage-image/config.toml" if folder.startswith("/") else ""


def refusal(status: os.stat_result, euid: int, *, own: bool) -> str:
    """Return why a process of `euid` must not believe a settings file, or nothing. `own`: the user's own file.

    Root believes root alone. Others may have their own file group-writable, as a umask of 002 makes it.
    """
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_uid not in {0, euid}:
        return f"belongs to uid {status.st_uid}"
    others = stat.S_IWOTH if own and euid != 0 else stat.S_IWOTH | stat.S_IWGRP
    return "can be written by others" if status.st_mode & others else ""


def _from_file(path: str, *, own: bool, must_exist: bool) -> Iterator[tuple[str, str, object]]:
    if path in ("", os.devnull):
        return
    content = _content(path, own=own, must_exist=must_exist)
    try:
        table = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="see https://toml.io") from error
    for name, raw in table.items():
        yield path, name, raw


def _content(path: str, *, own: bool, must_exist: bool) -> bytes:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if reason := refusal(os.fstat(file.fileno()), os.geteuid(), own=own):
                raise ConfigError(f"{path} {reason}, so it is not believed", hint=_trust_hint(path))
            return file.read(MAX_FILE)
    except (FileNotFoundError, NotADirectoryError) as error:
        if must_exist:
            raise ConfigError(f"{path}, named by {SITE_VARIABLE}, is not there") from error
        return b""
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _without_waiting(path: str, flags: int) -> int:
    # A FIFO in the place of the file would hold us for ever: fifo(7), O_NONBLOCK.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _trust_hint(path: str) -> str:
    owner = "root" if os.geteuid() == 0 else "root or you"
    return f"it must be a file of {owner} that nobody else can write: see `ls -lL {path}`"


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, str, object]]:
    for variable in sorted(environ):
        product = variable.startswith(PREFIX) and variable not in RESERVED
        if product and not variable.startswith("STAGE_IMAGE_TEST_") and environ[variable]:
            yield variable, variable.removeprefix(PREFIX).lower(), environ[variable]


def _from_flags(flags: Mapping[str, object]) -> Iterator[tuple[str, str, object]]:
    for name, raw in flags.items():
        if raw is not None:
            yield f"--{name.replace('_', '-')}", name, raw


def _parsed(source: str, name: str, raw: object) -> object:
    place = source if source.isprintable() else ascii(source)
    if name not in KEYS:
        raise ConfigError(f"{place}: there is no setting {name!a}", hint=_suggestion(source, name, KEYS))
    kind = KEYS[name].kind
    try:
        return kind.parse(raw)
    except ValueError as error:
        shown = ascii(raw)[:80]
        message = f"{place}: {name} cannot be {shown}; allowed: {kind.allowed}"
        raise ConfigError(message, hint=_suggestion(source, str(raw)[:80], kind.words)) from error


def _suggestion(source: str, word: str, words: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word.lower().replace("-", "_"), list(words), n=1)
    if not close:
        return ""
    known_variable = source.startswith(PREFIX) and close[0] in KEYS
    return f"did you mean {KEYS[close[0]].variable if known_variable else close[0]}?"
