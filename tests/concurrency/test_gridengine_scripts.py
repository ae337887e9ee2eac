"""Grid Engine's hooks where sh is bash, which takes its options from the user's environment."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.tasks import ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.needs("bash")
@pytest.mark.parametrize("options", ["errexit", "nounset", "xtrace", "errexit:nounset:noglob"])
@pytest.mark.parametrize("hook", ["prolog", "epilog"])
def test_no_option_of_the_user_s_puts_the_queue_out_of_service(tmp_path: Path, hook: str, options: str) -> None:
    shell = tmp_path / "sh"
    shell.symlink_to(str(shutil.which("bash")))
    environ = {"SHELLOPTS": options, "STAGE_IMAGE_REFERENCE": "https://images.example.org/x", "PATH": "/nonexistent"}
    script = ROOT / "sbatch-wrapper" / "gridengine" / hook
    ran = subprocess.run(
        [shell, script, "nobody", "0", "undefined"], env=environ, capture_output=True, check=False, timeout=30
    )
    assert ran.returncode == 0, ran.stderr
