"""Directories and mounts of a job's own, on a real Slurm with the plugin: nobody else sees them, and nothing stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.slurm import Bed, slurm
from tests.support.slurm.pictures import picture
from tests.support.tasks import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("slurm", "nginx", "mksquashfs", "loop", "gcc", "make")

BASE = "/var/spool/private"
IMAGES = "/var/cache/images"
SITE = {"slurm.private": [f"/var/tmp={BASE}", f"/tmp={BASE}"], "slurm.images_at": IMAGES}
WAIT = "until [ -e {0} ]; do sleep 0.05; done"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    # The shortest life of a credential: a requeued job waits for its end.
    conf = {"AuthInfo": "cred_expire=5"}
    with slurm(tmp_path_factory.mktemp("bed"), nodes=2, hooks=True, spank=True, site=SITE, conf=conf) as bed:
        for node in bed.nodes:
            node.run("mkdir", IMAGES)
        yield bed


@pytest.fixture
def bed(shared: Bed) -> Iterator[Bed]:
    """Nothing may have been left, and no node be drained, after any of the tests."""
    yield shared
    shared.check_tidy()


def test_two_jobs_see_nothing_of_each_other(bed: Bed) -> None:
    node = bed.nodes[0]
    script = (
        "#!/bin/sh\nls -A /tmp /var/tmp\ntouch /tmp/of-$1 /var/tmp/of-$1 $1\n"
        + WAIT.format("go")
        + "\nls /tmp /var/tmp\n"
    )
    (bed.user.home / "private.sh").write_text(script, encoding="ascii")
    command = ("srun", "-w", "n1", "-n1", "--private-tmp", "sh", "private.sh")
    tasks = [bed.user.start(*command, name) for name in ("one", "two")]
    for name in ("one", "two"):
        until((bed.user.home / name).exists, f"job {name} to write")
    assert not node.view("/tmp/of-one").exists()
    assert len([line for line in node.leftovers() if BASE in line]) == 2
    (bed.user.home / "go").touch()
    assert [task.done() for task in tasks] == [0, 0], [task.err for task in tasks]
    assert [task.out.split() for task in tasks] == [
        ["/tmp:", "/var/tmp:", "/tmp:", f"of-{name}", "/var/tmp:", f"of-{name}"] for name in ("one", "two")
    ]


def test_who_does_not_ask_gets_none(bed: Bed) -> None:
    assert bed.user.run("srun", "-n1", "-w", "n1", "touch", "/tmp/for-all").code == 0
    assert bed.nodes[0].view("/tmp/for-all").exists()
    bed.nodes[0].run("rm", "/tmp/for-all")


def test_images_that_only_the_job_sees(bed: Bed, tmp_path: Path) -> None:
    urls = [bed.origin.put(f"{word}.sqsh", picture(tmp_path, word)) for word in ("red", "blue")]
    text = f"echo $STAGE_IMAGE_ROOT; cat {IMAGES}/1/word {IMAGES}/2/word; touch {IMAGES}/1/x 2>&- || echo read-only"
    options = ("srun", "-w", "n2", "-n1", "--private-tmp", f"--stage-image={','.join(urls)}")
    ran = bed.user.run(*options, "sh", "-c", text)
    assert ran.code == 0, ran.err
    lines = [line for line in ran.out.splitlines() if not line.startswith("stage-image: ")]
    assert lines == [f"{IMAGES}/1", "red", "blue", "read-only"]
    assert list(bed.nodes[1].view(IMAGES).iterdir()) == []


def test_requeued(bed: Bed) -> None:
    """Each run has directories of its own; those of the first are gone when the second begins."""
    script = f"""#!/bin/sh
ls -A /tmp >>runs
grep -o '{BASE[len("/var") :]}[^ ]*_tmp' /proc/self/mountinfo >>runs
touch /tmp/mine
echo end >>runs
[ -n "$SLURM_RESTART_COUNT" ] || sleep 1000
"""
    runs = bed.user.home / "runs"
    job = bed.sbatch(script, "-n1", "--requeue", "--private-tmp")
    until(lambda: runs.exists() and "end" in runs.read_text("ascii"), "the first run")
    bed.scontrol("requeue", job)
    bed.await_state(job, "PENDING")
    assert bed.leftovers() == []
    assert bed.await_job(job) == "COMPLETED", bed.output(job)
    text = runs.read_text("ascii")
    assert text.count("end") == 2
    assert "mine" not in text
    assert f".{job}.0/" in text
    assert f".{job}.1/" in text


def test_what_a_hostile_job_leaves_in_them(bed: Bed) -> None:
    """Links lead nowhere when they are removed with all the rest."""
    node = bed.nodes[0]
    node.run("sh", "-c", "mkdir -m 777 /var/tmp/kept && touch /var/tmp/kept/file")
    text = "cd /tmp; ln -s /var/tmp/kept there; mkdir -p a/b/c; ln -s ../../.. a/b/up; mkfifo f; chmod 000 a; ls -A"
    ran = bed.user.run("srun", "-w", "n1", "-n1", "--private-tmp", "sh", "-c", text)
    assert ran.code == 0, ran.err
    assert ran.out.split() == ["a", "f", "there"]
    bed.idle()
    assert bed.leftovers() == []
    assert node.view("/var/tmp/kept/file").exists()
    node.run("rm", "-r", "/var/tmp/kept")


def test_node_killed_and_back(bed: Bed) -> None:
    """The directories are on its disk, and the next Epilog takes them away."""
    node = bed.nodes[1]
    job = bed.sbatch(
        "#!/bin/sh\ntouch /tmp/file /var/tmp/file begun\nsleep 1000\n",
        "-w",
        "n2",
        "-n1",
        "--private-tmp",
        "--no-requeue",
    )
    until((bed.user.home / "begun").exists, f"job {job} to write")
    node.kill()
    assert bed.await_job(job) == "NODE_FAIL"
    node.start()
    node.run("mkdir", IMAGES)
    assert [path.name for path in node.view("/var/spool").glob("private.*")] == [f"private.{job}.0"]
    assert bed.user.run("srun", "-w", "n2", "true").code == 0
    bed.idle()
    assert bed.leftovers() == []


def test_array_with_private_directories(bed: Bed) -> None:
    job = bed.sbatch(
        "#!/bin/sh\nls -A /tmp\ntouch /tmp/file\n", "--array=0-9", "-n1", "--private-tmp", "--output=part-%a"
    )
    assert bed.await_job(job) == "COMPLETED"
    assert [(bed.user.home / f"part-{number}").read_text("ascii") for number in range(10)] == [""] * 10
