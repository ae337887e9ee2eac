"""What `inspect` says of a container image's configuration, which strangers wrote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from stager.cli.parser import parse
from stager.oci import ContainerConfig
from stager.trailer import pack
from tests.support.image_factory import minimal_squashfs

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = ContainerConfig(
    env=("A=b", "B=\x1b[2J\n"),
    entrypoint=("/bin/tool", "a b"),
    cmd=("--färbe",),
    working_dir="/w\x07",
    user="joe",
    labels={"b": "2", "a": "\x9b31m"},
    platform="linux/amd64",
)


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STAGE_IMAGE_STORE", str(tmp_path / "store"))
    squashfs = minimal_squashfs()
    (tmp_path / "plain").write_bytes(squashfs)
    (tmp_path / "made").write_bytes(squashfs + b"\0" * (-len(squashfs) % 4096) + pack(CONFIG))
    return tmp_path / "made"


def said(capfdbinary: pytest.CaptureFixture[bytes], *words: str) -> str:
    arguments = parse(["inspect", *words])
    assert arguments.run(arguments) == 0
    return capfdbinary.readouterr().out.decode("ascii")


def test_people_are_told_all_of_it_and_terminals_nothing(
    image: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = said(capfdbinary, str(image))
    assert all(character.isprintable() or character == "\n" for character in text)
    pairs = [line.split(":", 1) for line in text.splitlines()]
    told = [(name, value.strip()) for name, value in pairs]
    assert told[told.index(("platform", "linux/amd64")) :] == [
        ("platform", "linux/amd64"),
        ("user", "joe"),
        ("workdir", r"'/w\x07'"),
        ("entrypoint", "/bin/tool 'a b'"),
        ("cmd", r'''"'--f\xe4rbe'"'''),
        ("env", "A=b"),
        ("env", r"'B=\x1b[2J\n'"),
        ("label", r"'a=\x9b31m'"),
        ("label", "b=2"),
    ]


def test_programs_get_it_by_the_names_of_the_specification(
    image: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert json.loads(said(capfdbinary, "--json", str(image)))["config"] == CONFIG.describe()


def test_other_images_have_none(image: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    plain = str(image.parent / "plain")
    assert json.loads(said(capfdbinary, "--json", plain))["config"] is None
    assert "env" not in said(capfdbinary, plain)
