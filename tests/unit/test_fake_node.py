"""Simulated processes: they live until killed, and the dead touch nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from stager import process
from stager.store import files
from tests.support.fake_node import POINTS, Death, FakeNode, Kill, Processes, bad_images, fake_node, origin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    with fake_node(str(tmp_path / "store"), monkeypatch) as made:
        yield made


def test_identities_live_until_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes()
    processes.install(monkeypatch)
    me, other = process.current(), processes.start()
    assert (me.alive, other.alive) == (True, True)
    assert process.current() == me
    with processes.playing(other):
        assert files.unique().startswith(str(other))
    assert process.current() == me
    processes.kill(other)
    assert (me.alive, other.alive) == (True, False)
    processes.reboot(monkeypatch)
    assert (me.alive, other.alive) == (False, False)
    assert process.current().boot == process.boot_id() != me.boot


def test_the_dead_touch_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "note").touch()
    with Kill(str(store), "here") as kill:
        kill("elsewhere")
        try:
            kill("here")
        finally:
            files.discard(str(store / "note"))
            files.write_text(str(store / "last-words"), "…")
    assert kill.happened
    assert os.listdir(store) == ["note"]


def test_nobody_dies_by_accident(tmp_path: Path) -> None:
    with pytest.raises(Death), Kill(str(tmp_path), "never"):
        raise Death("another's")


@pytest.mark.parametrize("point", POINTS)
def test_every_point_is_reached(node: FakeNode, point: str) -> None:
    assert node.dies_at(point, origin())
    assert node.processes.living == set()


def test_bad_images_are_found(node: FakeNode) -> None:
    image = node.staging(origin()).run()
    assert bad_images(node.layout) == []
    status = os.stat(image.path)
    with open(image.path, "r+b") as file:
        file.write(b"X")
    os.utime(image.path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert bad_images(node.layout) == [image.path]
