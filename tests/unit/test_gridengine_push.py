"""Telling qmaster at once: what is told, when nothing is, and that it keeps nobody from an image."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from stager.cli import gridengine_push
from stager.cli.node import Node
from stager.cli.parser import parse
from stager.errors import ClusterUnavailable
from tests.support.told_store import ToldStore

if TYPE_CHECKING:
    from pathlib import Path

URL = "https://images.example.org/tool.sif"
HOST = os.uname().nodename


class Qmaster:
    """A fake qconf that writes down what it is told, or fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.answers(0)

    def answers(self, code: int) -> None:
        path = self._folder / "qconf"
        path.write_text(f'#!/bin/sh\necho "$*" >>"{self._folder}/told"\necho trouble >&2\nexit {code}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    @property
    def told(self) -> list[str]:
        path = self._folder / "told"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def qmaster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qmaster:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAGE_IMAGE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("STAGE_IMAGE_GRIDENGINE_PUSH", "true")
    monkeypatch.setattr(os, "geteuid", lambda: 0) if os.geteuid() else None
    return Qmaster(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> ToldStore:
    return ToldStore(tmp_path / "store")


def run(*words: str) -> int:
    """Run a verb, without what `main` does to the signals of the tests' own process."""
    arguments = parse(list(words))
    code: int = arguments.run(arguments)
    return code


def told(value: str) -> str:
    rest = "".join(f",stage_images{number}=none" for number in range(2, 9))
    return f"-mattr exechost complex_values stage_images={value}{rest},stage_images_cut=0 {HOST}"


def test_what_is_held_is_told_once(qmaster: Qmaster, store: ToldStore) -> None:
    digest = store.add(1, URL)
    for _ in range(2):
        gridengine_push.push(Node({}))
    assert qmaster.told == [told(f";tool.sif@{digest.hex[:12]};")]


def test_what_changes_is_told(qmaster: Qmaster, store: ToldStore) -> None:
    digest = store.add(1, URL)
    gridengine_push.push(Node({}))
    assert run("remove", digest.hex) == 0
    assert qmaster.told == [told(f";tool.sif@{digest.hex[:12]};"), told("none")]


def test_asked_for_it_is_told_again(qmaster: Qmaster, store: ToldStore) -> None:
    digest = store.add(1, URL)
    for _ in range(2):
        assert run("load-sensor", "--push") == 0
    assert qmaster.told == [told(f";tool.sif@{digest.hex[:12]};")] * 2


def test_nothing_without_the_setting(qmaster: Qmaster, store: ToldStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGE_IMAGE_GRIDENGINE_PUSH", "false")
    gridengine_push.push(Node({}))
    assert qmaster.told == []
    assert not os.path.lexists(store.layout.report)


def test_nothing_for_users(
    qmaster: Qmaster, store: ToldStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    gridengine_push.push(Node({}))
    assert (qmaster.told, capsys.readouterr().err) == ([], "")
    assert not os.path.lexists(store.layout.report)


def test_a_qmaster_that_is_away_is_told_later(
    qmaster: Qmaster, store: ToldStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add(1, URL)
    qmaster.answers(1)
    gridengine_push.push(Node({}))
    assert "warning: Grid Engine was not told what this node holds now: Grid Engine cannot" in capsys.readouterr().err
    with pytest.raises(ClusterUnavailable):
        gridengine_push.push_now(Node({}))
    qmaster.answers(0)
    gridengine_push.push(Node({}))
    assert len(qmaster.told) == 3
