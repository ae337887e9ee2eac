"""Small files: whole or not at all, and nobody's but ours."""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from stager.store import files

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534


def test_a_record_is_only_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("key value\n")
    (tmp_path / "real").chmod(0o644)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nothing")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    assert files.read_record(str(tmp_path / "real")) == {"key": "value"}
    for name in ("link", "dangling", "fifo", "folder", "absent", "real/below"):
        assert files.read_record(str(tmp_path / name)) is None, name


@pytest.mark.parametrize(("mode", "trusted"), [(0o600, True), (0o644, True), (0o664, False), (0o646, False)])
def test_what_others_may_write_is_not_believed(tmp_path: Path, mode: int, *, trusted: bool) -> None:
    path = tmp_path / "record"
    path.write_text("key value\n")
    path.chmod(mode)
    assert (files.read_record(str(path)) is not None) == trusted


@pytest.mark.needs("root")
def test_what_others_own_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_text("key value\n")
    os.chown(path, NOBODY, NOBODY)
    assert files.read_record(str(path)) is None


def test_a_huge_record_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(b"key value\n")
    os.truncate(path, 1 << 40)
    path.chmod(0o600)
    text = files.read_text(str(path))
    assert text is not None
    assert len(text) <= files.LARGEST_RECORD


def test_writing_replaces_what_is_there_and_follows_nothing(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "record").symlink_to("precious")
    files.write_text(str(tmp_path / "record"), "new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "record").is_symlink()
    assert files.read_text(str(tmp_path / "record")) == "new"
    assert sorted(os.listdir(tmp_path)) == ["home", "precious", "record"]


def test_folders_are_made_closed_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        files.write_text(str(tmp_path / "a" / "b" / "record"), "x", 0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) & 0o022 == 0
    assert stat.S_IMODE((tmp_path / "a" / "b" / "record").stat().st_mode) == 0o600


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_text_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "folder" / "record"
    files.write_text(str(path), "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="no space"):
        files.write_text(str(path), "new", durable=True)
    assert files.read_text(str(path)) == "old"
    assert failing == "replace" or os.listdir(path.parent) == ["record"]


def test_a_full_file_system_is_told_before_anything_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "record"
    files.write_text(str(path), "old")
    real = os.open

    def onto_full(name: str, flags: int, mode: int = 0o777) -> int:
        os.close(real(name, flags, mode))
        return real("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(os, "open", onto_full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(str(path), "new")
    monkeypatch.undo()
    assert files.read_text(str(path)) == "old"
    assert os.listdir(path.parent) == ["record"]


def test_the_first_of_many_creates_and_all_others_see_it_whole(tmp_path: Path) -> None:
    path, start = str(tmp_path / "pins" / "record"), threading.Barrier(8)
    files.make_folders(os.path.dirname(path))
    won: list[str] = []
    seen: list[str | None] = []

    def create(text: str) -> None:
        start.wait()
        if files.create_text(path, text):
            won.append(text)
        seen.append(files.read_text(path))

    threads = [threading.Thread(target=create, args=(f"{number}" * 5000,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert set(seen) == set(won)
    assert os.listdir(os.path.dirname(path)) == ["record"]


def test_discarding_never_raises_and_follows_nothing(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(precious)
    files.discard(str(tmp_path / "absent"))
    files.discard(str(precious))
    files.discard_tree(str(tree))
    files.discard_tree(str(tmp_path / "absent"))
    assert os.listdir(precious) == ["file"]
    assert not tree.exists()


def test_names_are_what_is_not_hidden(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden"):
        (tmp_path / "folder" / name).mkdir(parents=True)
    folder = str(tmp_path / "folder")
    assert files.names(folder) == ["a", "b"]
    assert files.hidden_names(folder) == [".hidden"]
    assert files.names(str(tmp_path / "absent")) == files.hidden_names(str(tmp_path / "absent")) == []


def test_pairs_are_two_levels(tmp_path: Path) -> None:
    (tmp_path / "x" / "1").mkdir(parents=True)
    (tmp_path / "x" / "2").touch()
    (tmp_path / "file").touch()
    assert [pair for pair in files.walk_pairs(str(tmp_path)) if pair[0] != "home"] == [("x", "1"), ("x", "2")]


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("42", 42), ("9" * 18, 10**18 - 1), ("9" * 19, 0), ("-1", 0), ("1.5", 0), ("٣", 0), ("", 0), (None, 0)],
)
def test_whole_numbers_are_sensible(text: str | None, number: int) -> None:
    assert files.whole_number(text) == number


def test_unique_names_are_unique() -> None:
    assert len({files.unique() for _ in range(100)}) == 100
