"""Asking and changing Grid Engine by `qconf`, the one program for it in every release."""

from __future__ import annotations

import os
import tempfile
from typing import NoReturn

from stager import program
from stager.errors import AccessDenied, ClusterUnavailable, InUse
from stager.program import ProgramFailed

TIMEOUT = 20.0
"""Seconds. A qconf whose qmaster does not answer may wait for minutes."""


def ask(*words: str) -> str:
    """Return what `qconf` prints, each value on one line. Raises AccessDenied, InUse, ClusterUnavailable."""
    environ = {**os.environ, "LC_ALL": "C", "SGE_SINGLE_LINE": "1"}
    try:
        return program.run(["qconf", *words], timeout=TIMEOUT, env=environ)
    except ProgramFailed as failed:
        _fail(failed)


def change(option: str, text: str, name: str) -> None:
    """Give `qconf` an object by file: by option -Mc, -Mconf. Raises as `ask` does.

    The file's name is the object's: with -Mconf, qconf takes it for the name of the host, or `global`.
    """
    with tempfile.TemporaryDirectory(prefix="stage-image-") as folder:
        path = f"{folder}/{name}"
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        ask(option, path)


def _fail(failed: ProgramFailed) -> NoReturn:
    said = failed.stderr.splitlines()
    if "still referenced" in failed.stderr:
        hint = "hosts tell of images until their next report, and jobs may ask for them: try again later"
        raise InUse(f"Grid Engine refuses: {said[0]}", hint=hint) from failed
    if "denied" in failed.stderr:
        hint = "run it on an administrative host, as root or a manager: qconf -sh, qconf -sm"
        raise AccessDenied(f"Grid Engine refuses: {said[0]}", hint=hint) from failed
    hint = "run it where Grid Engine's commands are, with SGE_ROOT set and qmaster up: `qconf -sss`"
    raise ClusterUnavailable(f"Grid Engine cannot be asked: {failed}", hint=hint) from failed
