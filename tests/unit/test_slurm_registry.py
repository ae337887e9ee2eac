from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest

from stager.layout import Layout
from stager.process import boot_id, current
from stager.schedulers import registry
from stager.schedulers.registry import Directory, JobRecord, Registry

if TYPE_CHECKING:
    from pathlib import Path

RECORD = JobRecord(
    scope="slurm-7",
    uid=20001,
    gid=20002,
    restart=2,
    references=("https://h/x", "/y"),
    directories=(Directory("/scratch/tmp.7.2/_tmp", "/tmp", 8, 77), Directory("/scratch/tmp.7.2/_var_tmp", "/var/tmp")),
    namespace="/run/stage-image/jobs/slurm-7/ns",
    process="12.34.abcdef01",
)


@pytest.fixture
def kept(tmp_path: Path) -> Registry:
    return Registry(Layout(str(tmp_path / "store")))


def test_a_record_is_read_as_it_was_written(kept: Registry) -> None:
    kept.write(RECORD)
    assert kept.read("slurm-7") == RECORD
    changed = replace(RECORD, restart=3, process="")
    kept.write(changed)
    assert kept.read("slurm-7") == changed


def test_records_are_for_root_alone(kept: Registry) -> None:
    before = os.umask(0)
    try:
        kept.write(RECORD)
    finally:
        os.umask(before)
    path = kept.path("slurm-7")
    assert [stat.S_IMODE(os.stat(each).st_mode) for each in (path, os.path.dirname(path))] == [0o600, 0o700]


def test_there_are_none_before_the_first(kept: Registry, tmp_path: Path) -> None:
    assert (kept.read("slurm-7"), list(kept.records())) == (None, [])
    kept.remove("slurm-7")
    assert not (tmp_path / "store").exists()


def test_what_is_removed_is_forgotten(kept: Registry) -> None:
    other = replace(RECORD, scope="slurm-77")
    kept.write(RECORD)
    kept.write(other)
    kept.remove("slurm-7")
    kept.remove("slurm-7")
    assert (kept.read("slurm-7"), list(kept.records())) == (None, [other])


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "7", '"scope"', "null", "\0" * 99, "[" * 100_000),
        json.dumps({"scope": "slurm-7", "gid": 1}),
        json.dumps(asdict(RECORD) | {"scope": "slurm-8"}),
        json.dumps(asdict(RECORD) | {"directories": [{"path": "/x"}]}),
        json.dumps(asdict(RECORD) | {"directories": ["/x"]}),
        json.dumps(asdict(RECORD) | {"directories": None}),
        json.dumps(asdict(RECORD) | {"references": 7}),
    ],
)
def test_what_is_no_record_is_passed_over(kept: Registry, text: str) -> None:
    sound = replace(RECORD, scope="slurm-77")
    kept.write(sound)
    kept.write(RECORD)
    with open(kept.path("slurm-7"), "w", encoding="utf-8") as file:
        file.write(text)
    assert kept.read("slurm-7") is None
    assert list(kept.records()) == [sound]


def test_a_link_is_no_record(kept: Registry, tmp_path: Path) -> None:
    kept.write(RECORD)
    os.rename(kept.path("slurm-7"), tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", kept.path("slurm-7"))
    assert (kept.read("slurm-7"), list(kept.records())) == (None, [])


def test_other_files_are_no_records(kept: Registry) -> None:
    kept.write(RECORD)
    folder = os.path.dirname(kept.path("slurm-7"))
    for name in ("slurm-8.json.new", ".slurm-9.json", "README"):
        with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
            json.dump(asdict(RECORD), file)
    assert list(kept.records()) == [RECORD]


def test_what_a_later_version_adds_is_passed_over(kept: Registry) -> None:
    kept.write(RECORD)
    with open(kept.path("slurm-7"), "w", encoding="utf-8") as file:
        json.dump(asdict(RECORD) | {"colour": "green"}, file)
    assert kept.read("slurm-7") == RECORD


def test_a_record_is_of_the_boot_it_was_made_in() -> None:
    assert JobRecord(scope="slurm-7", uid=1, gid=1).of_this_boot
    assert not replace(RECORD, boot="00000000").of_this_boot


def test_who_stages_is_known_while_he_lives() -> None:
    assert replace(RECORD, process=str(current())).stager == current()
    me = current()
    for other in ("", "nobody", f"{me.pid}.{me.start - 1}.{boot_id()}", f"{me.pid}.{me.start}.00000000"):
        assert replace(RECORD, process=other).stager is None


def test_a_directory_that_is_made_takes_the_place_of_its_plan() -> None:
    planned = RECORD.directories[1]
    made = replace(planned, dev=9, ino=99)
    assert RECORD.with_directory(made).directories == (RECORD.directories[0], made)
    assert RECORD.directories[1] == planned


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run").mkdir()
    jobs = tmp_path / "run" / "stage-image" / "jobs"
    monkeypatch.setattr(registry, "RUN", str(jobs))
    return jobs


def test_what_ends_with_the_boot(run: Path) -> None:
    assert registry.run_folder("slurm-7") == f"{run}/slurm-7"
    before = os.umask(0o077)
    try:
        assert registry.make_run_folder("slurm-7") == registry.make_run_folder("slurm-7") == f"{run}/slurm-7"
        images = registry.make_image_folders("slurm-7", 3)
    finally:
        os.umask(before)
    assert (images, sorted(os.listdir(images))) == (f"{run}/slurm-7/images", ["1", "2", "3"])
    assert {stat.S_IMODE(path.stat().st_mode) for path in [run, *run.rglob("*")]} == {0o755}
