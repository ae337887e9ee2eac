"""How a command runs in a container of a staged image: by which words, and with which environment.

Apptainer and Singularity read a container's Env, Entrypoint and WorkingDir from /.singularity.d inside of the image,
which their own builds write (apptainer, internal/pkg/util/fs/files/action_script.sh). A squashfs made of layers has
none, so that they are handed over by APPTAINERENV_NAME and --pwd. What that does to a variable is in the same project's
internal/pkg/util/env/clean.go and internal/pkg/runtime/engine/apptainer/process_linux.go (injectEnvHandler).
"""

from __future__ import annotations

import os
import pwd
import re
from typing import TYPE_CHECKING

from stager.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.oci import ContainerConfig

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What both runtimes append to the PATH of a container of Docker's, as far as it lacks that (clean.go; `fixpath`)."""

PREFIXES = {"apptainer": ("APPTAINERENV_", "SINGULARITYENV_"), "singularity": ("SINGULARITYENV_",)}
"""Runtime → the prefixes of the user's own variables for containers, the first one before the next."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

_NOT_OURS = frozenset(
    (
        *("HOME", "PWD", "IFS", "EUID", "UID", "GID", "OPTIND"),
        *("APPTAINER_SHELL", "APPTAINER_APPNAME", "SINGULARITY_SHELL", "SINGULARITY_APPNAME"),
        *("PREPEND_PATH", "APPEND_PATH"),
    )
)
"""Names that the runtimes refuse, with a warning for each, or that mean something else to them."""

_EVALUATED = re.compile(r"[\\$`]")


def inside(runtime: str, config: ContainerConfig | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what is to be added to `environ` for a container to have the image's Env: prefixed variables alone.

    None of them means anything to a program of the host. What the user has set for containers comes before the image.
    """
    if config is None or not config.env:
        return {}
    prefixes = PREFIXES[runtime]
    found = dict(line.split("=", 1) for line in config.env)
    names = [name for name in found if _NAME.fullmatch(name) and name not in _NOT_OURS]
    names = [name for name in names if not any(prefix + name in environ for prefix in prefixes)]
    quote = _is_literal(environ)
    values = {name: found[name] if quote else _EVALUATED.sub(r"\\\g<0>", found[name]) for name in names}
    if "PATH" in values:
        values["PATH"] = _whole_path(values["PATH"], prefixes, environ)
    return {prefixes[0] + name: value for name, value in values.items()}


def _is_literal(environ: Mapping[str, str]) -> bool:
    # Otherwise the runtime's shell evaluates what stands in these variables, once, within double quotes; a container's
    # Env is meant literally (config.md of the OCI image specification says "NAME=VALUE", and runc does nothing to it).
    return any(
        environ.get(f"{name}_NO_EVAL", "").lower() in ("1", "t", "true") for name in ("APPTAINER", "SINGULARITY")
    )


def _whole_path(path: str, prefixes: tuple[str, ...], environ: Mapping[str, str]) -> str:
    # A PATH that is set beats what is to be before and behind it (runtime_vars.sh), so that these go into it.
    given = path.split(":")
    missing = [folder for folder in DEFAULT_PATH.split(":") if folder not in given]
    before, behind = (
        next((environ[prefix + name] for prefix in prefixes if environ.get(prefix + name)), "")
        for name in ("PREPEND_PATH", "APPEND_PATH")
    )
    return ":".join(filter(None, (before, path, *missing, behind)))


def words(config: ContainerConfig | None, command: list[str], *, entrypoint: bool) -> list[str]:
    """Return what runs in the container: `command`, or the image's Entrypoint with it or else with the image's Cmd.

    Raises UsageError where the image says nothing of that.
    """
    if command and not entrypoint:
        return command
    if config is None:
        why = "the image is not one of layers, and says nothing of what to run"
        raise UsageError(f"exec needs a command after `--`: {why}", hint="stage-image exec REF -- CMD [ARG…]")
    found = [*config.entrypoint, *(command or config.cmd)]
    if not found:
        why = "the image has neither an Entrypoint nor a Cmd"
        raise UsageError(f"exec needs a command after `--`: {why}", hint="stage-image exec REF -- CMD [ARG…]")
    return found


def place(config: ContainerConfig | None) -> list[str]:
    """Return the option by which Entrypoint and Cmd run in the image's WorkingDir, if it names one."""
    return [f"--pwd=/{config.working_dir.lstrip('/')}"] if config and config.working_dir else []


def stranger(config: ContainerConfig | None) -> str:
    """Return the user whom the image's maker meant to run it, if that is neither root nor the caller; else ""."""
    user = config.user.partition(":")[0] if config else ""
    return "" if user in ("", "root", "0", str(os.geteuid()), _own_name()) else user


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""
