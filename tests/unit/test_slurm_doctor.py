"""`slurm doctor` put together: Slurm's answers, this node's files, the site's settings and nobody else's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from stager.cli import main, slurm_doctor
from stager.reference import Digest
from stager.schedulers import hook
from tests.support import slurm_texts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.slurm_texts import FakeScontrol

HELD = [Digest("a" * 64)]


@pytest.fixture(name="slurm")
def _slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeScontrol]:
    """A cluster that runs our hooks, in files of its own, on a node that holds one image."""
    monkeypatch.setattr(hook, "SWITCH", str(tmp_path / "disabled"))
    monkeypatch.setattr("stager.cli.slurm_findings.held_here", lambda node: HELD)
    for name in ("prolog", "epilog", "task-prolog"):
        (tmp_path / name).write_text(f"#!/bin/sh\nexec stage-image slurm {name}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "plugstack.conf").write_text("")
    (tmp_path / "config.toml").write_text('store = "/local/images"\n[slurm]\nallow = ["/shared/images/"]\n')
    (tmp_path / "config.toml").chmod(0o644)
    monkeypatch.setenv("STAGE_IMAGE_CONFIG", str(tmp_path / "config.toml"))
    for slurm in slurm_texts.fake_scontrol(tmp_path / "bin"):
        slurm.say("show config", configured(tmp_path))
        yield slurm


def configured(folder: Path, **changes: str) -> str:
    files = {"Prolog": "prolog", "Epilog": "epilog", "TaskProlog": "task-prolog", "PlugStackConfig": "plugstack.conf"}
    good = {
        "PrologFlags": "Alloc,DeferBatch",
        "BatchStartTimeout": "300 sec",
        "SLURM_CONF": f"{folder}/slurm.conf",
        "SchedulerParameters": "nohold_on_prolog_fail",
    }
    return slurm_texts.config(**(good | {key: f"{folder}/{name}" for key, name in files.items()} | changes))


def doctor(*words: str) -> int:
    return main.main(["slurm", "doctor", *words])


def rows(capfd: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    return {row["what"]: (row["level"], row["why"]) for row in json.loads(capfd.readouterr().out)}


@pytest.mark.needs("root")
def test_a_sound_cluster(slurm: FakeScontrol, capfd: pytest.CaptureFixture[str]) -> None:
    img = "img_aaaaaaaaaaaa"
    slurm.say("show node", slurm_texts.node(img, img))
    assert doctor("--json") == 0
    found = rows(capfd)
    assert {level for level, _ in found.values()} == {"ok"}
    assert found["features"] == ("ok", "Slurm knows what n1 holds: 1 image")


@pytest.mark.needs("root")
def test_danger_has_an_exit_code(slurm: FakeScontrol, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    slurm.say("show config", configured(tmp_path, BatchStartTimeout="10 sec"))
    assert doctor() == slurm_doctor.EXIT_DANGER == 64
    out = capfd.readouterr().out
    assert "danger  BatchStartTimeout" in out
    assert "-> BatchStartTimeout=300 in slurm.conf" in out


def test_advice_is_no_failure(slurm: FakeScontrol, capfd: pytest.CaptureFixture[str]) -> None:
    slurm.say("show config", slurm_texts.CONFIG)
    assert doctor("--json") == 0
    assert rows(capfd)["features"] == ("advice", "of n1, Slurm does not know 1 image, and still names 0 gone")


def test_a_node_that_slurm_does_not_know(slurm: FakeScontrol, capfd: pytest.CaptureFixture[str]) -> None:
    slurm.say("show node", "", code=1)
    doctor("--json")
    assert rows(capfd)["features"] == ("advice", "cannot be compared: Slurm knows no node n1")


@pytest.mark.needs("root")
def test_who_asks_does_not_matter(
    slurm: FakeScontrol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAGE_IMAGE_SLURM_STRICT", "true")
    monkeypatch.setenv("STAGE_IMAGE_SLURM_BUDGET", "1h")
    own = tmp_path / "home" / ".config" / "stage-image" / "config.toml"
    own.parent.mkdir(parents=True)
    own.write_text("[slurm]\nstrict = true\n")
    own.chmod(0o644)
    assert doctor("--json") == 0, "the Prolog has none of the caller's variables, and no home"
    assert "slurm.strict" not in rows(capfd)


def test_a_host_that_is_no_node_need_not_have_the_hooks(
    slurm: FakeScontrol, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slurm.say("show config", configured(tmp_path, Prolog="/nowhere/prolog"))
    assert doctor("--json") == 64
    capfd.readouterr()
    slurm.say("show node", "", code=1)
    assert doctor("--json") == 0
    assert rows(capfd)["Prolog"] == ("advice", "cannot be seen from here: /nowhere/prolog")


def test_plugins_are_found(slurm: FakeScontrol, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plugstack.conf").write_text(f"required {tmp_path}/stage_image.so\n")
    assert doctor("--json") == 64
    assert rows(capfd)["SPANK plugin"][0] == "danger"
    (tmp_path / "plugstack.conf").write_text("optional stage_image.so\n")
    (tmp_path / "stage_image.so").touch()
    slurm.say("show config", slurm_texts.config(PluginDir=str(tmp_path), PlugStackConfig=f"{tmp_path}/plugstack.conf"))
    assert doctor("--json") == 0
    assert rows(capfd)["SPANK plugin"] == ("ok", "offers --stage-image and --private-tmp")


def test_a_node_without_the_directories_for_private_ones(
    slurm: FakeScontrol, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "config.toml").open("a") as settings:
        settings.write('private = ["/no-such-place=/no-such-base/jobs"]\n')
    assert doctor("--json") == 64
    level, why = rows(capfd)["slurm.private"]
    assert (level, "/no-such-" in why) == ("danger", True), why
    slurm.say("show node", "", code=1)
    doctor("--json")
    assert "slurm.private" not in rows(capfd), "on the controller, no job has any"


def test_the_kill_switch_is_told(
    slurm: FakeScontrol, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hook, "is_off", lambda: True)
    doctor("--json")
    assert rows(capfd)["kill switch"][0] == "advice"


def test_no_slurm(
    slurm: FakeScontrol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert doctor() == 85
    assert "Slurm cannot be asked: scontrol is not installed" in capfd.readouterr().err
