# ruff: noqa: INP001 - a file that PBS imports by itself, and no package
"""A hook of OpenPBS: images are on their way before a job starts, and vnodes tell which ones they hold.

docs/how-to/openpbs.md says how to install it. MoM runs it as root, with the `pbs` module, by PBS' own Python (3.6 or
later), for two events:

execjob_begin     on every node of a job: what its Variable_List has as STAGE_IMAGE_REFERENCE is staged as the job's
                  user. MoM waits for hooks, so this one starts a process and is done; the job's own stage-image waits
                  for what is still on its way. It never rejects, and what it logs is for admins.
exechost_periodic the items of the load sensor become resources_available.stage_images of this node (string_array).

Nothing here takes part in what the process does: that is all `stage-image`, whose place and store the hook's
configuration names (`import hook … application/x-config`), a JSON object: {"command": "/usr/bin/stage-image"}.
"""

import json
import os
import pwd
import re
import subprocess
from typing import Any

import pbs

DISABLED = "/etc/stage-image/disabled"
RESOURCE = "stage_images"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VALUE_MAX = 4000
"""Characters of the resource: MoM sends it to the server with every change, and the scheduler reads it each cycle."""

SCHEMES = r"/|https?://|file://|docker://|oras://|library://|(?:oci|oci-archive|docker-archive):/"
REFERENCE = re.compile(rf"(?:{SCHEMES})[A-Za-z0-9._:/@+=~,%-]{{1,2000}}")
"""What a user may have asked for. It becomes one argument of a process of theirs, and no shell sees it."""

SECONDS = 10
"""For the load sensor, which itself takes a second at most where a store does not answer."""


def settings() -> "dict[str, Any]":
    """Return the hook's configuration: where `stage-image` is, and what else its environment is to have."""
    found = {"command": "stage-image", "environment": {}}
    if pbs.hook_config_filename:
        with open(pbs.hook_config_filename, encoding="utf-8") as file:
            found.update(json.load(file))
    return found


def command(environment: "dict[str, str]", *words: str) -> "list[str]":
    """Return a command line that runs with this environment only."""
    return ["env", "-i", *(f"{name}={value}" for name, value in sorted(environment.items())), *words]


def begin(job: Any) -> None:  # noqa: ANN401 - PBS' own, and no type is to be had
    """Start the staging of what a job asks for, if it does."""
    reference = str(job.Variable_List.get("STAGE_IMAGE_REFERENCE") or "")
    if not reference:
        return
    if not REFERENCE.fullmatch(reference):
        pbs.logmsg(pbs.EVENT_DEBUG, f"stage-image: {job.id} asks for what is no reference")
        return
    user = pwd.getpwnam(str(job.euser))
    if user.pw_uid == 0:
        return
    found = settings()
    environment = {"PATH": PATH, "HOME": user.pw_dir, "PBS_JOBID": str(job.id), **found["environment"]}
    words = command(environment, found["command"], reference)
    # In a session of its own: PBS ends what is left of a hook that ran into its alarm.
    subprocess.Popen(
        ["runuser", "-u", user.pw_name, "--", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={"PATH": PATH},
    )


def items() -> "list[str]":
    """Return the items of all images here, the image used last first."""
    found = settings()
    words = command({"PATH": PATH, **found["environment"]}, found["command"], "load-sensor")
    done = subprocess.run(
        words, input=b"\n", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS, check=True
    )
    values = re.findall(r"^[^:]*:stage_images[0-9]*:;(.*);$", done.stdout.decode("ascii", "replace"), re.MULTILINE)
    return [item for value in values for item in value.split(";")]


def publish(event: Any) -> None:  # noqa: ANN401 - as above
    """Tell the server what this node holds, within so many characters."""
    told = []
    for item in items():
        if len(",".join([*told, item])) > VALUE_MAX:
            break
        told.append(item)
    event.vnode_list[pbs.get_local_nodename()].resources_available[RESOURCE] = ",".join(told) or "none"


def main() -> None:
    """Do what the event is for. A hook that fails has its job requeued, and perhaps its node taken out of service."""
    event = pbs.event()
    try:
        if not os.path.lexists(DISABLED):
            if event.type == pbs.EXECJOB_BEGIN:
                begin(event.job)
            elif event.type == pbs.EXECHOST_PERIODIC:
                publish(event)
    except Exception as error:  # noqa: BLE001 - whatever it is, the job is to start
        pbs.logmsg(pbs.EVENT_ERROR, f"stage-image: {error!r}")
    event.accept()


main()
