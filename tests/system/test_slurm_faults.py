"""What goes wrong around a Prolog on a real Slurm: no node drains, every job runs or is told why, and nothing stays."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.slurm import Bed, Node, slurm
from tests.support.slurm.pictures import READ, picture
from tests.support.slurm.site import STORE
from tests.support.tasks import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("slurm", "nginx", "mksquashfs", "loop")

BUDGET = 1.0
SITE = {"slurm.budget": f"{BUDGET:g}s", "deadline": "3s", "failure_backoff": "0s"}
SLOW = 8.0
"""Mbit/s of the origin, at which two nodes wait 4 s for an image."""
SIZE = 2 << 20
TASK = f'if [ -n "$STAGE_IMAGE_ROOT" ]; then {READ}; else echo without; fi'
SCRIPT = f"#!/bin/sh\nsrun --ntasks-per-node=1 sh -c '{TASK}'\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with slurm(tmp_path_factory.mktemp("bed"), nodes=2, hooks=True, site=SITE) as bed:
        yield bed


@pytest.fixture
def bed(shared: Bed) -> Iterator[Bed]:
    """Nothing may have been left, and no node be drained, after any of the tests."""
    yield shared
    shared.check_tidy()


@pytest.fixture
def url(bed: Bed, word: str, tmp_path: Path) -> str:
    return bed.origin.put(f"{word}.sqsh", picture(tmp_path, word, SIZE))


@contextmanager
def slowly(bed: Bed, rate: float = SLOW) -> Iterator[None]:
    bed.shape(bed.origin.host, rate)
    try:
        yield
    finally:
        bed.shape(bed.origin.host, 0)


def fetching(bed: Bed, *nodes: Node) -> None:
    """Return when each of these nodes has begun to receive from the origin."""
    for node in nodes or bed.nodes:
        until(lambda node=node: any(node.store.glob("partial/*/*/data")), f"{node} to fetch")  # type: ignore[misc]


def bodies(bed: Bed, url: str) -> int:
    """Return how many bytes the origin has sent of an image."""
    return sum(request.size for request in bed.origin.requests if url.endswith(request.path))


def test_prolog_over_its_budget(bed: Bed, url: str, word: str) -> None:
    with slowly(bed):
        job = bed.sbatch(SCRIPT, "-N2", f"--comment=stage-image={url}")
        assert bed.await_job(job) == "COMPLETED", bed.output(job)
    lines = [line for line in bed.output(job).splitlines() if not line.startswith("stage-image: ")]
    assert lines == [word] * 2
    assert bodies(bed, url) == 2 * (bed.origin.host.folder / "www" / f"{word}.sqsh").stat().st_size


def test_tasks_that_ask_for_what_the_prolog_still_fetches(bed: Bed, url: str, word: str) -> None:
    """Not one byte is fetched twice, however many ask beside it."""
    script = f"#!/bin/sh\nsrun --ntasks-per-node=4 stage-image exec --runtime=none {url} -- sh -c '{READ}'\n"
    with slowly(bed):
        job = bed.sbatch(script, "-N2", "--ntasks-per-node=4", f"--comment=stage-image={url}")
        assert bed.await_job(job) == "COMPLETED", bed.output(job)
    assert bed.output(job).splitlines().count(word) == 8
    assert bodies(bed, url) == 2 * (bed.origin.host.folder / "www" / f"{word}.sqsh").stat().st_size


def test_origin_down(bed: Bed, url: str) -> None:
    bed.origin.stop()
    try:
        job = bed.sbatch(SCRIPT, "-N2", f"--comment=stage-image={url}")
        assert bed.await_job(job) == "COMPLETED", bed.output(job)
    finally:
        bed.origin.start()
    lines = bed.output(job).splitlines()
    assert lines.count("without") == 2
    assert any("stage-image: the Prolog could not stage it" in line and url in line for line in lines), lines


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("http://10.79.0.1/there-is-no-such.sqsh", "404"),
        ("http://elsewhere.example.org/tool.sqsh", "is not what this site stages"),
        ("/etc/passwd", "is not what this site stages"),
        ("gopher://10.79.0.1/tool.sqsh", "gopher"),
    ],
)
def test_bad_reference(bed: Bed, reference: str, message: str) -> None:
    job = bed.sbatch(SCRIPT, "-N2", f"--comment=stage-image={reference}")
    assert bed.await_job(job) == "COMPLETED", bed.output(job)
    lines = bed.output(job).splitlines()
    assert lines.count("without") == 2
    assert any(line.startswith("stage-image: ") and message in line for line in lines), lines


# Slurm itself takes no comment of more than 1024 characters: MAX_JOB_COMMENT of job_mgr.c.
HOSTILE = (
    "stage-image=",
    "stage-image=;;;,,,",
    "stage-image=$(touch /tmp/struck)`touch /tmp/struck`;touch /tmp/struck;|touch /tmp/struck",
    "stage-image=http://10.79.0.1/a\nexport LD_PRELOAD=/home/alice/evil.so\nready",
    "stage-image=http://root:secret@10.79.0.1/a.sqsh",
    "stage-image=http://10.79.0.1/../../../../etc/shadow",
    "stage-image=http://10.79.0.1/%2e%2e/%00/a.sqsh",
    "stage-image=--help,-x,--store=/etc",
    "stage-image=" + ",".join(f"http://10.79.0.1/{number}.sqsh" for number in range(40)),
    "stage-image=http://10.79.0.1/" + "a" * 990,
    "stage-image=\x1b]0;title\x07\"'\\\u202e",
    '{"stage-image": ["http://10.79.0.1/a.sqsh", {"a": [[[[]]]]}]}',
)


def test_hostile_comments(bed: Bed) -> None:
    text = 'echo "[${LD_PRELOAD-none} ${STAGE_IMAGE_ROOT-none}]"'
    ran = [bed.user.start("srun", "-N2", "-n2", f"--comment={comment}", "sh", "-c", text) for comment in HOSTILE]
    assert [task.done() for task in ran] == [0] * len(HOSTILE), [task.err for task in ran]
    for task in ran:
        # Of lines longer than 1024 characters, srun mixes the parts of several tasks.
        assert task.out.count("[none none]") == 2, task.out
        assert "secret" not in task.out
    assert [node for node in bed.nodes if node.view("/tmp/struck").exists()] == []


def test_scancel_in_the_download(bed: Bed, url: str) -> None:
    with slowly(bed, SLOW / 4):
        job = bed.sbatch(SCRIPT, "-N2", f"--comment=stage-image={url}")
        fetching(bed)
        assert bed.user.run("scancel", job).code == 0
        assert bed.await_job(job) == "CANCELLED"
        assert bed.leftovers() == []
    ran = bed.user.run("srun", "-N2", f"--comment=stage-image={url}", "sh", "-c", TASK)
    assert "without" not in ran.out


def test_scancel_while_the_origin_is_silent(bed: Bed, url: str) -> None:
    bed.origin.host.freeze()
    try:
        job = bed.sbatch(SCRIPT, "-N2", f"--comment=stage-image={url}")
        bed.await_state(job, "RUNNING")
        assert bed.user.run("scancel", job).code == 0
        assert bed.await_job(job) == "CANCELLED"
        assert bed.leftovers() == []
    finally:
        bed.origin.host.thaw()


def test_slurmd_restarted_while_a_job_has_its_image(bed: Bed, url: str, word: str) -> None:
    go, told = bed.user.home / f"{word}.go", bed.user.home / f"{word}.told"
    script = f"#!/bin/sh\n{READ} >{told.name}\nuntil [ -e {go.name} ]; do sleep 0.05; done\n{READ}\n"
    job = bed.sbatch(script, "-w", "n2", f"--comment=stage-image={url}")
    until(lambda: told.exists() and told.read_text("ascii") == f"{word}\n", "the job to read")
    bed.nodes[1].stop_daemon()
    bed.nodes[1].serve()
    assert bed.user.run("srun", "-w", "n2", "true").code == 0
    go.touch()
    assert bed.await_job(job) == "COMPLETED", bed.output(job)
    assert bed.output(job).splitlines()[-1] == word


def test_node_killed_in_the_download_and_back(bed: Bed, url: str) -> None:
    node = bed.nodes[1]
    with slowly(bed, SLOW / 4):
        job = bed.sbatch(SCRIPT, "-w", f"{node}", "--no-requeue", f"--comment=stage-image={url}")
        fetching(bed, node)
        node.kill()
        assert bed.await_job(job) == "NODE_FAIL"
    node.start()
    ran = bed.user.run("srun", "-w", f"{node}", f"--comment=stage-image={url}", "sh", "-c", TASK)
    assert ran.code == 0, ran.err
    assert "without" not in ran.out


def test_node_killed_with_the_image_in_use_and_back(bed: Bed, url: str, word: str) -> None:
    node = bed.nodes[0]
    told = bed.user.home / f"{word}.told"
    script = f"#!/bin/sh\n{READ} >{told.name}\nsleep 1000\n"
    job = bed.sbatch(script, "-w", f"{node}", "--no-requeue", f"--comment=stage-image={url}")
    until(lambda: told.exists() and told.read_text("ascii") == f"{word}\n", "the job to read")
    node.kill()
    assert bed.await_job(job) == "NODE_FAIL"
    node.start()
    # What was the dead job's is taken back by the next job's Epilog.
    assert bed.user.run("srun", "-w", f"{node}", "true").code == 0
    bed.idle()
    assert bed.leftovers() == []
    ran = bed.user.run("srun", "-w", f"{node}", f"--comment=stage-image={url}", "sh", "-c", READ)
    assert ran.out.splitlines()[-1] == word, ran.err
    assert bodies(bed, url) == (bed.origin.host.folder / "www" / f"{word}.sqsh").stat().st_size


def test_full_disk(bed: Bed, url: str) -> None:
    for node in bed.nodes:
        node.run("mount", "-t", "tmpfs", "-o", "mode=755,size=1m", "tmpfs", STORE)
    try:
        job = bed.sbatch(SCRIPT, "-N2", f"--comment=stage-image={url}")
        assert bed.await_job(job) == "COMPLETED", bed.output(job)
    finally:
        for node in bed.nodes:
            node.run("umount", STORE)
    lines = bed.output(job).splitlines()
    assert lines.count("without") == 2
    assert any(line.startswith("stage-image: ") and "are needed" in line for line in lines), lines


def test_nodes_without_the_program(bed: Bed, url: str) -> None:
    for node in bed.nodes:
        node.run("mv", "/usr/local/bin/stage-image", "/usr/local/bin/mislaid")
    try:
        job = bed.sbatch(SCRIPT, "-N2", f"--comment=stage-image={url}")
        assert bed.await_job(job) == "COMPLETED", bed.output(job)
    finally:
        for node in bed.nodes:
            node.run("mv", "/usr/local/bin/mislaid", "/usr/local/bin/stage-image")
    assert bed.output(job).splitlines() == ["without"] * 2
