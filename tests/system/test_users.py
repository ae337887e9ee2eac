"""Ordinary users, root, and what each may believe of the other's files."""

from __future__ import annotations

import json
import os
import shutil
import signal
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import COMMAND, Tasks, all_end, image, published, told, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("user-switch", "user-python")

ALICE, MALLORY = 64_981, 64_982
"""Users that nobody else on this machine is."""

CONTENT = image(2 << 20)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        server.put("/tool.sqsh", CONTENT)
        yield server


@pytest.fixture
def tasks(public_path: Path) -> Iterator[Tasks]:
    """Of ALICE, with a home of her own."""
    home = owned_by(ALICE, public_path / "home")
    with Tasks(public_path, HOME=str(home), STAGE_IMAGE_STORE=str(public_path / "store")) as started:
        yield started
    for user in (ALICE, MALLORY):
        shutil.rmtree(f"/var/tmp/stage-image-{user}", ignore_errors=True)


def owned_by(user: int, path: Path, mode: int = 0o700) -> Path:
    path.mkdir()
    os.chown(path, user, user)
    path.chmod(mode)
    return path


def test_a_user_needs_nothing_but_a_place(tasks: Tasks, public_path: Path, origin: Origin) -> None:
    crowd = [tasks.start(origin.url("/tool.sqsh"), user=ALICE) for _ in range(8)]
    all_end(crowd)
    store = public_path / "store"
    assert {task.answer for task in crowd} == {str(published(store, CONTENT))}
    assert len(origin.requests) == 1
    modes = {path: path.stat().st_mode for path in [store, *store.rglob("*")] if not path.is_symlink()}
    assert {path.stat().st_uid for path in modes} == {ALICE}
    assert [path for path, mode in modes.items() if mode & 0o022] == []
    assert store.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("umask", ["000", "002", "077"])
def test_whatever_the_umask(tasks: Tasks, public_path: Path, origin: Origin, umask: str) -> None:
    script = f'umask {umask}; exec "$@" {origin.url("/tool.sqsh")}'
    task = tasks.run("-c", script, "sh", *COMMAND, program=("sh",), user=ALICE)
    assert task.answer == str(published(public_path / "store", CONTENT))
    assert tasks.run("verify", user=ALICE).done() == 0
    assert [path for path in (public_path / "store").rglob("*") if path.lstat().st_mode & 0o022] == []


def test_without_a_setting_the_store_is_the_users_own(tasks: Tasks, origin: Origin) -> None:
    task = tasks.run(origin.url("/tool.sqsh"), user=ALICE, env={"STAGE_IMAGE_STORE": ""})
    assert task.answer == str(published(f"/var/tmp/stage-image-{ALICE}", CONTENT))


def test_somebody_elses_store_is_refused(tasks: Tasks, public_path: Path, origin: Origin) -> None:
    owned_by(MALLORY, public_path / "store", 0o755)
    task = tasks.run(origin.url("/tool.sqsh"), user=ALICE)
    assert (task.done(), task.out) == (75, "")
    assert f"belongs to uid {MALLORY}, not to uid {ALICE}" in task.err
    assert not list((public_path / "store").iterdir())
    assert origin.requests == []


def test_a_link_that_somebody_left_in_the_place_of_the_store(tasks: Tasks, public_path: Path, origin: Origin) -> None:
    trap = owned_by(MALLORY, public_path / "trap", 0o777)
    (public_path / "store").symlink_to(trap)
    os.lchown(public_path / "store", MALLORY, MALLORY)
    task = tasks.run(origin.url("/tool.sqsh"), user=ALICE)
    assert (task.done(), task.out) == (75, "")
    assert not list(trap.iterdir())


def test_root_does_not_use_a_users_store(tasks: Tasks, public_path: Path, origin: Origin) -> None:
    assert tasks.run(origin.url("/tool.sqsh"), user=ALICE).done() == 0
    for words in ((origin.url("/tool.sqsh"),), ("list",), ("prune",), ("doctor", "--fix")):
        task = tasks.run(*words)
        assert task.done() == 75, (words, task.err)
        assert f"belongs to uid {ALICE}, not to uid 0" in task.err + task.out
    assert published(public_path / "store", CONTENT).exists()


