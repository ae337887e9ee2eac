"""A disk that is full, or becomes full, and a quota: told before the first byte where that can be known."""

from __future__ import annotations

import os
import subprocess
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Fault, Origin, Stall
from tests.support.tasks import Tasks, all_but_one_wait, all_end, image, published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
DISK = 16 * MIB

NO_RESERVE = {"STAGE_IMAGE_MIN_FREE": "0"}


@pytest.fixture
def small_disk(store_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB where the store is to be."""
    store_path.mkdir(mode=0o700)
    options = f"size={DISK},mode=0700,nosuid,nodev"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(store_path)], check=True)
    yield store_path
    subprocess.run(["umount", "--lazy", str(store_path)], check=True)


def free(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bfree * status.f_frsize


def staged(store: Path) -> set[str]:
    return {path.name for path in (store / "images").glob("sha256/*/*")}


@pytest.mark.needs("mount")
class TestASmallDisk:
    def test_too_large_is_told_before_the_first_byte(self, tmp_path: Path, small_disk: Path) -> None:
        content = image(20 * MIB)
        with Origin() as origin, Tasks(tmp_path, **NO_RESERVE) as tasks:
            # A rate, so that what the kernel buffers is not mistaken for what was wanted.
            task = tasks.run(origin.put("/tool.sqsh", content, Fault(rate=MIB)))
            assert task.done() == 74
            assert "20.0 MiB are needed, 1" in task.err
            assert "are free in " in task.err
            assert "prune" in task.err
            assert origin.sent("/tool.sqsh") < MIB
        assert free(small_disk) > DISK - MIB

    def test_the_reserve_is_kept(self, tmp_path: Path, small_disk: Path) -> None:
        with Origin() as origin, Tasks(tmp_path, STAGE_IMAGE_MIN_FREE="14MiB") as tasks:
            task = tasks.run(origin.put("/tool.sqsh", image(4 * MIB)))
            assert task.done() == 74
            assert "14.0 MiB of them kept free" in task.err
            assert tasks.run(origin.put("/small.sqsh", image(MIB))).done() == 0

    @pytest.mark.parametrize("framing", ["chunked", "close"])
    def test_full_in_the_middle_and_usable_afterwards(self, tmp_path: Path, small_disk: Path, framing: str) -> None:
        """Without a Content-Length nothing can be known before."""
        fault = Fault(framing="chunked" if framing == "chunked" else "close")
        small = image(MIB, seed=2)
        with Origin() as origin, Tasks(tmp_path, **NO_RESERVE) as tasks:
            task = tasks.run(origin.put("/tool.sqsh", image(20 * MIB), fault))
            assert task.done() == 74, task.err
            assert "are free" in task.err
            assert staged(small_disk) == set()
            assert tasks.run(origin.put("/small.sqsh", small)).answer == str(published(small_disk, small))
            assert tasks.run("verify").done() == 0

    def test_the_reserve_is_kept_from_an_image_of_unknown_size_too(self, tmp_path: Path, small_disk: Path) -> None:
        with Origin() as origin, Tasks(tmp_path, STAGE_IMAGE_MIN_FREE="8MiB") as tasks:
            crowd = tasks.many(2, origin.put("/tool.sqsh", image(20 * MIB), Fault(framing="chunked", rate=20 * MIB)))
            lowest = free(small_disk)
            while any(task.running for task in crowd):
                lowest = min(lowest, free(small_disk))
            all_end(crowd, 74)
        assert lowest >= 4 * MIB

    def test_prune_gives_back_what_the_dead_left(self, tmp_path: Path, small_disk: Path) -> None:
        with Origin() as origin, Tasks(tmp_path, **NO_RESERVE) as tasks:
            url = origin.put("/dead.sqsh", image(10 * MIB))
            tasks.run(url, env={"STAGE_IMAGE_TEST_CRASH_AT": "verified"})
            assert tasks.run("prune").done() == 0
        assert free(small_disk) > DISK - MIB

    def test_those_who_waited_are_told_the_same(self, tmp_path: Path, small_disk: Path) -> None:
        stall = Stall()
        with Origin() as origin, Tasks(tmp_path, **NO_RESERVE) as tasks:
            url = origin.put("/tool.sqsh", image(20 * MIB), Fault(stall=stall, rate=MIB))
            # With and without a setting: that decides whether they wait on the light or on the long way.
            crowd = [*tasks.many(4, url), *tasks.many(4, url, env={"STAGE_IMAGE_MIN_FREE": ""})]
            all_but_one_wait(crowd)
            stall.go.set()
            all_end(crowd, 74)
            assert len(origin.requests) == 1
        assert len({task.err.splitlines()[-2] for task in crowd}) == 1

    def test_the_crowd_of_a_disk_that_fills_up(self, tmp_path: Path, small_disk: Path) -> None:
        with Origin() as origin, Tasks(tmp_path, **NO_RESERVE) as tasks:
            crowd = tasks.many(8, origin.put("/tool.sqsh", image(20 * MIB), Fault(framing="chunked")))
            all_end(crowd, 74)

    def test_somebody_else_has_filled_it(self, tmp_path: Path, small_disk: Path) -> None:
        content = image(MIB)
        with Origin() as origin, Tasks(tmp_path, **NO_RESERVE) as tasks:
            url = origin.put("/tool.sqsh", content)
            assert tasks.run(url, env={"SLURM_JOB_ID": "1"}).done() == 0
            fill(small_disk / "lost+found")
            hit = tasks.run(url, env={"SLURM_JOB_ID": "1"})
            assert (hit.done(), hit.answer) == (0, str(published(small_disk, content))), hit.err
            task = tasks.run(origin.put("/other.sqsh", image(MIB, seed=2)))
            assert task.done() == 74, task.err
            assert "Traceback" not in task.err
            assert tasks.run("list").done() == 0
            assert tasks.run("doctor").done() == 0
            assert tasks.run("prune").done() == 0
            (small_disk / "lost+found").unlink()
            assert tasks.run("--retry", origin.url("/other.sqsh")).done() == 0

    def test_room_is_made_of_what_is_unused(self, tmp_path: Path, small_disk: Path) -> None:
        contents = [image(6 * MIB, seed=n) for n in range(3)]
        with Origin() as origin, Tasks(tmp_path, **NO_RESERVE) as tasks:
            urls = [origin.put(f"/{n}.sqsh", content) for n, content in enumerate(contents)]
            for url in urls:
                assert tasks.run(url, session=True).done() == 0
        assert staged(small_disk) == {sha256(content).hexdigest() for content in contents[1:]}

    def test_what_a_dead_leader_left_is_room_too(self, tmp_path: Path, small_disk: Path) -> None:
        """Its bytes are worth keeping for as long as nobody needs the space."""
        with Origin() as origin, Tasks(tmp_path, **NO_RESERVE) as tasks:
            url = origin.put("/dead.sqsh", image(10 * MIB))
            tasks.run(url, env={"STAGE_IMAGE_TEST_CRASH_AT": "verified"})
            assert free(small_disk) < 8 * MIB
            content = image(10 * MIB, seed=2)
            assert tasks.run(origin.put("/tool.sqsh", content)).answer == str(published(small_disk, content))


class TestAQuota:
    LIMIT = str(5 * MIB // 2)

    def test_it_evicts_the_longest_unused(self, tmp_path: Path, store_path: Path) -> None:
        contents = [image(seed=n) for n in range(4)]
        with Origin() as origin, Tasks(tmp_path, STAGE_IMAGE_MAX_SIZE=self.LIMIT) as tasks:
            done = [tasks.run(origin.put(f"/{n}.sqsh", content), session=True) for n, content in enumerate(contents)]
            assert [task.answer for task in done] == [str(published(store_path, content)) for content in contents]
            assert ["evicted" in task.err for task in done] == [False, False, True, True]
        assert staged(store_path) == {sha256(content).hexdigest() for content in contents[2:]}

    def test_but_never_what_is_leased(self, tmp_path: Path, store_path: Path) -> None:
        contents = [image(seed=n) for n in range(3)]
        with Origin() as origin, Tasks(tmp_path, STAGE_IMAGE_MAX_SIZE=self.LIMIT) as tasks:
            urls = [origin.put(f"/{n}.sqsh", content) for n, content in enumerate(contents)]
            for url in urls[:2]:
                assert tasks.run(url, env={"SLURM_JOB_ID": "1"}).done() == 0
            refused = tasks.run(urls[2], env={"SLURM_JOB_ID": "2"})
            assert refused.done() == 74
            assert "the quota is 2.5 MiB" in refused.err
            assert origin.sent("/2.sqsh") <= len(contents[2])
            assert staged(store_path) == {sha256(content).hexdigest() for content in contents[:2]}
            assert tasks.run("umount", "--scope", "slurm-1").done() == 0
            assert tasks.run("--retry", urls[2], env={"SLURM_JOB_ID": "2"}).done() == 0
        assert sha256(contents[2]).hexdigest() in staged(store_path)

    def test_an_image_beyond_the_whole_quota_evicts_nothing(self, tmp_path: Path, store_path: Path) -> None:
        small, huge = image(seed=1), image(4 * MIB, seed=2)
        with Origin() as origin, Tasks(tmp_path, STAGE_IMAGE_MAX_SIZE=self.LIMIT) as tasks:
            assert tasks.run(origin.put("/small.sqsh", small), session=True).done() == 0
            assert tasks.run(origin.put("/huge.sqsh", huge), session=True).done() == 74
        assert staged(store_path) == {sha256(small).hexdigest()}

    def test_under_pressure_from_several_jobs_at_once(self, tmp_path: Path, store_path: Path) -> None:
        """Each runs on its own image and finds it whole, whoever evicts what meanwhile."""
        contents = [image(seed=n) for n in range(6)]
        script = ("--", "sh", "-c", 'sha256sum < "$STAGE_IMAGE_PATH"')
        with Origin() as origin, Tasks(tmp_path, STAGE_IMAGE_MAX_SIZE=str(7 * MIB)) as tasks:
            urls = [origin.put(f"/{n}.sqsh", content) for n, content in enumerate(contents)]
            crowd = [
                tasks.start("exec", "--runtime=none", "--mount=none", url, *script, env={"SLURM_JOB_ID": str(n)})
                for n, url in enumerate(urls * 2)
            ]
            all_end(crowd)
            answers = [task.answer.split()[0] for task in crowd]
        assert answers == [sha256(content).hexdigest() for content in contents] * 2


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
