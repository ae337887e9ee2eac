"""Looking again: sound images are found sound, bad sidecars mended, bad images quarantined; nothing is raised."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NoReturn

import pytest

from stager.errors import DamagedImage
from stager.images import recognise
from stager.store import files, images, repair
from tests.support.fake_node import FakeNode, digest_of, fake_node, origin, version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from stager.store.images import StagedImage


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    with fake_node(str(tmp_path / "store"), monkeypatch) as made:
        yield made


@pytest.fixture
def image(node: FakeNode) -> StagedImage:
    return node.staging(origin()).run()


def verify(node: FakeNode) -> tuple[StagedImage | None, str]:
    return repair.verify(node.layout, digest_of(version(1)), recognise)


def quarantined(node: FakeNode) -> list[str]:
    return os.listdir(f"{node.layout.root}/quarantine")


def test_a_sound_image_is_left_alone(node: FakeNode, image: StagedImage) -> None:
    before = os.stat(image.path), os.stat(node.layout.sidecar(image.digest))
    assert verify(node) == (image, "sound")
    assert (os.stat(image.path), os.stat(node.layout.sidecar(image.digest)))[0].st_ctime == before[0].st_ctime
    assert quarantined(node) == []


def _lose_sidecar(folder: str) -> None:
    os.unlink(f"{folder}/image.json")


def _spoil_sidecar(folder: str) -> None:
    files.write_text(f"{folder}/image.json", "{nonsense")


def _touch(folder: str) -> None:
    os.utime(f"{folder}/image.sqsh")


def _rename(folder: str) -> None:
    os.rename(f"{folder}/image.sqsh", f"{folder}/image.sif")


def _lose_twin(folder: str) -> None:
    os.unlink(f"{folder}/twin")
    _touch(folder)


def _make_writable(folder: str) -> None:
    os.chmod(f"{folder}/image.sqsh", 0o666)


@pytest.mark.parametrize("mishap", [_lose_sidecar, _spoil_sidecar, _touch, _rename, _lose_twin, _make_writable])
def test_what_is_sound_but_for_its_description_is_mended(
    node: FakeNode, image: StagedImage, mishap: Callable[[str], None]
) -> None:
    mishap(os.path.dirname(image.path))
    assert images.lookup(node.layout, image.digest) is None
    mended, found = verify(node)
    assert found == "sidecar rebuilt"
    assert mended == images.lookup(node.layout, image.digest)
    assert mended is not None
    assert (mended.info, mended.path) == (image.info, image.path)
    assert stat.S_IMODE(os.stat(mended.path).st_mode) == 0o444
    assert os.path.samefile(mended.path, node.layout.twin(image.digest))
    assert quarantined(node) == []


def test_a_private_image_stays_private(node: FakeNode) -> None:
    source = origin()
    source.private = True
    image = node.staging(source).run()
    assert image.private
    _lose_sidecar(os.path.dirname(image.path))
    mended, _ = verify(node)
    assert mended is not None
    assert mended.private
    assert stat.S_IMODE(os.stat(mended.path).st_mode) == 0o400


def _flip(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")


def _to_fifo(path: str) -> None:
    os.unlink(path)
    os.mkfifo(path)


def _to_link(path: str) -> None:
    os.rename(path, f"{path}.real")
    os.symlink(f"{path}.real", path)


@pytest.mark.parametrize("mishap", [_flip, os.unlink, _to_fifo, _to_link, lambda path: os.truncate(path, 0)])
def test_what_is_bad_goes_to_quarantine(node: FakeNode, image: StagedImage, mishap: Callable[[str], None]) -> None:
    mishap(image.path)
    found, why = verify(node)
    assert found is None
    assert "quarantine" in why
    assert len(quarantined(node)) == 1
    assert list(images.digests(node.layout)) == []


def test_rot_below_an_unchanged_inode_is_found(node: FakeNode, image: StagedImage) -> None:
    status = os.stat(image.path)
    _flip(image.path)
    os.utime(image.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert images.lookup(node.layout, image.digest) is not None, "only reading it all can tell"
    assert verify(node)[0] is None


def test_a_bad_sector_is_a_bad_image(node: FakeNode, image: StagedImage, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(repair, "file_digest", unreadable)
    found, why = verify(node)
    assert found is None
    assert "Input/output error" in why


def test_what_no_longer_counts_as_an_image_is_bad(node: FakeNode, image: StagedImage) -> None:
    def refuse(_fd: int, _size: int) -> NoReturn:
        raise DamagedImage("of a version that is no longer supported")

    _lose_sidecar(os.path.dirname(image.path))
    found, why = repair.verify(node.layout, image.digest, refuse)
    assert found is None
    assert "no longer supported" in why


def test_what_is_not_there_is_not_there(node: FakeNode) -> None:
    assert verify(node)[0] is None
    assert quarantined(node) == []


def test_no_second_name_is_no_reason_to_fail(
    node: FakeNode, image: StagedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EMLINK, "Too many links")

    _lose_sidecar(os.path.dirname(image.path))
    monkeypatch.setattr(os, "link", refused)
    assert verify(node)[1] == "sidecar rebuilt"
    assert not os.path.exists(node.layout.twin(image.digest))
