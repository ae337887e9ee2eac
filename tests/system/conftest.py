"""What tests that mount something share, and those of jobs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support import image_factory as factory
from tests.support import mounting
from tests.support.leftovers import Traces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def leaves_nothing(tmp_path: Path) -> Iterator[None]:
    """Fail the very test that leaves a mount, a loop device or a process behind."""
    with mounting.loop_devices_put_back():
        yield
        assert Traces("none", (str(tmp_path),)).after_grace() == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory to make images of; more than fits into the first few pages."""
    tree = factory.small_tree(tmp_path / "tree")
    (tree / "random").write_bytes(os.urandom(700_000))
    return tree


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    """An empty directory."""
    point = tmp_path / "mountpoint"
    point.mkdir(mode=0o755)
    return point


@pytest.fixture
def word(request: pytest.FixtureRequest) -> str:
    """One that no other test has: of an image that no node has seen."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name)