class TestAStoreOfRoots:
    """For everybody to read: a site stages images once for all users of a node."""

    def test_a_user_takes_what_it_holds(self, tasks: Tasks, public_path: Path, origin: Origin) -> None:
        pinned = f"{origin.url('/tool.sqsh')}@sha256:{sha256(CONTENT).hexdigest()}"
        assert tasks.run(pinned).done() == 0
        task = tasks.run(pinned, user=ALICE)
        assert task.answer == str(published(public_path / "store", CONTENT))
        command = ("--", "sh", "-c", 'sha256sum < "$STAGE_IMAGE_PATH"')
        ran = tasks.run("exec", "--runtime=none", "--mount=none", pinned, *command, user=ALICE)
        assert ran.answer == f"{sha256(CONTENT).hexdigest()}  -"
        assert len(origin.requests) == 1

    def test_what_it_lacks_goes_to_the_users_own(self, tasks: Tasks, origin: Origin) -> None:
        assert tasks.run("list").done() == 0
        task = tasks.run(origin.url("/tool.sqsh"), user=ALICE)
        assert task.answer == str(published(f"/var/tmp/stage-image-{ALICE}", CONTENT))

    def test_a_users_lease_keeps_roots_prune_away(self, tasks: Tasks, public_path: Path, origin: Origin) -> None:
        pinned = f"{origin.url('/tool.sqsh')}@sha256:{sha256(CONTENT).hexdigest()}"
        assert tasks.run(pinned, session=True).done() == 0
        command = ("exec", "--runtime=none", "--mount=none", pinned, "--", "sh", "-c", "echo up >&2; exec sleep 600")
        user = tasks.start(*command, user=ALICE, env={"SLURM_JOB_ID": "7"})
        user.says("up")
        assert tasks.run("prune").done() == 0
        assert published(public_path / "store", CONTENT).exists()
        user.kill()
        assert tasks.run("prune").done() == 0
        assert not published(public_path / "store", CONTENT).exists()

    def test_a_private_image_is_nobody_elses(self, tasks: Tasks, public_path: Path, origin: Origin) -> None:
        token = public_path / "token"
        token.write_text("secret\n")
        token.chmod(0o600)
        url = origin.put("/private.sqsh", CONTENT, Fault(authorization="Bearer secret"))
        pinned = f"{url}@sha256:{sha256(CONTENT).hexdigest()}"
        assert tasks.run(pinned, env={"STAGE_IMAGE_TOKEN_FILE": str(token)}).done() == 0
        task = tasks.run(pinned, user=ALICE)
        assert (task.done(), task.out) == (67, "")
        with pytest.raises(PermissionError):
            read_as(ALICE, published(public_path / "store", CONTENT))

    def test_a_user_changes_nothing_in_it(self, tasks: Tasks, public_path: Path, origin: Origin) -> None:
        assert tasks.run(origin.url("/tool.sqsh"), session=True).done() == 0
        for words in (("remove", "--force", origin.url("/tool.sqsh")), ("prune",), ("verify",), ("doctor", "--fix")):
            assert "a bug in" not in tasks.run(*words, user=ALICE).err
        assert published(public_path / "store", CONTENT).read_bytes() == CONTENT


@pytest.mark.parametrize("point", ["fetching", "fetched", "synced", "published", "seen"])
def test_a_users_death_at_any_point_is_made_good(tasks: Tasks, public_path: Path, origin: Origin, point: str) -> None:
    """Not the same as for root, whom no mode keeps from opening a file for writing."""
    url = origin.url("/tool.sqsh")
    dead = tasks.run(url, user=ALICE, env={"STAGE_IMAGE_TEST_CRASH_AT": point})
    assert dead.done() == -signal.SIGKILL
    task = tasks.run(url, user=ALICE)
    assert task.answer == str(published(public_path / "store", CONTENT))
    assert published(public_path / "store", CONTENT).read_bytes() == CONTENT
    assert not list((public_path / "store" / "partial").glob("*/*"))


def test_waiting_for_a_leader_of_ones_own(tasks: Tasks, public_path: Path, origin: Origin) -> None:
    stall = Stall(1 << 20)
    url = origin.put("/slow.sqsh", CONTENT, Fault(stall=stall, times=1))
    leader = tasks.start(url, user=ALICE)
    assert stall.reached.wait(30)
    waiters = [tasks.start(url, user=ALICE) for _ in range(3)]
    told(waiters)
    until(lambda: any((public_path / "store" / "partial").glob("*/*/data")), "some bytes")
    leader.kill()
    all_end(waiters)
    assert {task.answer for task in waiters} == {str(published(public_path / "store", CONTENT))}


def test_a_file_that_only_its_owner_may_read(tasks: Tasks, public_path: Path) -> None:
    mine = public_path / "mine.sqsh"
    mine.write_bytes(CONTENT)
    os.chown(mine, MALLORY, MALLORY)
    mine.chmod(0o600)
    task = tasks.run(str(mine), user=ALICE)
    assert (task.done(), task.out) == (67, "")
    assert "Permission denied" in task.err


def test_settings_that_others_could_have_written_are_not_believed(tasks: Tasks, public_path: Path) -> None:
    site = public_path / "site.toml"
    site.write_text('freshness = "never"\n')
    os.chown(site, MALLORY, MALLORY)
    task = tasks.run("config", user=ALICE, env={"STAGE_IMAGE_CONFIG": str(site)})
    assert task.done() == 64
    assert f"belongs to uid {MALLORY}" in task.err


def test_doctor_of_a_user(tasks: Tasks) -> None:
    task = tasks.run("doctor", "--json", user=ALICE)
    assert task.done() == 0, task.err
    assert next(row for row in json.loads(task.out) if row["name"] == "store")["ok"]


def read_as(user: int, path: Path) -> bytes:
    os.seteuid(user)
    try:
        return path.read_bytes()
    finally:
        os.seteuid(0)
