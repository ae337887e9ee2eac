"""Every verb does to a store what its help says: list, inspect, verify, remove, prune, doctor, config."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.origin import Origin
from tests.support.tasks import COMMAND, Tasks, image, published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.tasks import Task

OLD = image(seed=1)


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Tasks]:
    with Tasks(tmp_path) as started:
        yield started


@pytest.fixture
def url(tmp_path: Path, tasks: Tasks) -> Iterator[str]:
    """A staged image that nothing uses any more: its session has ended."""
    with Origin() as origin:
        url = origin.put("/tool.sqsh", OLD)
        assert tasks.run(url, session=True).done() == 0
        yield url


def digest(content: bytes) -> str:
    return f"sha256:{sha256(content).hexdigest()}"


def answer_of(task: Task, code: int = 0) -> Any:  # noqa: ANN401 - JSON is what it is
    assert task.done() == code, task.err
    return json.loads(task.out)


def snapshot(store: Path) -> dict[str, tuple[int, int]]:
    """Every file of the store with inode and size; a lock leaves its file, so locks are left out."""
    found = (path for path in store.rglob("*") if path.is_file() and path.parent.name != "locks")
    return {str(path.relative_to(store)): (path.stat().st_ino, path.stat().st_size) for path in found}


def test_list_tells_what_is_there_and_who_uses_it(tasks: Tasks, url: str, store_path: Path) -> None:
    (row,) = answer_of(tasks.run("list", "--json"))
    assert (row["digest"], row["path"]) == (digest(OLD), str(published(store_path, OLD)))
    assert (row["size"], row["format"], row["origin"]) == (len(OLD), "squashfs", url)
    assert (row["references"], row["scopes"], row["mounts"], row["sound"]) == ([url], [], [], True)
    assert tasks.run(url, env={"SLURM_JOB_ID": "7"}).done() == 0
    (row,) = answer_of(tasks.run("list", "--json"))
    assert row["scopes"] == ["slurm-7"]
    table = tasks.run("list").out.splitlines()
    assert table[0].split()[0] == "DIGEST"
    assert digest(OLD)[7:19] in table[1]


def test_list_of_an_empty_store(tasks: Tasks) -> None:
    assert answer_of(tasks.run("list", "--json")) == []
    assert tasks.run("list").done() == 0


def test_inspect_by_any_name(tasks: Tasks, url: str, store_path: Path, tmp_path: Path) -> None:
    (tmp_path / "other.sqsh").write_bytes(OLD)
    path = str(published(store_path, OLD))
    names = (url, digest(OLD), digest(OLD)[7:], digest(OLD)[7:19], path, "other.sqsh")
    for task in tasks.together(*(("inspect", "--json", name) for name in names)):
        found = answer_of(task)
        assert (found["digest"], found["size"], found["format"]) == (digest(OLD), len(OLD), "squashfs")


def test_inspect_what_is_not_there(tasks: Tasks, url: str) -> None:
    assert tasks.run("inspect", f"{url}.other").done() == 82
    assert tasks.run("inspect", "/proc/version").done() == 72


def test_verify_finds_a_sound_image_sound(tasks: Tasks, url: str) -> None:
    (found,) = answer_of(tasks.run("verify", "--json"))
    assert (found["digest"], found["sound"], found["found"]) == (digest(OLD), True, "sound")


def test_verify_quarantines_a_bad_byte_and_it_is_staged_again(tasks: Tasks, url: str, store_path: Path) -> None:
    path = published(store_path, OLD)
    flip(path)
    task = tasks.run("verify")
    assert task.done() == 84
    assert digest(OLD) in task.out
    assert not path.exists()
    (bad,) = (store_path / "quarantine").iterdir()
    assert (bad / path.name).stat().st_size == len(OLD)
    assert tasks.run("verify").done() == 0
    assert tasks.run(url).answer == str(path)
    assert path.read_bytes() == OLD


def test_a_file_that_was_written_to_is_noticed_without_verify(tasks: Tasks, url: str, store_path: Path) -> None:
    """Its time has changed: it is hashed again, put aside and staged anew before anybody gets it."""
    path = published(store_path, OLD)
    flip(path)
    assert tasks.run(url, env={"SLURM_JOB_ID": "2"}).answer == str(path)
    assert path.read_bytes() == OLD
    assert len(list((store_path / "quarantine").iterdir())) == 1


@pytest.mark.parametrize("way", ["verify", "stage"])
def test_a_sidecar_that_is_lost_is_written_anew(tasks: Tasks, url: str, store_path: Path, way: str) -> None:
    sidecar = published(store_path, OLD).parent / "image.json"
    before = json.loads(sidecar.read_text())
    sidecar.unlink()
    if way == "verify":
        (found,) = answer_of(tasks.run("verify", "--json"))
        assert found["sound"]
    else:
        assert tasks.run(url, env={"SLURM_JOB_ID": "2"}).answer == str(published(store_path, OLD))
    after = json.loads(sidecar.read_text())
    assert all(after[key] == before[key] for key in ("digest", "inode", "info", "private"))
    assert answer_of(tasks.run("list", "--json"))[0]["sound"]


def test_remove(tasks: Tasks, url: str, store_path: Path) -> None:
    (gone,) = answer_of(tasks.run("remove", "--json", url))
    assert (gone["digest"], gone["freed"]) == (digest(OLD), len(OLD))
    assert not published(store_path, OLD).exists()
    assert tasks.run("remove", url).done() == 82
    assert tasks.run(url).answer == str(published(store_path, OLD))


def test_remove_what_somebody_uses(tasks: Tasks, url: str, store_path: Path) -> None:
    assert tasks.run(url, env={"SLURM_JOB_ID": "7"}).done() == 0
    task = tasks.run("remove", url)
    assert task.done() == 79
    assert "slurm-7" in task.err
    assert published(store_path, OLD).exists()
    assert tasks.run("remove", url, env={"SLURM_JOB_ID": "7"}).done() == 0


def test_remove_with_force(tasks: Tasks, url: str, store_path: Path) -> None:
    assert tasks.run(url, env={"SLURM_JOB_ID": "7"}).done() == 0
    assert tasks.run("remove", "--force", url).done() == 0
    assert not published(store_path, OLD).exists()


def test_a_lease_lives_as_long_as_its_session(tasks: Tasks, url: str) -> None:
    script = f'"$@" {url} && echo leased >&2 && while ! [ -e ended ]; do sleep 0.02; done'
    session = tasks.start(script, "sh", *COMMAND, program=("sh", "-c"), session=True)
    session.says("leased")
    assert tasks.run("remove", url).done() == 79
    session.kill()
    assert tasks.run("remove", url).done() == 0


def test_exec_holds_its_image_for_as_long_as_the_command_runs(tasks: Tasks, url: str) -> None:
    options = ("exec", "--runtime=none", "--mount=none", url, "--")
    user = tasks.start(*options, "sh", "-c", "echo up >&2; exec sleep 600", env={"SLURM_JOB_ID": "7"})
    user.says("up")
    assert tasks.run("remove", url).done() == 79
    user.kill()
    assert tasks.run("remove", url).done() == 0


def test_prune_dry_run_changes_nothing(tasks: Tasks, url: str, store_path: Path) -> None:
    before = snapshot(store_path)
    told = answer_of(tasks.run("prune", "--dry-run", "--json"))
    assert [image["digest"] for image in told["evicted"]] == [digest(OLD)]
    assert (told["freed"], told["dry_run"]) == (len(OLD), True)
    assert snapshot(store_path) == before
    assert answer_of(tasks.run("prune", "--json"))["freed"] == len(OLD)
    assert not published(store_path, OLD).exists()


def test_prune_keeps_what_is_used_and_takes_the_longest_unused(tasks: Tasks, tmp_path: Path, store_path: Path) -> None:
    contents = [image(seed=n) for n in range(4)]
    with Origin() as origin:
        urls = [origin.put(f"/{n}.sqsh", content) for n, content in enumerate(contents)]
        for url in urls:
            assert tasks.run(url, session=True).done() == 0
        assert tasks.run(urls[0], env={"SLURM_JOB_ID": "7"}).done() == 0
    limit = str(2 * len(contents[0]))
    gone = answer_of(tasks.run("prune", "--max-size", limit, "--json"))["evicted"]
    assert [row["digest"] for row in gone] == [digest(contents[1]), digest(contents[2])]
    assert [published(store_path, content).exists() for content in contents] == [True, False, False, True]
    assert answer_of(tasks.run("prune", "--max-age", "1d", "--json"))["evicted"] == []
    assert answer_of(tasks.run("prune", "--json"))["freed"] == len(contents[3])


def test_doctor_finds_what_lies_about_and_fixes_it_when_asked(tasks: Tasks, url: str, store_path: Path) -> None:
    dead = [
        store_path / "leases" / digest(OLD)[7:] / "slurm-1@999999.1.00000000",
        store_path / "images" / "sha256" / "ab" / f".{'ab' * 32}.999999.1.00000000.0123456789ab" / "image.sqsh",
    ]
    for path in dead:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    rows = answer_of(tasks.run("doctor", "--json"))
    assert next(row for row in rows if row["name"] == "store")["ok"]
    leftovers = [row["detail"] for row in rows if row["name"] == "leftover" and not row["ok"]]
    assert [text for text in leftovers if "slurm-1@999999" in text]
    assert [text for text in leftovers if "abababab" in text]
    assert all(path.exists() for path in dead)
    assert tasks.run("doctor", "--fix").done() == 0
    assert not any(path.exists() for path in dead)
    assert published(store_path, OLD).exists()


def test_doctor_says_why_a_store_cannot_be_used(tasks: Tasks, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    task = tasks.run("doctor", env={"STAGE_IMAGE_STORE": str(tmp_path / "open")})
    assert task.done() == 75
    assert "can be written by others" in task.out


def test_config_shows_where_each_value_comes_from(tasks: Tasks, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('freshness = "never"\nconnections = 2\n')
    env = {"STAGE_IMAGE_CONFIG": str(file), "STAGE_IMAGE_CONNECTIONS": "3"}
    shown = answer_of(tasks.run("config", "show", "--json", env=env))
    assert shown["freshness"] == {"value": "never", "source": str(file)}
    assert shown["connections"] == {"value": 3, "source": "STAGE_IMAGE_CONNECTIONS"}
    assert shown["offline"]["source"] == "default"


def flip(path: Path) -> None:
    """Change one byte, as root may and as disks do, and the file's time with it."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(500_000)
        byte = file.read(1)
        file.seek(500_000)
        file.write(bytes([byte[0] ^ 0xFF]))
    path.chmod(mode)
    os.utime(path, ns=(1, 1))
