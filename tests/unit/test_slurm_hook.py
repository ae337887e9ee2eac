from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stager.errors import ConfigError
from stager.schedulers.hook import HookEnvironment, is_off
from tests.support.source_trees import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROLOG = {
    "PWD": "/var/spool/slurmd",
    "SLURMD_NODENAME": "n2",
    "SLURM_CLUSTER_NAME": "fs",
    "SLURM_CONF": "/etc/slurm/slurm.conf",
    "SLURM_JOBID": "20",
    "SLURM_JOB_COMMENT": "c1",
    "SLURM_JOB_EXTRA": '{"x": 1}',
    "SLURM_JOB_GID": "20002",
    "SLURM_JOB_ID": "20",
    "SLURM_JOB_RESTART_COUNT": "3",
    "SLURM_JOB_UID": "20001",
    "SLURM_JOB_USER": "alice",
    "SLURM_NODELIST": "n1,n2",
    "SLURM_SCRIPT_CONTEXT": "prolog_slurmd",
    "SLURM_UID": "20001",
    "SPANK_STAGE_IMAGE": "https://h/x",
    "SPANK_STAGE_IMAGE_PRIVATE_TMP": "1",
}
"""As slurmd 22.05 gives it, with the extra of 23.02."""


def changed(**variables: str) -> HookEnvironment:
    return HookEnvironment.read(PROLOG | variables)


def test_a_prolog() -> None:
    hook = HookEnvironment.read(PROLOG)
    assert (hook.job, hook.scope, hook.uid, hook.gid, hook.user) == ("20", "slurm-20", 20001, 20002, "alice")
    assert (hook.restart, hook.node, hook.node_rank, hook.context) == (3, "n2", 1, "prolog_slurmd")
    assert (hook.comment, hook.extra, hook.spank, hook.private_tmp) == ("c1", '{"x": 1}', "https://h/x", True)


def test_a_job_number_is_enough() -> None:
    hook = HookEnvironment.read({"SLURM_JOB_ID": "7"})
    assert (hook.scope, hook.uid, hook.gid, hook.user, hook.restart) == ("slurm-7", None, None, "", 0)
    assert (hook.node, hook.node_rank, hook.context, hook.private_tmp) == ("", None, "", False)
    assert (hook.comment, hook.extra, hook.spank) == ("", "", "")


@pytest.mark.parametrize(
    "job",
    [
        "",
        "0",
        "007",
        "-1",
        "+1",
        "1 ",
        " 1",
        "1\n",
        "1_2",
        "12.0",
        "1e3",
        "../1",
        "\u0661",
        "\xb2",
        "1" * 20,
        "1" * 9999,
        "x",
        "(null)",
    ],
    ids=lambda job: ascii(job)[:20],
)
def test_what_is_no_number_is_no_job(job: str) -> None:
    with pytest.raises(ConfigError, match="SLURM_JOB_ID") as caught:
        changed(SLURM_JOB_ID=job)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


def test_no_job_at_all() -> None:
    with pytest.raises(ConfigError):
        HookEnvironment.read({"SLURM_JOBID": "20"})


@pytest.mark.parametrize(
    "text", ["", "-1", "4294967295", "4294967296", "1" * 5000, "x", "1\n", "\u0661", "0x10", "1.0", " 1"]
)
def test_absurd_users_are_none(text: str) -> None:
    hook = changed(SLURM_JOB_UID=text, SLURM_JOB_GID=text)
    assert (hook.uid, hook.gid) == (None, None)


def test_root_is_a_user() -> None:
    assert changed(SLURM_JOB_UID="0").uid == 0


@pytest.mark.parametrize("text", ["", "-1", "1" * 40, "99999999999", "4294967294", "one", "\xb9"])
def test_absurd_restarts_are_none_yet(text: str) -> None:
    assert changed(SLURM_JOB_RESTART_COUNT=text).restart == 0


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "../x", "-rf", "x" * 300, "\xe9", "$(id)"])
def test_absurd_names_are_none(name: str) -> None:
    hook = changed(SLURM_JOB_USER=name, SLURMD_NODENAME=name)
    assert (hook.user, hook.node, hook.node_rank) == ("", "", None)


@pytest.mark.parametrize("name", ["alice", "DOM\\alice", "alice@example.org", "svc_x-1", "host$"])
def test_names_that_sites_have(name: str) -> None:
    assert changed(SLURM_JOB_USER=name).user == name


@pytest.mark.parametrize(
    ("nodes", "rank"),
    [
        *(("n2", 0), ("n1,n2", 1), ("n[1-3]", 1), ("a[1-9],n[1-3]", 10), ("", None), ("n1", None), ("n20", None)),
        *(("n[1-999999999]", None), ("n[", None), ("n]2", None), ("$(id)", None), ("n[1-2", None), ("@all", None)),
    ],
)
def test_place_in_the_job(nodes: str, rank: int | None) -> None:
    assert changed(SLURM_NODELIST=nodes).node_rank == rank


@pytest.mark.parametrize("text", ["", "0", "yes", "true", "01", "1\n"])
def test_private_directories_are_asked_for_by_1(text: str) -> None:
    assert not changed(SPANK_STAGE_IMAGE_PRIVATE_TMP=text).private_tmp


def test_users_words_are_handed_on_as_they_are() -> None:
    text = "a b;$(id)\nFOO=\"evil'\udcff"
    hook = changed(SLURM_JOB_COMMENT=text, SLURM_JOB_EXTRA=text, SPANK_STAGE_IMAGE=text)
    assert (hook.comment, hook.extra, hook.spank) == (text, text, text)


@pytest.mark.parametrize(
    "name", ["STAGE_IMAGE", "SLURM_SPANK_STAGE_IMAGE", "_SLURM_SPANK_OPTION_stage_image_stage_image"]
)
def test_what_users_can_set_is_not_the_plugins_word(name: str) -> None:
    hook = HookEnvironment.read({"SLURM_JOB_ID": "1", name: "https://evil/", f"{name}_PRIVATE_TMP": "1"})
    assert (hook.spank, hook.private_tmp) == ("", False)


def test_unknown_contexts_are_none() -> None:
    assert changed(SLURM_SCRIPT_CONTEXT="prolog_slurmd\n").context == ""
    assert changed(SLURM_SCRIPT_CONTEXT="epilog_slurmd").context == "epilog_slurmd"


def test_the_switch(tmp_path: Path) -> None:
    switch = tmp_path / "disabled"
    assert not is_off(str(switch))
    switch.touch()
    assert is_off(str(switch))
    switch.unlink()
    switch.symlink_to("nowhere")
    assert is_off(str(switch))
    assert not is_off(str(tmp_path / "no" / "disabled"))


def test_hooks_start_lightly() -> None:
    modules = "hook, request, policy, syslog"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from stager.schedulers import {modules}; print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    heavy = {"requests", "urllib3", "kazoo", "ClusterShell", "filelock", "tenacity", "rich", "stager.config", "json"}
    assert heavy.intersection(run.stdout.split()) == set()
