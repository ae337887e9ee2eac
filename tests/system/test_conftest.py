"""The guard itself: sessions inside a session, each with one fault that it has to find."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.leftovers import Traces

ROOT = Path(__file__).parents[2]


def run_session(folder: Path, test: str, **environ: str) -> str:
    """Run pytest, with the project's conftest, on one test file; return what it prints."""
    (folder / "test_it.py").write_text("import os, subprocess, pytest\n" + test)
    plugins = ["-p", "tests.conftest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *plugins, "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder)]
    command += ["--basetemp", str(folder / "base"), str(folder / "test_it.py")]
    variables = {**os.environ, "STAGE_IMAGE_TEST_GRACE": "0.2", **environ}
    run = subprocess.run(command, env=variables, cwd=ROOT, text=True, capture_output=True, check=False)
    return run.stdout + run.stderr


def test_a_daemon_is_found_and_ended(tmp_path: Path) -> None:
    output = run_session(
        tmp_path,
        "def test(tmp_path):\n"
        "    subprocess.Popen(['setsid', 'sleep', '100'], stdin=-3, stdout=-3, stderr=-3).returncode = 0\n",
    )
    assert "1 passed, 1 error" in output
    left = re.search(r"process (\d+): sleep 100", output)
    assert left, output
    assert not Path(f"/proc/{left[1]}/exe").exists()


def test_a_daemon_without_environment_is_found_by_its_directory(tmp_path: Path) -> None:
    output = run_session(
        tmp_path,
        "def test(tmp_path):\n"
        "    subprocess.Popen(['sleep', '100'], cwd=tmp_path, env={}, start_new_session=True).returncode = 0\n",
    )
    assert "sleep 100" in output
    assert "1 passed, 1 error" in output


@pytest.mark.needs("loop")
def test_mounts_and_loop_devices_are_found_and_removed(tmp_path: Path) -> None:
    output = run_session(
        tmp_path,
        "def test(tmp_path):\n"
        "    disk = tmp_path / 'disk'\n"
        "    disk.write_bytes(bytes(1 << 20))\n"
        "    subprocess.run(['losetup', '--find', disk], check=True)\n"
        "    subprocess.run(['mount', '-t', 'tmpfs', 'left', tmp_path / 'home'], check=True)\n",
    )
    assert "1 passed, 1 error" in output
    assert re.search(r"mount on .*/home", output)
    assert re.search(r"/dev/loop\d+ of .*/disk", output)
    assert Traces("none", (str(tmp_path),)).found() == []


def test_a_clean_session_passes_and_sees_no_job(tmp_path: Path) -> None:
    output = run_session(
        tmp_path,
        "def test(tmp_path, store_path, public_path):\n"
        "    assert 'SLURM_JOB_ID' not in os.environ and 'https_proxy' not in os.environ\n"
        "    assert os.environ['STAGE_IMAGE_STORE'] == str(store_path)\n"
        "    assert os.environ['HOME'].startswith(str(tmp_path))\n"
        "    assert public_path.stat().st_mode & 0o777 == 0o777\n",
        SLURM_JOB_ID="1",
        https_proxy="http://proxy",
        STAGE_IMAGE_STORE="/precious",
    )
    assert "1 passed" in output
    assert "error" not in output.rpartition("=====")[0].rpartition("\n")[2]


def test_missing_capabilities_skip_or_fail(tmp_path: Path) -> None:
    test = "@pytest.mark.needs('nginx')\ndef test(): pass\n@pytest.mark.needs('apptainer')\ndef test_z(): pass\n"
    # Without a PATH, and with an empty one for system directories, no program is found.
    hidden = "import tests.support.capabilities as c\nc.SYSTEM_PATH = os.environ['PATH'] = '/nowhere'\n"
    hidden += "c.has.cache_clear()\n"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert "2 skipped" in run_session(tmp_path / "a", hidden + test)
    output = run_session(tmp_path / "b", hidden + test, STAGE_IMAGE_TEST_REQUIRE="all")
    assert "1 skipped, 1 error" in output
    assert "this machine lacks: nginx (and STAGE_IMAGE_TEST_REQUIRE=all forbids to skip)" in output


def test_misspelt_capabilities_end_the_session(tmp_path: Path) -> None:
    output = run_session(tmp_path, "@pytest.mark.needs('lopp')\ndef test(): pass\n")
    assert "passed" not in output
