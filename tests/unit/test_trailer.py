"""What stands behind the squashfs of a container image."""

from __future__ import annotations

import os

import pytest

from stager import trailer
from stager.errors import DamagedImage
from stager.oci import ContainerConfig
from tests.support.image_factory import in_memory, minimal_squashfs

CONFIG = ContainerConfig(env=("A=b",), cmd=("sh",), labels={"x": "\u00e9"})


def test_behind_a_squashfs() -> None:
    image = minimal_squashfs()
    padded = image + b"\0" * (-len(image) % 4096) + trailer.pack(CONFIG)
    assert len(padded) == 8192
    with in_memory(padded) as fd:
        assert trailer.read(fd, len(image)) == CONFIG
        os.truncate(fd, 4096)
        assert trailer.read(fd, len(image)) is None


def test_others_say_nothing() -> None:
    assert trailer.unpack(b"") is None
    assert trailer.unpack(b"SIF" * 2000) is None


@pytest.mark.parametrize(
    "damaged",
    [
        trailer.MAGIC,
        trailer.MAGIC + b"\xff" * 8,
        trailer.pack(CONFIG)[:60],
        trailer.MAGIC + (2).to_bytes(8, "little") + b"[]",
        trailer.MAGIC + (2).to_bytes(8, "little") + b"{]",
    ],
)
def test_damage(damaged: bytes) -> None:
    with pytest.raises(DamagedImage):
        trailer.unpack(damaged)
