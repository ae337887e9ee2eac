"""The names of our own variables: settings, what tasks are told, and what tests set."""

from __future__ import annotations

SITE_FILE = "/etc/stage-image/config.toml"
PREFIX = "STAGE_IMAGE_"
SITE_VARIABLE = "STAGE_IMAGE_CONFIG"

RESERVED = {
    SITE_VARIABLE: f"a file to read instead of {SITE_FILE}; `/dev/null` for none",
    "STAGE_IMAGE_PYTHON": "the Python interpreter that the shell wrapper starts",
    "STAGE_IMAGE_BIN": "the `PATH` of a site's hooks, whose scheduler gives them none",
    "STAGE_IMAGE_PATH": "set for the command that `exec` runs, and for tasks of a job that was submitted with an image:"
    " the staged file",
    "STAGE_IMAGE_ROOT": "set for the same: the mountpoint, if mounted",
    "STAGE_IMAGE_DIGEST": "set for the same: the image's digest",
    "STAGE_IMAGE_REFERENCE": "set for tasks of a job that was submitted with an image: its reference. Of the second to"
    " eighth image, all four have `_2` to `_8` behind their names",
}
"""Variables that are no settings. So are all that begin with STAGE_IMAGE_TEST_."""

_NUMBERED = {f"{PREFIX}{what}_{number}" for what in ("PATH", "ROOT", "DIGEST", "REFERENCE") for number in range(2, 9)}


def is_setting(variable: str) -> bool:
    """Whether a variable is ours, and to be taken for a setting, known or not."""
    ours = variable.startswith(PREFIX) and not variable.startswith("STAGE_IMAGE_TEST_")
    return ours and variable not in RESERVED and variable not in _NUMBERED
