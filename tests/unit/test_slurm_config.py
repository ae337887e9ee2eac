"""Reading Slurm's configuration, and every rule of what is dangerous: with the trap, and without it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from stager.config import Config
from stager.schedulers import slurm_config, slurm_node, slurm_rules
from stager.schedulers.slurm_config import SpankPlugin
from stager.schedulers.slurm_rules import Finding, Here, HookFile
from tests.support import slurm_texts

if TYPE_CHECKING:
    from pathlib import Path

GOOD: dict[str, str] = {
    "Prolog": "/p",
    "Epilog": "/e",
    "TaskProlog": "/t",
    "PrologFlags": "Alloc,DeferBatch",
    "BatchStartTimeout": "300 sec",
    "SchedulerParameters": "bf_interval=1,nohold_on_prolog_fail",
}
SETTINGS = Config(store="/local/stage-image", slurm_allow=("https://images.example.org/",))
HOOKS = {name: (HookFile(f"/{name[0].lower()}", ours=True),) for name in slurm_rules.HOOKS}
HERE = Here(hooks=HOOKS)


def findings(settings: Config = SETTINGS, here: Here = HERE, **changes: str) -> tuple[Finding, ...]:
    config = slurm_config.read(slurm_texts.config(**(GOOD | changes)))
    return slurm_rules.findings(config, settings, here)


def alarms(settings: Config = SETTINGS, here: Here = HERE, **changes: str) -> list[tuple[str, str]]:
    """Return level and subject of what is not fine."""
    return [(found.level, found.what) for found in findings(settings, here, **changes) if found.level != "ok"]


def test_the_configuration_as_printed() -> None:
    found = slurm_config.read(slurm_texts.CONFIG)
    assert found["BatchStartTimeout"] == "10 sec"
    assert found["AuthInfo"] == found["PowerPlugin"] == ""
    assert found["SlurmctldHost[0]"] == "ctl(10.77.0.1)"
    assert found["InteractiveStepOptions"] == "--interactive --preserve-env --pty $SHELL"
    assert found["SLURM_VERSION"] == "22.05.8", "the first section is Slurm's own"
    assert found["AllowedRAMSpace"] == "100.0%"
    assert not any("UP" in value or "Configuration" in name for name, value in found.items())


@pytest.mark.parametrize(
    ("text", "seconds"), [("10 sec", 10), ("600", 600), ("65534", None), ("65534 sec", None), ("(null)", None)]
)
def test_times(text: str, seconds: float | None) -> None:
    found = slurm_config.read(slurm_texts.config(PrologEpilogTimeout=text))
    assert slurm_config.seconds(found, "PrologEpilogTimeout") == slurm_config.prolog_seconds(found) == seconds


def test_newer_names() -> None:
    found = slurm_config.read("Prolog[0] = /a\nProlog[1] = /b\nPrologSlurmctld[0] = /c\nPrologTimeout = 30\n")
    assert slurm_config.paths(found, "Prolog") == ("/a", "/b")
    assert slurm_config.prolog_seconds(found) == 30
    assert slurm_config.container({"NamespaceType": "namespace/linux"}) == "namespace/linux"
    assert slurm_config.container({"JobContainerType": "job_container/none"}) == ""
    assert slurm_config.version({"SLURM_VERSION": "25.11.0-rc1"}) == (25, 11)
    assert slurm_config.version({}) == (0, 0)


def test_credentials_expire() -> None:
    assert slurm_config.credential_seconds({}) == 120
    assert slurm_config.credential_seconds({"AuthInfo": "socket=/run/x,cred_expire=300"}) == 300


def test_plugstack() -> None:
    text = "# required no.so\n  REQUIRED private-tmpdir.so base=/x mount=/tmp mount=/var/tmp # why\n"
    plugin, included = slurm_config.plugins(f"{text}include d/*.conf\nbad\n")
    assert isinstance(plugin, SpankPlugin)
    assert (plugin.required, plugin.name, plugin.mounts) == (True, "private-tmpdir.so", ("/tmp", "/var/tmp"))
    assert included == "d/*.conf"


def test_what_a_container_makes_private() -> None:
    assert slurm_config.container_directories({}) == ("/tmp", "/dev/shm")
    found = slurm_config.container_settings("AutoBasePath=true BasePath=/x # Dirs=/no\nNodeName=n[1-2] Dirs=/a,/tmp\n")
    assert slurm_config.container_directories(found) == ("/a", "/tmp", "/dev/shm")


def test_nothing_to_complain_of() -> None:
    assert alarms() == []
    assert {found.what for found in findings()} >= {"Slurm", "Prolog", "Epilog", "TaskProlog", "BatchStartTimeout"}


def test_a_cluster_without_hooks_is_advised_and_no_more() -> None:
    assert alarms(here=Here(hooks={}), PrologFlags="(null)", BatchStartTimeout="10 sec") == [("advice", "Prolog")]


TRAPS: list[tuple[dict[str, str], dict[str, Any], dict[str, Any], tuple[str, str]]] = [
    ({"SLURM_VERSION": "21.08.8"}, {}, {}, ("danger", "Slurm")),
    ({"PrologFlags": "(null)"}, {}, {}, ("advice", "PrologFlags")),
    ({"PrologFlags": "Alloc"}, {}, {}, ("advice", "PrologFlags")),
    ({"PrologFlags": "Alloc,DeferBatch,Serial"}, {}, {}, ("advice", "PrologFlags")),
    ({"PrologFlags": "Alloc,DeferBatch,RunInJob"}, {}, {}, ("advice", "PrologFlags")),
    ({"BatchStartTimeout": "10 sec"}, {}, {}, ("danger", "BatchStartTimeout")),
    ({"BatchStartTimeout": "60 sec"}, {"slurm_budget": 90.0}, {}, ("danger", "BatchStartTimeout")),
    ({"PrologEpilogTimeout": "20"}, {}, {}, ("danger", "PrologEpilogTimeout")),
    ({}, {"slurm_budget": 200.0}, {}, ("advice", "AuthInfo")),
    ({"SchedulerParameters": "(null)"}, {}, {}, ("advice", "SchedulerParameters")),
    ({"SlurmdUser": "slurm(64030)"}, {}, {}, ("danger", "SlurmdUser")),
    ({"PrEpPlugins": "(null)"}, {}, {}, ("danger", "PrEpPlugins")),
    ({"ProctrackType": "proctrack/linuxproc"}, {}, {}, ("advice", "ProctrackType")),
    ({"NodeFeaturesPlugins": "node_features/helpers"}, {}, {}, ("advice", "NodeFeaturesPlugins")),
    ({}, {"slurm_strict": True}, {}, ("danger", "slurm.strict")),
    ({}, {"slurm_allow": ()}, {}, ("advice", "slurm.allow")),
    ({}, {"slurm_allow": ("/",)}, {}, ("danger", "slurm.allow")),
    ({}, {"slurm_allow": ("https://",)}, {}, ("danger", "slurm.allow")),
    ({}, {"slurm_allow": ("images.example.org/x",)}, {}, ("danger", "slurm.allow")),
    ({}, {"slurm_allow": ("https://*.example.org/",)}, {}, ("danger", "slurm.allow")),
    ({}, {"slurm_private": ("/var=/var/x", "/tmp")}, {}, ("danger", "slurm.private")),
    ({}, {"slurm_private": ("tmp",)}, {}, ("danger", "slurm.private")),
    ({}, {"slurm_private": ("/tmp",)}, {}, ("advice", "SPANK plugin")),
    ({}, {"slurm_private": ("/tmp",)}, {"obstacles": ("/x is a link",)}, ("danger", "slurm.private")),
    ({}, {"slurm_images_at": "/images"}, {}, ("advice", "SPANK plugin")),
    ({}, {"slurm_allow": ("http://images.example.org/",)}, {}, ("advice", "slurm.allow")),
    *(
        ({}, {"slurm_allow": (text,)}, {}, ("advice", "slurm.allow"))
        for text in ("docker://docker.io/", "docker://index.docker.io", "oras://ghcr.io/", "library://")
    ),
    ({}, {"slurm_allow": ("library://library.sylabs.io",)}, {}, ("advice", "slurm.allow")),
    ({}, {"store": ""}, {}, ("advice", "store")),
    ({}, {"store": "/tmp/s", "slurm_private": ("/tmp=/x",)}, {}, ("danger", "store")),
    ({}, {"store": "", "slurm_private": ("/var/tmp",)}, {}, ("danger", "store")),
    ({}, {"store": "/tmp/s"}, {"plugins": (SpankPlugin(False, "p.so", ("mount=/tmp",)),)}, ("danger", "store")),
    ({}, {}, {"off": True}, ("advice", "kill switch")),
    ({}, {}, {"hooks": HOOKS | {"Epilog": ()}}, ("danger", "Epilog")),
    ({}, {}, {"hooks": HOOKS | {"TaskProlog": ()}}, ("advice", "TaskProlog")),
    ({}, {}, {"hooks": HOOKS | {"Epilog": (HookFile("/e", True, "is bad"),)}}, ("danger", "Epilog")),
    ({}, {}, {"plugins": (SpankPlugin(True, "/x/stage_image.so", ()),)}, ("danger", "SPANK plugin")),
    (
        {},
        {},
        {"plugins": (SpankPlugin(False, "stage_image.so", ()),), "missing_plugins": frozenset({"stage_image.so"})},
        ("advice", "SPANK plugin"),
    ),
    (
        {},
        {"slurm_private": ("/tmp=/x",)},
        {"plugins": (SpankPlugin(False, "private-tmpdir.so", ("mount=/tmp",)),)},
        ("danger", "slurm.private"),
    ),
]


@pytest.mark.parametrize(("changes", "settings", "here", "alarm"), TRAPS)
def test_each_trap_is_told(
    changes: dict[str, str], settings: dict[str, Any], here: dict[str, Any], alarm: tuple[str, str]
) -> None:
    assert alarm in alarms(replace(SETTINGS, **settings), replace(HERE, **here), **changes)


@pytest.mark.parametrize(
    "text", ["docker://docker.io/library/", "docker://ghcr.io/lab", "docker://images.example.org/", "library://lab/"]
)
def test_images_of_certain_people_are_fine(text: str) -> None:
    assert alarms(replace(SETTINGS, slurm_allow=(text,))) == []


def test_a_library_of_the_sites_own_is_fine() -> None:
    own = replace(SETTINGS, slurm_allow=("library://",), library="https://library.example.org")
    assert alarms(own) == []
    assert alarms(replace(own, library="https://library.sylabs.io/")) == [("advice", "slurm.allow")]


def test_what_cannot_be_seen_is_no_danger() -> None:
    for name in slurm_rules.HOOKS:
        here = replace(HERE, hooks=HOOKS | {name: (HookFile("/closed", ours=None),)})
        assert alarms(here=here) == [("advice", name)]


def test_whoever_warns_knows_a_remedy() -> None:
    for changes, settings, here, _ in TRAPS:
        found = findings(replace(SETTINGS, **settings), replace(HERE, **here), **changes)
        assert [each for each in found if (each.level == "ok") == bool(each.remedy)] == []


def test_traps_of_private_directories() -> None:
    container: dict[str, Any] = {"JobContainerType": "job_container/tmpfs", "PrologFlags": "Alloc,Contain,DeferBatch"}
    assert alarms(**container) == [("advice", "job_container/tmpfs")]
    assert alarms(replace(SETTINGS, store="/tmp/s"), **container)[0] == ("danger", "store")
    assert alarms(replace(SETTINGS, slurm_private=("/tmp",)), **container)[0] == ("danger", "slurm.private")
    shared = replace(HERE, container={"shared": "true"})
    assert alarms(here=shared, **container) == []
    assert ("danger", "job_container/tmpfs") in alarms(here=shared, JobContainerType="job_container/tmpfs")


@pytest.mark.parametrize(("budget", "danger"), [(15.0, False), (15.5, True)])
def test_times_are_judged_to_the_second(budget: float, *, danger: bool) -> None:
    settings = replace(SETTINGS, slurm_budget=budget)
    assert bool(alarms(settings, BatchStartTimeout="10 sec")) is danger
    assert bool(alarms(settings, PrologTimeout="20")) is danger


def test_the_remedy_for_a_short_time_names_a_budget_that_fits() -> None:
    found = next(each for each in findings(PrologEpilogTimeout="12") if each.what == "PrologEpilogTimeout")
    assert 'slurm.budget = "7s"' in found.remedy
    brief = replace(SETTINGS, slurm_budget=7.0)
    assert alarms(brief, PrologTimeout="12", EpilogTimeout="60") == []
    assert alarms(brief, PrologTimeout="60", EpilogTimeout="12") == [("danger", "PrologEpilogTimeout")]
    found = next(each for each in findings(PrologEpilogTimeout="3") if each.what == "PrologEpilogTimeout")
    assert "budget" not in found.remedy


@pytest.fixture(name="etc")
def _etc(tmp_path: Path) -> Path:
    for name in ("plugstack.conf.d", "prolog.d"):
        (tmp_path / name).mkdir()
    (tmp_path / "plugstack.conf").write_text(f"include {tmp_path}/plugstack.conf.d/*.conf\ninclude more.conf\n")
    (tmp_path / "plugstack.conf.d/b.conf").write_text("optional stage_image.so\n")
    (tmp_path / "plugstack.conf.d/a.conf").write_text(f"include {tmp_path}/plugstack.conf\n")  # for ever
    (tmp_path / "more.conf").write_text("include deep.conf\n")
    (tmp_path / "deep.conf").write_text("required other.so\n")
    return tmp_path


def test_the_files_of_plugstack(etc: Path) -> None:
    config = {"SLURM_CONF": f"{etc}/slurm.conf"}
    found = [plugin.name for plugin in slurm_node.plugins(slurm_node.plugstack(config))]
    assert {"stage_image.so", "other.so"} == set(found)
    assert slurm_node.is_there("more.conf", ["/nowhere", str(etc)])
    assert not slurm_node.is_there("other.so", [str(etc)])
    assert list(slurm_node.plugins(str(etc / "absent"))) == []


def test_hooks_are_known_by_what_they_call(etc: Path) -> None:
    scripts = {"ours": "exec stage-image slurm prolog", "foreign": "exit 0", "many": f"run-parts {etc}/prolog.d"}
    for name, text in scripts.items():
        (etc / name).write_text(f"#!/bin/sh\n{text}\n")
        (etc / name).chmod(0o755)
    config = {"SLURM_CONF": f"{etc}/slurm.conf", "Prolog[0]": f"{etc}/ours", "Prolog[1]": "foreign"}
    found = slurm_node.hook_files(config, "Prolog")
    assert [(file.path, file.ours) for file in found] == [(f"{etc}/ours", True), (f"{etc}/foreign", False)]
    many = {"SLURM_CONF": f"{etc}/slurm.conf", "Prolog": f"{etc}/man?"}
    assert [file.ours for file in slurm_node.hook_files(many, "Prolog")] == [False]
    (etc / "prolog.d/50-images").write_text("#!/bin/sh\nexec stage-image slurm prolog\n")
    assert [file.ours for file in slurm_node.hook_files(many, "Prolog")] == [True]


def test_hooks_that_slurmd_had_better_not_run(etc: Path) -> None:
    def problem(path: str) -> str:
        (file,) = slurm_node.hook_files({"Prolog": path}, "Prolog")
        return file.problem

    script = etc / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o644)
    assert problem(str(script)) == "is not executable"
    script.chmod(0o777)
    assert problem(str(script)) == "can be changed by others than root"
    assert problem(str(etc / "absent*")) == "is not there"
    assert problem(str(etc / "prolog.d")) == "is not a file"
