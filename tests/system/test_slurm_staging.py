"""Cold starts on a real Slurm: 4 nodes with 16 tasks each, and the origin sends the image as often as it has to."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.slurm import Bed, slurm
from tests.support.slurm.pictures import READ, picture
from tests.support.slurm.site import STORE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("slurm", "nginx", "mksquashfs", "loop")

NODES, TASKS = 4, 16
SITE = {"runtime": "none", "cluster.linger": "1s", "cluster.session_timeout": "2s"}
PATIENT = {"MessageTimeout": "60", "TCPTimeout": "20"}
"""64 interpreters that start at once keep a small machine from answering for longer than Slurm usually waits."""
CLUSTER = pytest.param(True, marks=pytest.mark.needs("zookeeper"), id="zookeeper")


@pytest.fixture(scope="module", params=[pytest.param(False, id="alone"), CLUSTER])
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    folder = tmp_path_factory.mktemp("bed")
    zookeeper: bool = request.param
    with slurm(folder, nodes=NODES, cpus=TASKS, hooks=True, zookeeper=zookeeper, site=SITE, conf=PATIENT) as bed:
        yield bed


@pytest.fixture
def url(bed: Bed, word: str, tmp_path: Path) -> str:
    return bed.origin.put(f"{word}.sqsh", picture(tmp_path, word))


def each_task(word: str) -> Counter[str]:
    return Counter({word: NODES * TASKS})


def sent(bed: Bed, url: str) -> Counter[str]:
    """Return how many times the origin has sent the body of an image, by node."""
    name = url.rpartition("/")[2]
    size = (bed.origin.host.folder / "www" / name).stat().st_size
    bodies = [request for request in bed.origin.requests if request.path == f"/{name}" and request.size]
    assert sum(request.size for request in bodies) == size * len({request.client for request in bodies})
    return Counter(request.client for request in bodies)


def one_download_each(bed: Bed, url: str) -> bool:
    """Whether each node fetched it once, or, where they share, one of them."""
    return sorted(sent(bed, url).values()) == [1] * (1 if bed.zookeeper else NODES)


def test_cold_with_prolog(bed: Bed, url: str, word: str) -> None:
    script = f"#!/bin/sh\nsrun --ntasks-per-node={TASKS} sh -c '{READ}'\n"
    job = bed.sbatch(script, f"-N{NODES}", f"--ntasks-per-node={TASKS}", f"--comment=stage-image={url}")
    assert bed.await_job(job) == "COMPLETED", bed.output(job)
    lines = bed.output(job).splitlines()
    assert Counter(line for line in lines if not line.startswith("stage-image: ")) == each_task(word)
    assert one_download_each(bed, url)
    assert bed.drained() == []
    assert bed.leftovers() == []


def test_cold_without_prolog(bed: Bed, url: str, word: str) -> None:
    script = f"""#!/bin/sh
srun --ntasks-per-node={TASKS} stage-image exec {url} -- sh -c '{READ}'
srun --ntasks-per-node=1 stage-image umount {url}
"""
    job = bed.sbatch(script, f"-N{NODES}", f"--ntasks-per-node={TASKS}", "--error=errors")
    assert bed.await_job(job) == "COMPLETED", (bed.user.home / "errors").read_text("utf-8")
    assert Counter(bed.output(job).splitlines()) == each_task(word)
    assert one_download_each(bed, url)
    assert bed.leftovers() == []


def test_prolog_and_command_are_one_download(bed: Bed, url: str, word: str) -> None:
    command = ("stage-image", "exec", url, "--", "sh", "-c", READ)
    ran = bed.user.run("srun", f"-N{NODES}", "-n4", f"--comment=stage-image={url}", *command)
    assert ran.code == 0, ran.err
    assert [line for line in ran.out.splitlines() if not line.startswith("stage-image: ")] == [word] * 4
    assert one_download_each(bed, url)
    assert bed.leftovers() == []


def test_a_second_job_downloads_nothing(bed: Bed, url: str, word: str) -> None:
    options = ("srun", f"-N{NODES}", f"--comment=stage-image={url}", "sh", "-c", READ)
    assert bed.user.run(*options).code == 0
    before = sent(bed, url)
    ran = bed.user.run(*options)
    assert Counter(ran.out.splitlines())[word] == NODES, ran.err
    assert sent(bed, url) == before
    assert bed.leftovers() == []


def test_who_asks_for_nothing_gets_nothing(bed: Bed) -> None:
    before = {path for node in bed.nodes for path in node.store.rglob("*")}
    ran = bed.user.run("srun", f"-N{NODES}", "--comment=an image, please", "env")
    assert ran.code == 0, ran.err
    assert "STAGE_IMAGE" not in ran.out
    assert {path for node in bed.nodes for path in node.store.rglob("*")} == before
    assert bed.leftovers() == []


def test_the_switch_turns_all_hooks_off(bed: Bed, url: str) -> None:
    for node in bed.nodes:
        node.run("touch", "/etc/stage-image/disabled")
    try:
        ran = bed.user.run("srun", f"-N{NODES}", f"--comment=stage-image={url}", "env")
    finally:
        for node in bed.nodes:
            node.run("rm", "/etc/stage-image/disabled")
    assert (ran.code, ran.err) == (0, "")
    assert "STAGE_IMAGE" not in ran.out
    assert sent(bed, url) == Counter()
    assert bed.leftovers() == []


def test_the_image_is_in_the_sites_store_and_the_users_to_read_only(bed: Bed, url: str) -> None:
    text = (
        'echo "$STAGE_IMAGE_PATH" && head -c4 "$STAGE_IMAGE_PATH" && ! touch "$STAGE_IMAGE_PATH" "$STAGE_IMAGE_ROOT/x"'
    )
    ran = bed.user.run("srun", "-N1", f"--comment=stage-image={url}", "sh", "-c", text)
    assert ran.code == 0, ran.err
    path, magic = ran.out.splitlines()[-2:]
    assert path.startswith(f"{STORE}/images/sha256/")
    assert magic == "hsqs"
    assert bed.leftovers() == []
