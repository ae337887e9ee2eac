"""Opening a store: made when missing, believed when ours, left alone when not."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from stager.errors import StoreUnusable
from stager.layout import VERSION
from stager.store import folder
from stager.store.folder import open_store

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534


def tree(path: Path) -> dict[str, int]:
    """Return every path below with its mode: what opening a store may not change."""
    return {str(p): p.lstat().st_mode for p in sorted(path.rglob("*"))}


def test_a_store_is_made_once(store_path: Path) -> None:
    layout = open_store(str(store_path))
    made = tree(store_path)
    assert open_store(f"{store_path}/").root == layout.root == str(store_path)
    assert tree(store_path) == made
    assert {os.path.basename(path) for path in layout.folders} <= set(os.listdir(store_path)) | {"sha256"}
    assert (store_path / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert (store_path / "VERSION").read_text() == f"{VERSION}\n"


def test_nothing_of_a_store_is_open_to_others_whatever_the_umask(store_path: Path) -> None:
    before = os.umask(0)
    try:
        open_store(str(store_path))
    finally:
        os.umask(before)
    modes = [p.stat().st_mode for p in (store_path, *store_path.rglob("*"))]
    assert [oct(mode) for mode in modes if stat.S_IMODE(mode) & 0o022] == []


def test_what_is_half_made_is_made_whole(store_path: Path) -> None:
    open_store(str(store_path))
    (store_path / "VERSION").unlink()
    (store_path / "refs").rmdir()
    (store_path / ".VERSION.123.1.abcd").touch()
    open_store(str(store_path))
    assert (store_path / "refs").is_dir()
    (store_path / "pins").rmdir()
    open_store(str(store_path))
    assert (store_path / "pins").is_dir()


def test_a_newer_store_is_refused_and_never_changed(store_path: Path) -> None:
    open_store(str(store_path))
    (store_path / "VERSION").write_text(f"{VERSION + 1}\n")
    (store_path / "warm").rmdir()
    before = tree(store_path)
    with pytest.raises(StoreUnusable, match=f"version '{VERSION + 1}'"):
        open_store(str(store_path))
    assert tree(store_path) == before


@pytest.mark.parametrize("text", ["", "x" * 5000, "1 2", "\udcff"])
def test_a_version_that_is_none_is_refused(store_path: Path, text: str) -> None:
    open_store(str(store_path))
    (store_path / "VERSION").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreUnusable) as raised:
        open_store(str(store_path))
    assert len(raised.value.message) < 400


@pytest.mark.parametrize("name", ["", "images", "refs", "locks", "leases", "pins", "images/sha256"])
def test_a_link_in_place_of_a_folder_is_refused_and_not_followed(tmp_path: Path, store_path: Path, name: str) -> None:
    open_store(str(store_path))
    elsewhere = tmp_path / "elsewhere"
    (store_path / name).rename(elsewhere)
    before = tree(elsewhere)
    (store_path / name).symlink_to(elsewhere)
    with pytest.raises(StoreUnusable, match="links are not followed"):
        open_store(str(store_path))
    assert tree(elsewhere) == before


def test_nothing_is_made_through_a_link(tmp_path: Path, store_path: Path) -> None:
    open_store(str(store_path))
    (tmp_path / "elsewhere").mkdir()
    (store_path / "images" / "sha256").rmdir()
    (store_path / "images").rmdir()
    (store_path / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnusable):
        open_store(str(store_path))
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("name", ["images", "locks", "failures"])
def test_a_file_in_place_of_a_folder_is_refused(store_path: Path, name: str) -> None:
    open_store(str(store_path))
    (store_path / name).rename(store_path / "gone")
    (store_path / name).touch()
    with pytest.raises(StoreUnusable, match="not a directory"):
        open_store(str(store_path))


@pytest.mark.parametrize("name", ["", "images", "leases", "pins"])
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_folder_that_others_may_write_is_refused(store_path: Path, name: str, mode: int) -> None:
    open_store(str(store_path))
    (store_path / name).chmod(mode)
    with pytest.raises(StoreUnusable, match="can be written by others"):
        open_store(str(store_path))


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", ["", "images", "partial"])
def test_a_folder_of_somebody_else_is_refused_and_not_changed(store_path: Path, name: str) -> None:
    open_store(str(store_path))
    (store_path / "refs").rmdir()
    os.chown(store_path / name, NOBODY, NOBODY)
    before = tree(store_path)
    with pytest.raises(StoreUnusable, match=f"uid {NOBODY}"):
        open_store(str(store_path))
    assert {path for path in tree(store_path) if "refs" not in path} == set(before)


@pytest.mark.needs("root")
def test_roots_store_is_not_made_where_others_may_exchange_it(public_path: Path) -> None:
    (public_path / "theirs").mkdir()
    os.chown(public_path / "theirs", NOBODY, NOBODY)
    with pytest.raises(StoreUnusable, match="on the way"):
        open_store(str(public_path / "theirs" / "store"))


@pytest.mark.parametrize("name", ["data", "thesis.tex", ".bashrc", ".ssh"])
def test_a_directory_with_somebodys_data_is_not_made_a_store(store_path: Path, name: str) -> None:
    store_path.mkdir()
    (store_path / name).touch()
    with pytest.raises(StoreUnusable, match="not a store and not empty"):
        open_store(str(store_path))
    assert os.listdir(store_path) == [name]


def test_a_fresh_file_system_is_empty_enough(store_path: Path) -> None:
    (store_path / "lost+found").mkdir(parents=True)
    open_store(str(store_path))


@pytest.mark.parametrize("root", ["", "relative", "./x", "/with\nnewline", "/with\0zero"])
def test_only_absolute_paths_are_stores(root: str) -> None:
    with pytest.raises(StoreUnusable, match="not an absolute path"):
        open_store(root)


def test_what_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match="cannot be made"):
        open_store(str(tmp_path / "file" / "store"))


def test_the_default_is_on_the_local_disk() -> None:
    assert folder.default_root({}, 1000) == "/var/tmp/stage-image-1000"
    assert folder.default_root({"STAGE_IMAGE_STORE": "/fast"}, 1000) == "/fast"
    assert folder.default_root({"STAGE_IMAGE_STORE": ""}, 1000) == "/var/tmp/stage-image-1000"


def test_writability_is_found_by_writing(store_path: Path) -> None:
    layout = open_store(str(store_path))
    assert folder.is_writable(layout)
    assert os.listdir(store_path / "locks") == []
    (store_path / "locks").rmdir()
    assert not folder.is_writable(layout)


@pytest.mark.needs("root")
def test_everybody_may_lease_from_root_but_not_lead_root_astray(public_path: Path) -> None:
    layout = open_store(str(public_path / "store"))
    victim = public_path / "victim"
    victim.mkdir(mode=0o700)
    os.symlink(victim, f"{layout.root}/leases/link")
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        folder.open_to_leases(f"{layout.root}/leases/link")
    assert stat.S_IMODE(victim.stat().st_mode) == 0o700
    folder.open_to_leases(f"{layout.root}/leases/image")
    assert stat.S_IMODE(os.stat(f"{layout.root}/leases/image").st_mode) == 0o1777
    assert stat.S_IMODE(os.stat(f"{layout.root}/leases").st_mode) & 0o022 == 0
