"""What the verbs do with the layers of container images that a store keeps."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from hashlib import sha256
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

import pytest

from stager.cli import doctor_conversion
from stager.cli.parser import parse
from stager.errors import VerifyFailed
from stager.layers import mksquashfs
from stager.reference import Digest
from stager.store import folder
from stager.store.blobs import Blobs

if TYPE_CHECKING:
    from pathlib import Path

    from stager.cli.finding import Finding

SIZE = 1000

Run = Callable[..., Any]


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    monkeypatch.setenv("STAGE_IMAGE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("STAGE_IMAGE_ALLOW_UNSAFE_STORE", "true")
    return Blobs(folder.open_store(str(tmp_path / "store")))


@pytest.fixture
def answer(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a verb and return its answer: with --json what it says, else its lines."""

    def run(*words: str) -> object:
        capfd.readouterr()
        import_module(f"stager.cli.{words[0]}_verb").run(parse(list(words)))
        said = capfd.readouterr().out
        return json.loads(said) if "--json" in words else said.splitlines()

    return run


def keep(blobs: Blobs, number: int, last_used: float = 0) -> Digest:
    content = bytes([number]) * SIZE
    digest = Digest(sha256(content).hexdigest())
    copy = blobs.claim(digest, SIZE)
    assert copy is not None
    copy.append(content)
    copy.commit().close()
    if last_used:
        os.utime(blobs.layout.blob(digest), (last_used, last_used))
    return digest


def leave(blobs: Blobs) -> None:
    """Leave a layer in flight that nobody goes on with."""
    copy = blobs.claim(Digest("ab" * 32), SIZE)
    assert copy is not None
    copy.append(b"x" * 100)
    copy.close()


def test_a_store_without_layers_says_nothing_of_them(blobs: Blobs, answer: Run) -> None:
    assert len(answer("list")) == 1
    assert answer("list", "--json") == []
    assert answer("list", "--blobs", "--json")["count"] == 0
    assert answer("prune", "--json")["blobs"] == {"count": 0, "size": 0}
    assert not os.path.exists(blobs.layout.blobs)


def test_one_layer_and_parts_of_some_are_told_as_such(blobs: Blobs, answer: Run) -> None:
    leave(blobs)
    assert answer("list")[-1].startswith("parts of layers of container images: ")
    keep(blobs, 1)
    assert answer("list")[-1].startswith("1 layer of container images: ")


def test_list_tells_of_layers_and_its_json_stays_one_of_images(blobs: Blobs, answer: Run) -> None:
    used, idle = keep(blobs, 1), keep(blobs, 2)
    leave(blobs)
    hold = blobs.hold(used, SIZE)
    assert hold is not None
    with hold:
        assert answer("list")[-1].startswith("2 layers of container images: ")
        assert answer("list", "--json") == []
        told = answer("list", "--blobs", "--json")
        assert len(answer("list", "--blobs")) == 3
    assert (told["count"], told["size"], told["unused"]) == (2, 2 * SIZE, SIZE)
    assert told["unfinished"] > 0
    assert {row["digest"]: row["used"] for row in told["blobs"]} == {str(used): True, str(idle): False}


def test_prune_takes_all_that_nothing_uses(blobs: Blobs, answer: Run) -> None:
    used, _ = keep(blobs, 1), keep(blobs, 2)
    leave(blobs)
    hold = blobs.hold(used, SIZE)
    assert hold is not None
    with hold:
        planned = answer("prune", "--blobs", "--dry-run", "--json")
        assert len(blobs.spare()) == 2
        done = answer("prune", "--blobs", "--json")
    assert (planned["blobs"], planned["freed"]) == (done["blobs"], done["freed"])
    assert done["blobs"]["count"] == 2
    assert [blob.digest for blob in blobs.all()] == [used]
    answer("prune")
    assert (blobs.all(), blobs.orphans()) == ([], [])


def test_prune_takes_the_longest_unused_up_to_its_limits(blobs: Blobs, answer: Run) -> None:
    old, new = keep(blobs, 1, 1000), keep(blobs, 2)
    assert answer("prune", "--max-size", str(2 * SIZE), "--json")["freed"] == 0
    assert answer("prune", "--max-age", "1d", "--json")["freed"] == SIZE
    assert [blob.digest for blob in blobs.all()] == [new]
    assert keep(blobs, 1, 1000) == old
    assert answer("prune", "--max-size", str(SIZE), "--json")["blobs"] == {"count": 1, "size": SIZE}
    assert [blob.digest for blob in blobs.all()] == [new]


def test_verify_removes_bad_layers(blobs: Blobs, answer: Run, capfd: pytest.CaptureFixture[str]) -> None:
    good, bad = keep(blobs, 1), keep(blobs, 2)
    assert {row["sound"] for row in answer("verify", "--json")} == {True}
    with open(blobs.layout.blob(bad), "r+b") as file:
        file.write(b"!")
    with pytest.raises(VerifyFailed, match=r"1 of 2 layers of container images were bad"):
        answer("verify", "--json")
    told = {row["digest"]: row["sound"] for row in json.loads(capfd.readouterr().out)}
    assert told == {str(good): True, str(bad): False}
    assert [blob.digest for blob in blobs.all()] == [good]


class TestConversion:
    def said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, missing: str = "") -> Finding:
        """Let a program say `text` that is where users' PATHs do not lead; none at all if it is to say nothing."""

        def version(name: str) -> str:
            if name == missing:
                raise metadata.PackageNotFoundError(name)
            return "1.2"

        if text:
            program = tmp_path / mksquashfs.PROGRAM
            program.write_text(f"#!/bin/sh\necho '{text}'\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr(mksquashfs, "SEARCH_PATH", str(tmp_path))
        monkeypatch.setattr(metadata, "version", version)
        return doctor_conversion.finding()

    @pytest.mark.parametrize("version", ["4.5", "4.5.1", "4.10", "5.0"])
    def test_all_is_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        found = self.said(tmp_path, monkeypatch, f"mksquashfs version {version} (2022/03/17)")
        assert found.ok
        assert found.detail == f"can be converted here, by mksquashfs {version}, isal 1.2, zstandard 1.2"

    @pytest.mark.parametrize(
        ("text", "missing", "said"),
        [
            ("", "", "mksquashfs is not installed, .*; there are isal 1.2, zstandard 1.2"),
            ("mksquashfs version 4.4 (2019)", "", "/.*/mksquashfs is of version 4.4, and 4.5 is .*; there are"),
            ("hello", "", "/.*/mksquashfs does not say which version"),
            ("mksquashfs version 4.6", "isal", "isal is not installed; there are mksquashfs 4.6, zstandard 1.2"),
        ],
    )
    def test_something_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, missing: str, said: str
    ) -> None:
        found = self.said(tmp_path, monkeypatch, text, missing)
        assert not found.ok
        assert re.match(f"cannot be converted here: {said}", found.detail)
        assert "squashfs-tools 4.5" in found.remedy
