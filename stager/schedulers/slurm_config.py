"""What Slurm is configured to do: `scontrol show config`, plugstack.conf and job_container.conf, as text; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

UNSET = 65534
"""What is printed for a 16 bit time that nobody has set: NO_VAL16, slurm.h."""

CREDENTIAL_SECONDS = 120.0
"""How long a job's credential lasts unless AuthInfo says otherwise (slurm.conf(5), cred_expire)."""

CONTAINER_DIRECTORIES = ("/tmp", "/dev/shm")  # noqa: S108 - Slurm's, which we stay away from
"""What job_container/tmpfs makes private by itself (job_container.conf(5), Dirs)."""

_LINE = re.compile(r"(\w+(?:\[\d+\])?) *= ?(.*)")
_VERSION = re.compile(r"(\d+)\.(\d+)")
_NUMBER = re.compile(r"\d+")
_SPANK = re.compile(r"\s*(required|optional|include)\s+(\S+)\s*(.*)", re.IGNORECASE)


def read(text: str) -> dict[str, str]:
    """Return what `scontrol show config` printed, by name, of all its sections; empty where it says `(null)`.

    Of a name that comes twice, the first counts: the later sections are those of plugins.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is not None:
            found.setdefault(match[1], "" if match[2] == "(null)" else match[2].strip())
    return found


def version(config: Mapping[str, str]) -> tuple[int, int]:
    """Return year and month of Slurm's release, (0, 0) if it does not say."""
    match = _VERSION.match(config.get("SLURM_VERSION", ""))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def seconds(config: Mapping[str, str], name: str) -> float | None:
    """Return a time in seconds, None if it is not set or has no bound."""
    match = _NUMBER.match(config.get(name, ""))
    return float(match[0]) if match and int(match[0]) < UNSET else None


def words(config: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the words of a list with commas, in lower case, and what stands behind their `=`."""
    pairs = (word.strip().partition("=") for word in config.get(name, "").split(",") if word.strip())
    return {name.lower(): value for name, _, value in pairs}


def paths(config: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Return the programs of a hook: one, or in newer releases several, `Prolog[0]` and so on."""
    numbered = re.compile(rf"{name}(\[\d+\])?")
    return tuple(value for key, value in config.items() if numbered.fullmatch(key) and value)


def prolog_seconds(config: Mapping[str, str]) -> float | None:
    """Return after which time a Prolog is killed, None for never: PrologTimeout is of 25.05."""
    found = seconds(config, "PrologTimeout")
    return seconds(config, "PrologEpilogTimeout") if found is None else found


def epilog_seconds(config: Mapping[str, str]) -> float | None:
    """Return after which time an Epilog is killed, as `prolog_seconds` does."""
    found = seconds(config, "EpilogTimeout")
    return seconds(config, "PrologEpilogTimeout") if found is None else found


def credential_seconds(config: Mapping[str, str]) -> float:
    """Return how long a job's credential lasts."""
    found = words(config, "AuthInfo").get("cred_expire", "")
    return float(found) if found.isdecimal() else CREDENTIAL_SECONDS


def container(config: Mapping[str, str]) -> str:
    """Return the plugin that gives jobs directories of their own, empty for none; NamespaceType is of 25.11."""
    found = config.get("JobContainerType", "") or config.get("NamespaceType", "")
    return "" if found.endswith("/none") else found


@dataclass(frozen=True, slots=True)
class SpankPlugin:
    """A line of plugstack.conf (spank(8)). A plugin that is `required` and fails takes Slurm down with it."""

    required: bool
    path: str
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def mounts(self) -> tuple[str, ...]:
        """The directories that private-tmpdir, and what was made after it, gives each job for its own."""
        return tuple(word.partition("=")[2] for word in self.arguments if word.startswith("mount="))


def plugins(text: str) -> Iterator[SpankPlugin | str]:
    """Yield the plugins of a plugstack.conf, and as text the patterns of files that it includes, in order."""
    for line in text.splitlines():
        match = _SPANK.fullmatch(line.partition("#")[0])
        if match is None:
            continue
        kind = match[1].lower()
        yield match[2] if kind == "include" else SpankPlugin(kind == "required", match[2], tuple(match[3].split()))


def container_settings(text: str) -> dict[str, str]:
    """Return the settings of a job_container.conf, names in lower case; of one that comes twice, the last."""
    lines = (line.partition("#")[0] for line in text.splitlines())
    return {name.lower(): value for line in lines for name, value in re.findall(r"(\w+)=(\S+)", line)}


def container_directories(settings: Mapping[str, str]) -> tuple[str, ...]:
    """Return what job_container/tmpfs makes private to a job; /dev/shm always is."""
    named = [name for name in settings.get("dirs", "").split(",") if name]
    return (*named, "/dev/shm") if named else CONTAINER_DIRECTORIES  # noqa: S108 - as above
