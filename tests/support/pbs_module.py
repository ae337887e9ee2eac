"""A stand-in for the `pbs` module that MoM gives its hooks: as much of it as ours uses, told by $PBS_FAKE what happens.

It is no PBS: names and behaviour are from OpenPBS' documentation (pbs_hook_attributes(7B), the Hooks Guide). What the
hook did goes to stdout, one JSON object, when it accepts.
"""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import Any

EXECJOB_BEGIN, EXECHOST_PERIODIC = 1, 2
EVENT_DEBUG, EVENT_ERROR = 1, 2

_TOLD = json.loads(os.environ["PBS_FAKE"])
_LOG: list[str] = []

hook_config_filename = _TOLD.get("config")


class Event:
    """What happens: a job begins, or it is time to look round."""

    def __init__(self) -> None:
        self.type = _TOLD["type"]
        job = _TOLD.get("job", {})
        self.job = SimpleNamespace(id=job.get("id"), euser=job.get("euser"), Variable_List=job.get("variables", {}))
        self.vnode_list = {get_local_nodename(): SimpleNamespace(resources_available={})}

    def accept(self) -> None:
        resources = self.vnode_list[get_local_nodename()].resources_available
        print(json.dumps({"accepted": True, "log": _LOG, "resources": resources}), flush=True)
        raise SystemExit


_EVENT = Event


def event() -> Any:  # noqa: ANN401 - as in PBS
    return _EVENT()


def get_local_nodename() -> str:
    return "n1"


def logmsg(_level: int, text: str) -> None:
    _LOG.append(text)
