"""Telling Slurm: what is called, in which order, what is not called, and what failures say."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from stager.cli import main
from stager.cli.node import Node
from stager.cli.slurm_publishing import held_here
from stager.errors import AccessDenied, ClusterUnavailable, ConfigError, NotStaged
from stager.layout import Layout
from stager.reference import Digest
from stager.schedulers import features, hook, scontrol
from stager.store import images
from tests.support import slurm_texts
from tests.support.image_factory import minimal_squashfs
from tests.support.slurm_texts import FakeScontrol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, B = Digest("a" * 64), Digest("b" * 64)
IMG_A, IMG_B = "img_aaaaaaaaaaaa", "img_bbbbbbbbbbbb"


@pytest.fixture(name="slurm")
def _slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeScontrol]:
    monkeypatch.setattr(hook, "SWITCH", str(tmp_path / "disabled"))
    yield from slurm_texts.fake_scontrol(tmp_path / "bin")


@pytest.fixture(name="held")
def _held(monkeypatch: pytest.MonkeyPatch) -> list[Digest]:
    held = [A]
    monkeypatch.setattr("stager.cli.slurm_publishing.held_here", lambda node: held)
    return held


def publish(*words: str) -> int:
    return main.main(["slurm", "features", *words])


def test_both_lists_are_always_given() -> None:
    change = features.change([A], ["gpu"], ["gpu"], "img_")
    assert change is not None
    assert change.updates == ((f"AvailableFeatures=gpu,{IMG_A}", f"ActiveFeatures=gpu,{IMG_A}"),)


def test_what_goes_stops_being_active_first() -> None:
    change = features.change([B], ["gpu", IMG_A], ["gpu", IMG_A], "img_")
    assert change is not None
    assert change.updates == (
        ("ActiveFeatures=gpu",),
        (f"AvailableFeatures=gpu,{IMG_B}", f"ActiveFeatures=gpu,{IMG_B}"),
    )
    assert (change.added, change.removed) == ((IMG_B,), (IMG_A,))


def test_what_is_available_only_is_activated() -> None:
    change = features.change([A], [IMG_A], [], "img_")
    assert change is not None
    assert (change.added, change.removed, change.first) == ((IMG_A,), (), None)


def test_what_is_active_is_made_available() -> None:
    change = features.change([A], ["ib"], ["gpu"], "img_")
    assert change is not None
    assert (change.available, change.active) == (("ib", "gpu", IMG_A), ("gpu", IMG_A))


@pytest.mark.parametrize("prefix", ["", "a,b", "a b", "img-", "1", "a|", "x" * 33, "ü", "img_\n"])
def test_a_prefix_that_slurm_would_not_take_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match=r"slurm\.features_prefix"):
        features.change([A], [], [], prefix)


def test_only_what_changes_is_told(slurm: FakeScontrol, held: list[Digest], capfd: pytest.CaptureFixture[str]) -> None:
    assert publish() == 0
    assert slurm.updates == [f"NodeName=n1 AvailableFeatures={IMG_A} ActiveFeatures={IMG_A}"]
    assert capfd.readouterr().out == f"n1: added {IMG_A} (1 image)\n"
    slurm.say("show node", slurm_texts.node(IMG_A, IMG_A))
    assert publish() == 0
    assert len(slurm.updates) == 1
    assert capfd.readouterr().out == "n1: nothing to change (1 image)\n"


def test_a_dry_run_tells_nobody(slurm: FakeScontrol, held: list[Digest], capfd: pytest.CaptureFixture[str]) -> None:
    assert publish("--dry-run", "--extra") == 0
    assert slurm.updates == []
    assert capfd.readouterr().out == f"n1: would have added {IMG_A}; changed Extra (1 image)\n"


def test_every_name_of_this_host_is_told(slurm: FakeScontrol, held: list[Digest]) -> None:
    slurm.say("show aliases", "n1 n1b\n")
    assert publish() == 0
    assert [update.split()[0] for update in slurm.updates] == ["NodeName=n1", "NodeName=n1b"]


def test_a_name_may_be_given(slurm: FakeScontrol, held: list[Digest]) -> None:
    assert publish("--node", "other") == 0
    assert slurm.asked == [
        "show node other",
        f"update NodeName=other AvailableFeatures={IMG_A} ActiveFeatures={IMG_A}",
    ]


def test_extra_is_merged(slurm: FakeScontrol, held: list[Digest], capfd: pytest.CaptureFixture[str]) -> None:
    slurm.say("show node", slurm_texts.node(IMG_A, IMG_A, extra='{"rack":"a b",  "img_bbbbbbbbbbbb":true}'))
    assert publish("--extra", "--json") == 0
    assert slurm.updates == ['NodeName=n1 Extra={"rack":"a b","img_aaaaaaaaaaaa":true}']
    assert json.loads(capfd.readouterr().out) == [
        {"node": "n1", "images": 1, "added": [], "removed": [], "extra": True}
    ]


def test_the_kill_switch(slurm: FakeScontrol, held: list[Digest], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "is_off", lambda: True)
    assert publish() == 0
    assert slurm.asked == []


def test_failures_say_why(slurm: FakeScontrol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm.say("update", "", code=1, error="slurm_update error: Invalid user id\n")
    with pytest.raises(AccessDenied, match="Invalid user id"):
        scontrol.update_node("n1", ("ActiveFeatures=x",))
    slurm.say("update", "", code=1, error="slurm_update error: Invalid node name specified\n")
    with pytest.raises(NotStaged, match="knows no node n9"):
        scontrol.update_node("n9", ())
    slurm.say("show node", "Node n9 not found\n", code=1)
    with pytest.raises(NotStaged, match="knows no node n9"):
        scontrol.show_node("n9")
    slurm.say("show node", "")
    with pytest.raises(NotStaged, match="knows no node n9"):
        scontrol.show_node("n9")
    slurm.say("show node", "", code=1, error="slurm_load_node error: Unable to contact slurm controller\n")
    with pytest.raises(ClusterUnavailable, match="Unable to contact"):
        scontrol.show_node("n9")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    for ask in (scontrol.show_config, scontrol.names_here):
        with pytest.raises(ClusterUnavailable, match="scontrol is not installed"):
            ask()


def test_a_host_that_slurm_does_not_list_has_its_own_name(slurm: FakeScontrol) -> None:
    slurm.say("show aliases", "", code=1)
    assert scontrol.names_here() == (os.uname().nodename.partition(".")[0],)


def test_without_a_store_nothing_is_held_and_none_is_made(store_path: Path) -> None:
    assert held_here(Node({})) == []
    assert not store_path.exists()


def test_private_images_and_those_used_long_ago_are_not_told(
    public_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    held, files = [], [public_path / name for name in ("old.sqsh", "new.sqsh", "private.sqsh")]
    for age, file in enumerate(files):
        file.write_bytes(minimal_squashfs(file.name.encode()))
        file.chmod(0o600 if file.stem == "private" else 0o644)
        assert main.main([str(file)]) == 0
        path = capfd.readouterr().out.strip()
        held.append(Digest(path.split("/")[-2]))
        leases = images.read_sidecar(Layout(path.partition("/images/")[0]), held[-1])
        assert leases is not None
        os.utime(leases.leases, (1000.0 + age, 1000.0 + age))
        os.utime(f"{os.path.dirname(path)}/image.json", (1000.0 + age, 1000.0 + age))
    assert held_here(Node({})) == [held[1], held[0]]
    monkeypatch.setattr(features, "MOST", 1)
    assert held_here(Node({})) == [held[1]]
