"""Jobs with directories and images in a namespace of their own: the real hooks, the real plugin, a real Slurm."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.slurm import Bed, slurm
from tests.support.slurm.pictures import picture
from tests.support.tasks import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.slurm import Machine

pytestmark = pytest.mark.needs("slurm", "nginx", "gcc", "make", "mksquashfs", "loop")

SITE = {
    "slurm.private": ["/dev/shm=/var/tmp/base/private", "/var/tmp=/var/tmp/base/private"],
    "slurm.images_at": "/media",
}
BASE = "/var/tmp/base"
STAY = """#!/bin/sh
mkdir -p /var/tmp/deep/er
ls -A /var/tmp /dev/shm >seen.new
mv seen.new seen.$SLURM_RESTART_COUNT
exec sleep 300
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with slurm(tmp_path_factory.mktemp("bed"), nodes=2, hooks=True, spank=True, site=SITE) as bed:
        for node in bed.nodes:
            node.run("mkdir", BASE)
        yield bed


@pytest.fixture(scope="module")
def urls(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    return [bed.origin.put(f"{word}.sqsh", picture(folder, word)) for word in ("one", "two")]


@pytest.fixture(autouse=True)
def _nothing_of_a_job_stays(bed: Bed) -> Iterator[None]:
    yield
    assert bed.drained() == []
    bed.idle()
    assert bed.leftovers() == []
    assert [bases(node) for node in bed.nodes] == [[], []]


def bases(node: Machine) -> list[str]:
    return node.run("ls", BASE).split()


def test_images_lie_where_the_site_wants_them_and_only_the_job_sees_them(bed: Bed, urls: list[str]) -> None:
    text = "cat $STAGE_IMAGE_ROOT/word $STAGE_IMAGE_ROOT_2/word; touch /media/1/x; touch /var/tmp/x; ls /var/tmp"
    ran = bed.user.run("srun", "-N2", f"--stage-image={','.join(urls)}", "--private-tmp", "sh", "-c", text)
    assert ran.code == 0, ran.err
    assert sorted(ran.out.split()) == sorted(["one", "two", "x"] * 2)
    assert ran.err.count("Read-only file system") == 2
    assert [node.run("ls", "/media") for node in bed.nodes] == ["", ""]


def test_images_alone_get_a_namespace_too(bed: Bed, urls: list[str]) -> None:
    ran = bed.user.run(
        "srun", "-w", "n1", f"--stage-image={urls[1]}", "sh", "-c", "cat /media/1/word; ls -d /var/tmp/base"
    )
    assert (ran.code, ran.out) == (0, "two\n/var/tmp/base\n"), ran.err


def test_private_directories_are_for_those_who_ask(bed: Bed) -> None:
    ran = bed.user.run("srun", "-w", "n1", "ls", "-d", BASE)
    assert (ran.code, ran.out) == (0, f"{BASE}\n")


def test_a_requeued_job_begins_anew_and_leaves_nothing(bed: Bed) -> None:
    """On another node: slurmd 22.05, made to start a job again at once on the same one, may leave out its Prolog."""
    job = bed.sbatch(STAY, "-w", "n1", "--private-tmp", "--requeue")
    for run, node in enumerate(bed.nodes):
        seen = bed.user.home / f"seen.{run or ''}"
        until(seen.exists, f"run {run} of the job")
        assert seen.read_text("ascii") == "/dev/shm:\n\n/var/tmp:\ndeep\n"
        assert bases(node) == [f"private.{job}.{run}"]
        if run == 0:
            bed.scontrol("requeue", job)
            bed.await_state(job, "PENDING")
            bed.idle()
            assert bases(node) == []
            bed.scontrol("update", f"JobId={job}", "ReqNodeList=n2", "StartTime=now")
    assert bed.user.run("scancel", job).code == 0
    bed.await_job(job)
    for path in bed.user.home.glob("seen.*"):
        path.unlink()


def test_what_a_power_failure_left_goes_with_the_next_job(bed: Bed) -> None:
    node = bed.nodes[1]
    job = bed.sbatch(STAY, "-w", "n2", "--private-tmp", "--no-requeue")
    until(lambda: (bed.user.home / "seen.").exists() and bases(node) == [f"private.{job}.0"], "the job to run")
    node.kill()
    node.start()
    assert bases(node) == [f"private.{job}.0"]
    assert bed.user.run("srun", "-w", "n2", "true").code == 0
    bed.idle()


def test_a_mount_that_the_user_left_does_not_hold_it(bed: Bed, urls: list[str]) -> None:
    """A FUSE server that escaped Slurm keeps the namespace, but not the directory nor the node."""
    (bed.user.home / "image.sqsh").write_bytes(picture(bed.user.home / "p", "mine"))
    script = "#!/bin/sh\nmkdir /var/tmp/m\nsetsid squashfuse_ll image.sqsh /var/tmp/m\ncat /var/tmp/m/word\n"
    job = bed.sbatch(script, "-w", "n1", "--private-tmp")
    assert bed.await_job(job) == "COMPLETED"
    assert bed.output(job) == "mine\n"
    bed.idle()
    assert bases(bed.nodes[0]) == []
    subprocess.run(("rm", "-r", str(bed.user.home / "p")), check=True)
