"""What Slurm tells its Prolog, Epilog and TaskProlog: hostile in part, since a job's user wrote it.

For the hooks: `is_off()`, asked first, and `HookEnvironment.read(environ)`. What each hook is told, by
`_build_env` of prep_script_slurmd.c and by measurement with 22.05:

| variable                       | Prolog, Epilog  | TaskProlog           |
|--------------------------------|-----------------|----------------------|
| SLURM_JOB_ID, _UID, _GID, _USER| yes             | yes, and the user's  |
| SLURM_JOB_RESTART_COUNT        | from 22.05      | never                |
| SLURM_JOB_COMMENT              | from 22.05      | never                |
| SLURM_JOB_EXTRA                | from 23.02      | never                |
| SPANK_<NAME>                   | by the plugin   | never                |
| SLURM_NODELIST, SLURMD_NODENAME| yes             | yes, and the user's  |
| SLURM_SCRIPT_CONTEXT           | from 19.05      | yes, and the user's  |

In a TaskProlog the user's own variables stand beside these: nothing there is a proof of anything.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stager.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stager.config import Config
    from stager.schedulers.request import Request
    from stager.schedulers.site import Site

SWITCH = "/etc/stage-image/disabled"
"""While it is there, every hook does nothing and says nothing."""

CONTEXTS = ("prolog_slurmd", "epilog_slurmd", "prolog_task", "epilog_task", "prolog_slurmctld", "epilog_slurmctld")
MAX_ID = 2**32 - 2
"""Of users and groups: 2**32 - 1 stands for none, in chown(2) and setresuid(2)."""

_JOB = re.compile(r"[1-9][0-9]{0,18}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,63}\$?")
_NODE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9_])?")


def is_off(switch: str = SWITCH) -> bool:
    """Whether the hooks are switched off on this node: by whatever lies there, also a link that leads nowhere."""
    return os.path.lexists(switch)


@dataclass(frozen=True, slots=True, kw_only=True)
class HookEnvironment:
    """Which job and node a hook runs for. Empty or None is what Slurm did not tell, or told absurdly.

    `restart` counts from 0. `comment`, `extra` and `spank` are the user's words as they are, which `request` takes
    apart. `context` is one of CONTEXTS.
    """

    job: str
    scope: str
    uid: int | None
    gid: int | None
    user: str
    restart: int
    node: str
    node_list: str
    comment: str
    extra: str
    spank: str
    private_tmp: bool
    context: str

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> HookEnvironment:
        """Return what the variables say. Raises ConfigError if they name no job."""
        get = environ.get
        job = get("SLURM_JOB_ID", "")
        if not _JOB.fullmatch(job):
            raise ConfigError(
                f"SLURM_JOB_ID is {job[:40]!a}, not the number of a job", hint="let Slurm start this, as its hook"
            )
        context = get("SLURM_SCRIPT_CONTEXT", "")
        return cls(
            job=job,
            scope=f"slurm-{job}",
            uid=_number(get("SLURM_JOB_UID", ""), MAX_ID),
            gid=_number(get("SLURM_JOB_GID", ""), MAX_ID),
            user=_matching(_USER, get("SLURM_JOB_USER", "")),
            restart=_number(get("SLURM_JOB_RESTART_COUNT", ""), 2**31) or 0,
            node=_matching(_NODE, get("SLURMD_NODENAME", "")),
            node_list=get("SLURM_NODELIST", ""),
            comment=get("SLURM_JOB_COMMENT", ""),
            extra=get("SLURM_JOB_EXTRA", ""),
            spank=get("SPANK_STAGE_IMAGE", ""),
            private_tmp=get("SPANK_STAGE_IMAGE_PRIVATE_TMP", "") == "1",
            context=context if context in CONTEXTS else "",
        )

    def request(self) -> Request:
        """Return the images that the job asks for. Raises InvalidReference."""
        from stager.schedulers.request import read

        return read(self.comment, self.extra, self.spank)

    def site(self, config: Config) -> Site:
        """Return the settings of `[slurm]`."""
        from stager.schedulers.site import Site

        return Site(
            table="slurm",
            allow=config.slurm_allow,
            budget=config.slurm_budget,
            strict=config.slurm_strict,
            private=config.slurm_private,
            private_for=config.slurm_private_for,
            private_shows=config.slurm_private_shows,
            images_at=config.slurm_images_at,
        )

    @property
    def node_rank(self) -> int | None:
        """This node's place among the job's, from 0; None if the list cannot be taken apart or has no such node."""
        from stager import node_names

        try:
            return node_names.expand(self.node_list).index(self.node)
        except (UsageError, ValueError):
            return None


def _number(text: str, most: int) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most:
        return int(text)
    return None


def _matching(pattern: re.Pattern[str], text: str) -> str:
    return text if pattern.fullmatch(text) else ""
